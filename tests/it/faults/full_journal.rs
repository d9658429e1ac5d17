//! Both laps of the journal are full, and the first can't be written out: for now, or since the disk
//! is full or no descriptor is left. Nobody who asks for something else waits for that, and neither
//! does the end of the server.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::not_run;
use super::preloaded::compile;
use crate::ledger::{Ledger, Outcome};
use crate::load::{EXPERIMENTS, SIZES, assert_some_are_read, assert_whole, body, make_store, post};
use crate::process_end::END_WITHIN;
use crate::rig::slug;
use crate::server::{Client, PATIENCE, Server, trialog};

/// Each lap has room for five of these.
const BODY_LEN: usize = 200_000;
/// So many are acknowledged, and then no more.
const FIT: usize = 10;
const ROUNDS: usize = 20;

/// The call on segments that is held up, what comes of it then, and what requests that wait for it are
/// told.
type Case = (&'static str, &'static str, Outcome);

const SLOW: Case = ("pwrite64", "hold,0", Outcome::Acknowledged);
const FULL: Case = ("pwrite64", "hold,28", Outcome::StorageFull);
const NO_DESCRIPTORS: Case = ("open64", "hold,24", Outcome::Overloaded);

/// A server whose segments can't be written for now.
struct Held {
    server: Server,
    /// While it is there calls wait.
    hold: PathBuf,
    /// While it is there calls fail, when they have waited.
    armed: PathBuf,
}

impl Held {
    fn start(shim: &Path, store: &Path, (call, what, _): Case) -> Self {
        let armed = store.with_extension("armed");
        let hold = store.with_extension("armed.hold");
        make_store(store);
        let mut command = trialog();
        command.env("LD_PRELOAD", shim).env("SHIM_ARMED", &armed);
        command.env("SHIM_CALL", call).env("SHIM_PATH", ".segment");
        command.env("SHIM_DO", what);
        let server = Server::start_by(&mut command, store, &SIZES);
        std::fs::write(&hold, "").unwrap();
        std::fs::write(&armed, "").unwrap();
        Self {
            server,
            hold,
            armed,
        }
    }

    /// The calls that are held up end.
    fn let_go(&self) {
        std::fs::remove_file(&self.hold).unwrap();
    }

    /// Sends more than fits. While requests wait, `meanwhile` is done, which ends that. Says what those
    /// were told that had waited.
    fn overfill(&self, ledger: &mut Ledger, meanwhile: impl FnOnce(&Ledger)) -> Vec<Outcome> {
        for _ in 0..FIT {
            let outcome = send(&self.server, EXPERIMENTS[0], ledger);
            assert_eq!(outcome, Outcome::Acknowledged);
        }
        let waiting = EXPERIMENTS.map(|name| {
            let body = body(&mut fastrand::Rng::new(), BODY_LEN);
            (name, accepted(&self.server, name, &body), body)
        });
        meanwhile(ledger);
        let outcomes = waiting.map(|(name, mut client, body)| {
            let answer = client.read_answer(false);
            ledger.note(&slug(name), vec![body], answer)
        });
        outcomes.to_vec()
    }

    /// What doesn't need the journal is answered.
    fn assert_answers(&self, ledger: &Ledger) {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..ROUNDS {
            for name in EXPERIMENTS {
                let described = self.server.ask("GET", &format!("/experiment/{name}"), "");
                assert_eq!(described.status, 200, "{described:?}");
                let page = format!("/experiment/{name}/logs?limit=2");
                assert_eq!(self.server.ask("GET", &page, "").status, 200);
            }
            assert_some_are_read(&self.server, ledger, &mut random);
        }
    }

    /// Entries are taken again, by itself.
    fn wait_until_well(&self, ledger: &mut Ledger) {
        let until = Instant::now() + PATIENCE;
        for name in EXPERIMENTS {
            while send(&self.server, name, ledger) != Outcome::Acknowledged {
                assert!(Instant::now() < until, "it does not pass");
            }
        }
    }
}

/// A request that the server has accepted before it got this body, and will answer.
fn accepted(server: &Server, experiment: &str, body: &[u8]) -> Client {
    let mut client = server.connect();
    let (key, len) = (&server.key, body.len());
    let head = format!(
        "POST /experiment/{experiment}/log HTTP/1.1\r\nhost: t\r\nx-api-key: {key}\r\n\
         expect: 100-continue\r\ncontent-length: {len}\r\n\r\n"
    );
    client.send_raw(head.as_bytes()).unwrap();
    assert_eq!(client.read_answer(false).unwrap().status, 100);
    client.send_raw(body).unwrap();
    client
}

fn send(server: &Server, experiment: &str, ledger: &mut Ledger) -> Outcome {
    let bodies = vec![body(&mut fastrand::Rng::new(), BODY_LEN)];
    let answer = post(
        &mut server.connect(),
        &server.key,
        &slug(experiment),
        &bodies,
    );
    ledger.note(&slug(experiment), bodies, answer)
}

fn with_shim(test: impl Fn(&Path, &Path, Case), cases: &[Case]) {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = compile(dir.path()) else {
        return not_run("there is no cc to compile tests/it/faults/shim.c with");
    };
    for (n, case) in cases.iter().enumerate() {
        test(&shim, &dir.path().join(format!("store-{n}")), *case);
    }
}

#[test]
fn a_full_journal_holds_nobody_else_up_and_all_that_waits_for_it_is_answered() {
    let test = |shim: &Path, store: &Path, case: Case| {
        let held = Held::start(shim, store, case);
        let mut ledger = Ledger::default();
        let outcomes = held.overfill(&mut ledger, |ledger| {
            held.assert_answers(ledger);
            held.let_go();
        });
        assert_eq!(outcomes, [case.2; EXPERIMENTS.len()], "{case:?}");
        held.assert_answers(&ledger);
        std::fs::remove_file(&held.armed).unwrap();
        held.wait_until_well(&mut ledger);
        held.assert_answers(&ledger);
        held.server.kill();
        assert_whole(store, &mut ledger, &format!("{case:?}"));
    };
    with_shim(test, &[SLOW, FULL, NO_DESCRIPTORS]);
}

#[test]
fn sigterm_ends_a_server_whose_journal_is_full_and_stuck() {
    let test = |shim: &Path, store: &Path, case: Case| {
        let held = Held::start(shim, store, case);
        let mut ledger = Ledger::default();
        // Requests wait when it comes, and are answered.
        let outcomes = held.overfill(&mut ledger, |_| {
            held.server.terminate();
            held.server.wait_until_said("shutting down");
            held.let_go();
        });
        assert_eq!(outcomes, [case.2; EXPERIMENTS.len()], "{case:?}");
        let since = Instant::now();
        assert_eq!(held.server.wait().code(), Some(0), "{case:?}");
        assert!(
            since.elapsed() < END_WITHIN,
            "{case:?}: {:?}",
            since.elapsed()
        );
        assert_whole(store, &mut ledger, &format!("{case:?}"));
        let server = Server::start(store, &SIZES);
        assert_some_are_read(&server, &ledger, &mut fastrand::Rng::with_seed(1));
        assert!(server.stop().0.success());
        assert_whole(store, &mut ledger, &format!("{case:?}, started again"));
    };
    with_shim(test, &[SLOW, FULL, NO_DESCRIPTORS]);
}
