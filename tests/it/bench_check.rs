//! `trialog bench` as a witness: it finds what is lost, nothing else, and leaves nothing behind,
//! however it ends.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trialog::fs::real;

use crate::bench::{bench, count, document, left_in, lines};
use crate::server::{EXAMPLE, PATIENCE, Server, run, trialog};

/// Segments and a journal so small that a segment is soon out of the journal's reach.
const SMALL: [&str; 4] = ["--segment-bytes", "65536", "--journal-bytes", "1048576"];

#[test]
fn an_audit_finds_everything_after_each_kill() {
    let dir = tempfile::tempdir().unwrap();
    for batch in [&[][..], &["--batch", "20"]] {
        let args = [
            "--audit",
            "--kills",
            "4",
            "--duration",
            "1",
            "--experiments",
            "3",
        ];
        let args = [&args[..], batch, &["--json", "-", "--"], &SMALL].concat();
        let output = bench(dir.path(), &args).output().unwrap();
        let document = document(&output);
        assert_eq!(
            (&document["kills"], &document["killsAtStart"]),
            (&json!(4), &json!(1))
        );
        let verdict = &document["verdict"];
        let counted = |name: &str| count(&verdict[name]);
        assert!(counted("acknowledged") > 0);
        let with_unknown = counted("acknowledged") + count(&document["unknownFound"]);
        assert_eq!(counted("found"), with_unknown);
        assert!(count(&document["unknownFound"]) <= counted("unknown"));
        for what in ["lost", "doubled", "changed", "unexpected", "torn"] {
            assert_eq!(counted(what), 0, "{what}");
        }
        assert_eq!(verdict["damage"], json!([]));
        assert_eq!(left_in(dir.path()), Vec::<PathBuf>::new());
    }
}

/// A run that goes on until it is stopped.
struct Running {
    child: Child,
    dir: PathBuf,
}

impl Running {
    fn start(mut command: Command, dir: &Path) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self {
            child: command.spawn().expect("the binary runs"),
            dir: dir.to_path_buf(),
        }
    }

    /// The store, once it is there.
    fn store(&self) -> Option<PathBuf> {
        Some(left_in(&self.dir).first()?.join("store"))
    }

    /// Waits until its experiment has so many segments.
    fn segments(&self, count: usize) -> Vec<PathBuf> {
        eventually("segments", || {
            let listed = std::fs::read_dir(self.store()?.join("experiments/bench")).ok()?;
            let paths = listed.map_while(Result::ok).map(|entry| entry.path());
            let mut segments: Vec<_> = paths
                .filter(|path| path.extension().is_some_and(|end| end == "segment"))
                .collect();
            segments.sort();
            (segments.len() >= count).then_some(segments)
        })
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).expect("not zero");
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Asks it to end early, and waits until it has.
    fn stop(self) -> Output {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait_with_output().expect("it was our child")
    }
}

/// Looks again until something is there.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn entries_that_are_taken_away_are_missed() {
    for mode in [&["--check"][..], &["--audit", "--kills", "1"]] {
        let dir = tempfile::tempdir().unwrap();
        let args = ["--duration", "1000", "--batch", "50", "--json", "-", "--"];
        let args = [mode, &args, &SMALL].concat();
        let running = Running::start(bench(dir.path(), &args), dir.path());
        // Two laps of the journal are long past then.
        let segments = running.segments(80);
        std::fs::remove_file(&segments[0]).unwrap();
        let output = running.stop();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let verdict = document.get("check").unwrap_or(&document["verdict"]);
        assert!(count(&verdict["lost"]) > 0, "{verdict}");
        assert_eq!(
            (&verdict["doubled"], &verdict["changed"]),
            (&json!(0), &json!(0))
        );
        let damage = verdict["damage"].to_string();
        assert!(
            damage.contains("1 segments in front of it are missing"),
            "{damage}"
        );
        // The evidence stays.
        let words = lines(&output.stderr);
        let kept = words.lines().last().unwrap();
        let (_, path) = kept.split_once("the store is kept in ").expect(kept);
        assert_eq!(run(&["verify", path]).status.code(), Some(1));
    }
}

#[test]
fn entries_of_somebody_else_are_no_part_of_a_check() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let mut command = trialog();
    command.args(["bench", "--server", &server.url(), "--api-key", &server.key]);
    command.args(["--experiment", "demo", "--duration", "1000", "--check"]);
    let running = Running::start(command, dir.path());
    eventually("entries", || {
        let there = server.ask("GET", "/experiment/demo", "").json();
        (count(&there["count"]) > 0).then_some(())
    });
    server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    let output = running.stop();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let words = lines(&output.stdout);
    assert!(
        words.contains(" 0 lost") && words.contains(" 1 unexpected"),
        "{words}"
    );
}

#[test]
fn a_run_that_is_stopped_says_what_it_has_and_one_that_is_killed_leaves_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--duration", "1000", "--check"];
    let running = Running::start(bench(dir.path(), &args), dir.path());
    running.segments(1);
    let output = running.stop();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(lines(&output.stdout).contains("check: "), "{output:?}");
    assert_eq!(left_in(dir.path()), Vec::<PathBuf>::new());

    let mut running = Running::start(bench(dir.path(), &args), dir.path());
    running.segments(1);
    let lock = running.store().unwrap().join("LOCK");
    let is_locked = || real::host().disk.is_locked(&lock).unwrap();
    assert!(is_locked(), "a server has the store open");
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    eventually("the server's end", || (!is_locked()).then_some(()));
}
