//! One fault in a server that runs: what is answered meanwhile, and what the next start has.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::ledger::{Ledger, Outcome};
use crate::load::{assert_some_are_read, assert_whole, body, post};
use crate::rig::slug;
use crate::server::{Client, PATIENCE, Server};

/// Segments don't roll here, so that their paths are known; laps of the journal are used again.
const SIZES: [&str; 2] = ["--journal-bytes", "1048576"];
/// Enough that the journal begins several laps.
const SENDS_MAX: u32 = 1500;
/// So many that a checkpoint syncs the file system, and not each segment.
const MANY: u32 = 12;

/// On which files calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    Journal,
    /// Of the one experiment that is written to.
    Segment,
    /// The same, and what is sent is so large that it goes around the journal.
    Around,
    /// No matter on what; many experiments are written to.
    Any,
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The entries that wait for it are answered 500, all others 503, until a restart.
    Fails,
    /// What was acknowledged is safe in the journal; from then on 503, until a restart.
    FailsBehind,
    /// 507 until it passes, by itself.
    IsFull,
    /// 503 that says to try again, until it passes by itself.
    IsShort,
    /// Nobody notices.
    Nothing,
}

/// A server that is being served a fault.
pub struct Cell {
    pub server: Server,
    /// Whether the fault is one of reading, too: then nothing is read while it lasts.
    pub reads_fail: bool,
    client: Client,
    ledger: Ledger,
    random: fastrand::Rng,
    experiments: u32,
    entries_per_request: usize,
    case: String,
}

impl Cell {
    /// A server that has taken some entries.
    pub fn start(command: &mut Command, store: &Path, on: On, case: &str) -> Self {
        let server = Server::start_by(command, store, &SIZES);
        let experiments = if on == On::Any { MANY } else { 1 };
        for n in 0..experiments {
            server.define(&format!("e{n}"));
        }
        let mut cell = Self {
            client: server.connect(),
            server,
            reads_fail: false,
            ledger: Ledger::default(),
            random: fastrand::Rng::with_seed(1),
            experiments,
            entries_per_request: if on == On::Around { 40 } else { 1 },
            case: case.to_owned(),
        };
        for _ in 0..2 * experiments {
            assert_eq!(cell.send(), Outcome::Acknowledged);
        }
        cell
    }

    /// Sends until that has come of it.
    pub fn expect(&mut self, then: Then) {
        match then {
            Then::Fails => self.fails(),
            Then::FailsBehind => self.fails_behind(),
            Then::IsFull => self.passes(Outcome::StorageFull),
            Then::IsShort => self.passes(Outcome::Overloaded),
            Then::Nothing => self.nothing(),
        }
    }

    /// Ends the server: as one that makes its last checkpoint if it can, or as one that can't.
    pub fn end(self, by_kill: bool) -> Ended {
        let Self { server, case, .. } = self;
        match by_kill {
            true => server.kill(),
            false => assert!(server.stop().0.success(), "{case}"),
        }
        Ended {
            ledger: self.ledger,
            random: self.random,
            case,
        }
    }

    fn send(&mut self) -> Outcome {
        let slug = slug(&format!("e{}", self.random.u32(..self.experiments)));
        let padding = match self.entries_per_request {
            1 => self.random.usize(..8000),
            _ => 8000,
        };
        let bodies = (0..self.entries_per_request).map(|_| body(&mut self.random, padding));
        let bodies: Vec<_> = bodies.collect();
        let answer = post(&mut self.client, &self.server.key, &slug, &bodies);
        self.ledger.note(&slug, bodies, answer)
    }

    /// The first outcome that isn't an acknowledgement.
    fn send_until_refused(&mut self) -> Outcome {
        let refusal = (0..SENDS_MAX)
            .map(|_| self.send())
            .find(|outcome| *outcome != Outcome::Acknowledged);
        refusal.unwrap_or_else(|| panic!("{}: nothing was refused", self.case))
    }

    fn fails(&mut self) {
        assert_eq!(
            self.send_until_refused(),
            Outcome::AppendFailed,
            "{}",
            self.case
        );
        self.stays_failed();
    }

    fn fails_behind(&mut self) {
        let first = self.send_until_refused();
        // Another thread finds out: whoever waits for the journal then may be answered 500.
        let is_failure = [Outcome::AppendFailed, Outcome::StorageFailed].contains(&first);
        assert!(is_failure, "{}: {first:?}", self.case);
        self.stays_failed();
    }

    fn stays_failed(&mut self) {
        for _ in 0..20 {
            assert_eq!(self.send(), Outcome::StorageFailed, "{}", self.case);
        }
        let ready = self.server.ask("GET", "/ready", "");
        assert_eq!(ready.status, 503, "{}", self.case);
        assert_eq!(ready.json()["reason"], "storage_failed", "{}", self.case);
        assert_eq!(
            self.server.ask("GET", "/health", "").status,
            200,
            "{}",
            self.case
        );
        let made = self
            .server
            .ask("PUT", "/experiment/new", r#"{"variants":["A"]}"#);
        made.assert_error(
            503,
            "storage_failed",
            "an earlier write or sync failed",
            &self.case,
        );
        self.reads_go_on();
    }

    fn reads_go_on(&mut self) {
        if !self.reads_fail {
            assert_some_are_read(&self.server, &self.ledger, &mut self.random);
        }
    }

    fn passes(&mut self, refusal: Outcome) {
        assert_eq!(self.send_until_refused(), refusal, "{}", self.case);
        if refusal == Outcome::StorageFull {
            self.reads_go_on();
        }
        let mut outcome = refusal;
        let since = Instant::now();
        while outcome == refusal && since.elapsed() < PATIENCE {
            outcome = self.send();
        }
        let said = self.server.said();
        assert_eq!(outcome, Outcome::Acknowledged, "{}: {said}", self.case);
    }

    fn nothing(&mut self) {
        // At least one lap of the journal.
        for _ in 0..500 / self.entries_per_request {
            assert_eq!(self.send(), Outcome::Acknowledged, "{}", self.case);
        }
        assert_eq!(
            self.server.ask("GET", "/ready", "").status,
            200,
            "{}",
            self.case
        );
        self.reads_go_on();
    }
}

/// What a server under a fault left.
pub struct Ended {
    ledger: Ledger,
    random: fastrand::Rng,
    case: String,
}

impl Ended {
    /// It is all there, before and after another start.
    pub fn assert_whole(mut self, store: &Path) {
        assert_whole(store, &mut self.ledger, &self.case);
        let server = Server::start(store, &SIZES);
        assert_some_are_read(&server, &self.ledger, &mut self.random);
        assert!(server.stop().0.success(), "{}", self.case);
        assert_whole(store, &mut self.ledger, &self.case);
    }
}

impl On {
    /// The files, where that are certain ones.
    pub fn paths(self, store: &Path) -> Vec<PathBuf> {
        match self {
            Self::Journal => [1, 2]
                .map(|n| store.join(format!("journal/{n:08}.journal")))
                .to_vec(),
            Self::Segment | Self::Around => {
                vec![store.join("experiments/e0/00000000000000000000.segment")]
            }
            Self::Any => Vec::new(),
        }
    }
}
