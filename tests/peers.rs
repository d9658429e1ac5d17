//! `trialog bench --against` the real servers of others, on sockets in a folder. Needs the feature
//! `peers`; where a server isn't installed, it says `NOT RUN`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A server of somebody else. Killed when it is dropped.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Peer {
    /// Starts one, and waits until `is_there`.
    fn start(command: &mut Command, log: &Path, mut is_there: impl FnMut() -> bool) -> Self {
        let said = std::fs::File::create(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap());
        let mut peer = Self(command.stderr(said).spawn().unwrap());
        let end = Instant::now() + PATIENCE;
        while !is_there() {
            let ended = peer.0.try_wait().unwrap();
            let said = std::fs::read_to_string(log).unwrap();
            assert!(
                ended.is_none() && Instant::now() < end,
                "{command:?}: {said}"
            );
            std::thread::yield_now();
        }
        peer
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Says that a test could not run here, which is a failure where all must run.
fn not_run(why: &str) {
    let must = std::env::var_os("TRIALOG_TEST_ALL").is_some_and(|all| all != "0");
    assert!(!must, "TRIALOG_TEST_ALL is set, and this can't run: {why}");
    // Not by `eprintln!`, which the test runner keeps to itself.
    let words = format!("NOT RUN: {why}\n");
    std::io::stderr().write_all(words.as_bytes()).unwrap();
}

/// What a program prints when it is asked for its version, if it is there.
fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// PostgreSQL's programs are in no PATH on Debian.
fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut dirs: Vec<_> = versions
        .map(|dir| dir.unwrap().path().join("bin"))
        .collect();
    dirs.sort();
    dirs.pop().filter(|dir| dir.join("initdb").is_file())
}

fn bench(dir: &Path, peer: &str, url: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trialog"));
    command.args(["bench", "--dir", text(dir), "--against", peer]);
    command.args(["--peer-url", url, "--clients", "8", "--experiments", "3"]);
    command.args(["--duration", "0.5", "--warm-up", "0.1", "--json", "-"]);
    command.args(more).output().unwrap()
}

/// Single entries and batches: what the peer has at the end is what it acknowledged.
fn is_counted(dir: &Path, peer: &str, url: &str, server: &str) {
    for more in [&[][..], &["--batch", "5"], &["--connections", "2"]] {
        let output = bench(dir, peer, url, &[more, &["--check"]].concat());
        assert_eq!(output.status.code(), Some(0), "{more:?}: {output:?}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let [ours, theirs] = &document["results"].as_array().unwrap()[..] else {
            panic!("two sides: {document}");
        };
        assert_eq!(
            (&ours["name"], &theirs["name"]),
            (&"trialog".into(), &peer.into())
        );
        assert_eq!(theirs["errors"], Value::Object(serde_json::Map::new()));
        let entries = theirs["entries"].as_u64().unwrap();
        let kept = &document["peer"]["kept"];
        // What was sent to warm up is there, too.
        assert!(
            entries > 0 && kept["acknowledged"].as_u64().unwrap() > entries,
            "{kept}"
        );
        assert_eq!(kept["found"], kept["acknowledged"]);
        assert_eq!(kept["unknown"], 0);
        assert_eq!(document["check"]["lost"], 0);
        let said = document["peer"]["server"].as_str().unwrap();
        assert!(said.contains(server), "{said}");
    }
}

fn is_refused(output: &Output, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(words) && !said.contains("panicked"), "{said}");
}

#[test]
fn redis_holds_what_it_acknowledged_and_is_refused_when_it_is_not_durable() {
    let program = Path::new("redis-server");
    if version(program).is_none() {
        return not_run("there is no redis-server here");
    }
    let dir = tempfile::tempdir().unwrap();
    let start = |name: &str, appendfsync: &str| {
        let home = dir.path().join(name);
        std::fs::create_dir(&home).unwrap();
        let socket = home.join("socket");
        let mut command = Command::new(program);
        command.args([
            "--port",
            "0",
            "--unixsocket",
            text(&socket),
            "--dir",
            text(&home),
        ]);
        command.args([
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            appendfsync,
        ]);
        let log = home.join("log");
        let peer = Peer::start(&mut command, &log, || UnixStream::connect(&socket).is_ok());
        (peer, format!("redis+unix://{}", text(&socket)), socket)
    };
    let (_durable, url, socket) = start("durable", "always");
    is_counted(dir.path(), "redis", &url, "appendfsync always");
    // Nothing is left there.
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"DBSIZE\r\n").unwrap();
    let mut answer = [0; 4];
    std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    assert_eq!(&answer, b":0\r\n");

    let (_lax, url, _) = start("lax", "everysec");
    let words = "this Redis acknowledges before it syncs (appendonly yes, appendfsync everysec): \
                 start it with --appendonly yes --appendfsync always";
    is_refused(&bench(dir.path(), "redis", &url, &[]), words);
}

#[test]
fn nats_holds_what_it_acknowledged() {
    let program = std::env::var_os("TRIALOG_TEST_NATS").unwrap_or_else(|| "nats-server".into());
    let program = PathBuf::from(program);
    let said = version(&program);
    let is_one_of = |versions: &[&str]| {
        let said = said.as_ref();
        said.is_none_or(|said| versions.iter().any(|version| said.contains(version)))
    };
    if is_one_of(&["v1.", "v2.9.", "v2.8."]) {
        return not_run("there is no nats-server of 2.10 or later here, nor in TRIALOG_TEST_NATS");
    }
    let knows_batches = !is_one_of(&["v2.10.", "v2.11."]);
    let dir = tempfile::tempdir().unwrap();
    for (name, more) in [
        (
            "with",
            "jetstream { store_dir: \"with\", sync_interval: always }",
        ),
        ("without", ""),
    ] {
        let home = dir.path().join(name);
        std::fs::create_dir(&home).unwrap();
        let config = home.join("config");
        // A free port, which it writes into a file beside.
        let words = format!(
            "listen: \"127.0.0.1:-1\"\nports_file_dir: \"{}\"\n{more}\n",
            text(&home)
        );
        std::fs::write(&config, words).unwrap();
        let mut command = Command::new(&program);
        command.current_dir(dir.path()).arg("-c").arg(&config);
        let ports = || {
            let files = std::fs::read_dir(&home)
                .unwrap()
                .map(|file| file.unwrap().path());
            let mut files = files.filter(|path| path.extension().is_some_and(|end| end == "ports"));
            let written = std::fs::read_to_string(files.next()?).ok()?;
            let ports: Value = serde_json::from_str(&written).ok()?;
            ports["nats"][0].as_str().map(str::to_owned)
        };
        let _peer = Peer::start(&mut command, &dir.path().join("log"), || ports().is_some());
        let url = ports().unwrap();
        match name {
            "with" => {
                is_counted(dir.path(), "nats", &url, "it can't be asked");
                if knows_batches {
                    let url = format!("{url}?atomic");
                    is_counted(dir.path(), "nats", &url, "each batch atomic");
                }
            }
            _ => {
                let words = "can't make a stream: does the server run with JetStream?";
                is_refused(&bench(dir.path(), "nats", &url, &[]), words);
            }
        }
    }
}

#[test]
fn postgres_holds_what_it_acknowledged_and_is_refused_when_it_is_not_durable() {
    let Some(programs) = postgres_programs() else {
        return not_run("there is no PostgreSQL in /usr/lib/postgresql");
    };
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("data");
    std::fs::create_dir(&home).unwrap();
    // It refuses to run as root, and sees to its folder itself.
    let is_root = std::fs::metadata("/proc/self")
        .is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let run = |name: &str| {
        let program = programs.join(name);
        let mut command = match is_root {
            false => Command::new(program),
            true => {
                let mut command = Command::new("setpriv");
                command.args([
                    "--reuid",
                    "postgres",
                    "--regid",
                    "postgres",
                    "--clear-groups",
                ]);
                command.arg(program);
                command
            }
        };
        command.current_dir("/").arg("-D").arg(&home);
        command
    };
    if is_root {
        let mut open = Command::new("chmod");
        assert!(open.arg("755").arg(dir.path()).status().unwrap().success());
        let mut give = Command::new("chown");
        assert!(give.arg("postgres").arg(&home).status().unwrap().success());
    }
    let made = run("initdb")
        .args(["-U", "postgres", "-A", "trust", "-N"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let url = format!(
        "postgres://postgres@{}/postgres",
        text(&home).replace('/', "%2F")
    );
    for (commit, log) in [("on", "durable"), ("off", "lax")] {
        let mut command = run("postgres");
        command.args(["-h", "", "-k", text(&home)]);
        command.args(["-c", &format!("synchronous_commit={commit}")]);
        let log = dir.path().join(log);
        let ready = "database system is ready to accept connections";
        let is_there = || std::fs::read_to_string(&log).is_ok_and(|said| said.contains(ready));
        let peer = Peer::start(&mut command, &log, is_there);
        match commit {
            "on" => is_counted(
                dir.path(),
                "postgres",
                &url,
                "fsync on, synchronous_commit on",
            ),
            _ => {
                let words = "this PostgreSQL acknowledges before it syncs (fsync on, \
                             synchronous_commit off)";
                is_refused(&bench(dir.path(), "postgres", &url, &[]), words);
            }
        }
        // In good order: killed, it would leave processes and shared memory behind.
        let pid = peer.0.id().to_string();
        let mut interrupt = Command::new("kill");
        assert!(interrupt.args(["-INT", &pid]).status().unwrap().success());
        let mut peer = peer;
        assert!(peer.0.wait().unwrap().success());
    }
}

#[test]
fn who_is_not_there_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let gone = format!("{}/gone", text(dir.path()));
    // Nobody listens on port 1, and in an empty folder.
    for (peer, url, words) in [
        (
            "redis",
            format!("redis+unix://{gone}"),
            "can't reach a Redis server; see --help",
        ),
        (
            "redis",
            "http://127.0.0.1:1".into(),
            "--peer-url is no redis://",
        ),
        (
            "nats",
            "nats://127.0.0.1:1".into(),
            "can't reach a NATS server; see --help",
        ),
        (
            "postgres",
            format!("postgres://postgres@{}/postgres", gone.replace('/', "%2F")),
            "can't reach a PostgreSQL server; see --help",
        ),
    ] {
        is_refused(&bench(dir.path(), peer, &url, &[]), words);
    }
}
