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
    behind_segments: AtomicU64,
    behind_bytes: AtomicU64,
}

impl ArchiveMetrics {
    /// Takes note of what was still to be sent when it was looked at last.
    pub fn set_behind(&self, segments: u64, bytes: u64) {
        self.behind_segments.store(segments, Ordering::Relaxed);
        self.behind_bytes.store(bytes, Ordering::Relaxed);
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
        let help = "Closed segments that are not in the archive yet.";
        text.gauge("trialog_archive_behind_segments", help)
            .value(self.behind_segments.load(Ordering::Relaxed));
        let help = "Bytes of closed segments that are not in the archive yet.";
        text.gauge("trialog_archive_behind_bytes", help)
            .value(self.behind_bytes.load(Ordering::Relaxed));
    }
}
