//! What is counted of uploads to an archive.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Counter;
use super::text::Text;

/// Uploads to an archive.
#[derive(Debug, Default)]
pub struct ArchiveMetrics {
    /// Segments that were sent and seen whole there.
    pub segments: Counter,
    /// Their bytes.
    pub bytes: Counter,
    /// Attempts that failed.
    pub failures: Counter,
    /// Local copies that were let go.
    pub let_go: Counter,
    /// Reads of what is in the archive alone.
    pub reads: Counter,
    /// Their bytes.
    pub read_bytes: Counter,
    /// Those that failed.
    pub read_failures: Counter,
    local_bytes: AtomicU64,
    behind_segments: AtomicU64,
    behind_bytes: AtomicU64,
}

impl ArchiveMetrics {
    /// Takes note of what was still to be sent when it was looked at last.
    pub fn set_behind(&self, segments: u64, bytes: u64) {
        self.behind_segments.store(segments, Ordering::Relaxed);
        self.behind_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Takes note of the bytes of sealed segments that are here.
    pub fn set_local(&self, bytes: u64) {
        self.local_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Writes them.
    pub fn write(&self, text: &mut Text) {
        let help = "Segments uploaded to the archive and seen whole there.";
        text.counter("trialog_archive_segments_total", help)
            .value(self.segments.get());
        let help = "Bytes of segments uploaded to the archive.";
        text.counter("trialog_archive_bytes_total", help)
            .value(self.bytes.get());
        let help = "Attempts to reach the archive or to upload to it that failed.";
        text.counter("trialog_archive_failures_total", help)
            .value(self.failures.get());
        let help = "Local copies of archived segments that were let go.";
        text.counter("trialog_archive_let_go_segments_total", help)
            .value(self.let_go.get());
        let help = "Bytes of sealed segments that are on the local disk.";
        text.gauge("trialog_archive_local_bytes", help)
            .value(self.local_bytes.load(Ordering::Relaxed));
        let help = "Requests to the archive for entries that are there alone.";
        text.counter("trialog_archive_reads_total", help)
            .value(self.reads.get());
        let help = "Bytes read by them.";
        text.counter("trialog_archive_read_bytes_total", help)
            .value(self.read_bytes.get());
        let help = "Such requests that failed.";
        text.counter("trialog_archive_read_failures_total", help)
            .value(self.read_failures.get());
        let help = "Closed segments that are not in the archive yet.";
        text.gauge("trialog_archive_behind_segments", help)
            .value(self.behind_segments.load(Ordering::Relaxed));
        let help = "Bytes of closed segments that are not in the archive yet.";
        text.gauge("trialog_archive_behind_bytes", help)
            .value(self.behind_bytes.load(Ordering::Relaxed));
    }
}
