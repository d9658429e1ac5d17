//! A server that meets its end while it starts.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::server::{arg, trialog};

/// When a starting server meets its end.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// At once.
    Spawned,
    /// When it has the folder, and recovers.
    Locked,
    /// When it has said something: the segments are up to date, the journal is renewed.
    Spoken,
}

impl Moment {
    /// Another one for each number.
    pub fn of(n: u64) -> Self {
        [Self::Locked, Self::Spoken, Self::Spawned][n as usize % 3]
    }
}

/// A server that is starting. Killed when it is dropped.
pub struct Starting(Child);

impl Starting {
    /// Starts on `store`, and gives it back at this moment.
    pub fn until(moment: Moment, store: &Path, args: &[&str]) -> Self {
        let child = trialog()
            .args(["serve", "--listen", "127.0.0.1:0", "--free-bytes", "0"])
            .args(["--data", arg(store)])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut starting = Self(child);
        match moment {
            Moment::Spawned => {}
            Moment::Locked => starting.wait_until_locked(store),
            Moment::Spoken => {
                let stderr = starting.0.stderr.take().expect("piped");
                let mut line = String::new();
                BufReader::new(stderr).read_line(&mut line).expect("a line");
                assert!(!line.is_empty(), "it ended without a word");
            }
        }
        starting
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(mut self) {
        self.0.kill().expect("it is our child");
        self.0.wait().expect("it is our child");
    }

    fn wait_until_locked(&mut self, store: &Path) {
        let pid = self.0.id().to_string();
        loop {
            let holder = std::fs::read_to_string(store.join("LOCK")).unwrap_or_default();
            if holder.trim() == pid {
                return;
            }
            assert_eq!(self.0.try_wait().unwrap(), None, "it ended by itself");
            std::thread::yield_now();
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _may_have_ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}
