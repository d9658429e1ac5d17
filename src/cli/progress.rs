//! How far a long command has come, on a terminal. Elsewhere it says nothing.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::FileTypeExt;
use std::time::{Duration, Instant};

/// The line is written anew after this, if it was time for it at all.
const PERIOD: Duration = Duration::from_millis(100);
/// The clock is asked once in so many bytes.
const BYTES_BETWEEN: u64 = 1 << 20;
const BAR_LEN: u64 = 30;
const ERASE_LINE: &str = "\r\x1b[K";

/// A line on stderr that says how much of something is done.
pub struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    looked_at: u64,
    begun: Instant,
    shown: Option<Instant>,
    is_wanted: bool,
}

impl Progress {
    /// Of `total` bytes. Only a line `is_wanted` is shown: see [`is_watched`].
    pub fn new(what: &'static str, total: u64, is_wanted: bool) -> Self {
        Self {
            what,
            total,
            done: 0,
            looked_at: 0,
            begun: Instant::now(),
            shown: None,
            is_wanted,
        }
    }

    /// So many bytes more are done.
    pub fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if !self.is_wanted || self.done - self.looked_at < BYTES_BETWEEN {
            return;
        }
        self.looked_at = self.done;
        if self.shown.unwrap_or(self.begun).elapsed() >= PERIOD {
            self.shown = Some(Instant::now());
            let line = line(self.what, self.done, self.total, self.begun.elapsed());
            // Nobody need be there to read it.
            let _unread = write!(io::stderr().lock(), "{ERASE_LINE}{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _unread = write!(io::stderr().lock(), "{ERASE_LINE}");
        }
    }
}

/// Whether somebody sees how far it has come, while the data goes to `out`: stderr is a terminal, and
/// the data goes neither to one, among whose lines ours would be, nor into a pipe, behind which
/// another program may write to it.
pub fn is_watched(out: &File) -> bool {
    let is_pipe = out
        .metadata()
        .is_ok_and(|metadata| metadata.file_type().is_fifo());
    io::stderr().is_terminal() && !out.is_terminal() && !is_pipe
}

fn line(what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let done = done.min(total);
    let filled = (done * BAR_LEN).checked_div(total).unwrap_or(BAR_LEN);
    let bar: String = (0..BAR_LEN)
        .map(|at| if at < filled { '#' } else { '-' })
        .collect();
    let percent = (done * 100).checked_div(total).unwrap_or(100);
    let seconds = elapsed.as_secs_f64();
    let rate = done as f64 / seconds.max(1e-9);
    let left = (total - done) as f64 / rate.max(1.0);
    format!(
        "{what} [{bar}] {percent:3} % of {:.1} MB, {:.0} MB/s, {left:.0} s left",
        total as f64 / 1e6,
        rate / 1e6,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is_and_how_long_it_takes() {
        let second = Duration::from_secs(1);
        assert_eq!(
            line("writing", 250_000_000, 1_000_000_000, second),
            "writing [#######-----------------------]  25 % of 1000.0 MB, 250 MB/s, 3 s left"
        );
        assert!(line("writing", 7, 5, second).contains("] 100 % of "));
        assert!(line("writing", 0, 0, second).contains("] 100 % of "));
    }
}
