//! A server that meets its end while it starts.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

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

/// How a start went.
#[derive(Debug)]
pub enum Listening {
    /// It takes connections.
    Yes,
    /// It ended so, and said this.
    Ended(ExitStatus, String),
}

/// A server that is starting. Killed when it is dropped.
pub struct Starting {
    child: Child,
    stderr: Option<BufReader<ChildStderr>>,
}

impl Starting {
    /// Starts on `store` by `command`; `None` when there is no such command.
    pub fn spawn(command: &mut Command, store: &Path, args: &[&str]) -> Option<Self> {
        let spawned = command
            .args(["serve", "--listen", "127.0.0.1:0", "--min-free", "0"])
            .args(["--data", arg(store)])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            spawned => spawned.unwrap(),
        };
        let stderr = Some(BufReader::new(child.stderr.take().expect("piped")));
        Some(Self { child, stderr })
    }

    /// Starts on `store`, and gives it back at this moment.
    pub fn until(moment: Moment, store: &Path, args: &[&str]) -> Self {
        let mut starting = Self::spawn(&mut trialog(), store, args).expect("the binary is there");
        match moment {
            Moment::Spawned => {}
            Moment::Locked => starting.wait_until_locked(store),
            Moment::Spoken => {
                let mut line = String::new();
                starting.stderr().read_line(&mut line).expect("a line");
                assert!(!line.is_empty(), "it ended without a word");
            }
        }
        starting
    }

    /// Waits until it listens, or has ended.
    pub fn listening(&mut self) -> Listening {
        match until_it_listens(self.stderr()) {
            None => Listening::Yes,
            Some(said) => Listening::Ended(self.child.wait().expect("it is our child"), said),
        }
    }

    /// Waits until it is stopped by a signal, listens or has ended; says whether it is stopped.
    /// What it says is gone then.
    pub fn is_stopped(&mut self) -> bool {
        let mut stderr = self.stderr.take().expect("not taken twice");
        let reading = std::thread::spawn(move || drop(until_it_listens(&mut stderr)));
        let pid = Pid::from_raw(self.child.id() as i32).expect("not zero");
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        while !reading.is_finished() {
            if waitid(WaitId::Pid(pid), stopped).unwrap().is_some() {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// As [`Self::kill`]; whoever shares its stderr has ended, too, when this returns.
    pub fn kill_and_wait_for_tracer(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
        self.stderr().read_to_end(&mut Vec::new()).expect("a pipe");
    }

    fn stderr(&mut self) -> &mut BufReader<ChildStderr> {
        self.stderr.as_mut().expect("not taken")
    }

    fn wait_until_locked(&mut self, store: &Path) {
        let pid = self.child.id().to_string();
        loop {
            let holder = std::fs::read_to_string(store.join("LOCK")).unwrap_or_default();
            if holder.trim() == pid {
                return;
            }
            assert_eq!(self.child.try_wait().unwrap(), None, "it ended by itself");
            std::thread::yield_now();
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _may_have_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Reads until it says that it listens; gives back what it said if it ends before.
fn until_it_listens(stderr: &mut impl BufRead) -> Option<String> {
    let mut said = String::new();
    let mut seen = 0;
    while stderr.read_line(&mut said).expect("UTF-8") > 0 {
        if said[seen..].contains("address=") {
            return None;
        }
        seen = said.len();
    }
    Some(said)
}
