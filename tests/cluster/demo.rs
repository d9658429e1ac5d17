//! The cluster that `deploy/cluster-demo.sh` starts: its processes, and what is done to them.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::server::{PATIENCE, Server, arg};

/// The key that all nodes know.
pub const KEY: &str = "a-key-of-a-cluster-that-tests-run-against";

/// Three NATS servers and three nodes. They end when this is dropped.
pub struct Demo {
    script: Child,
    dir: tempfile::TempDir,
}

impl Demo {
    /// Starts them; `None` where no NATS server is installed.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts them with these variables, too.
    pub fn start_with(variables: &[(&str, &str)]) -> Option<Self> {
        let nats = std::env::var_os("TRIALOG_TEST_NATS").unwrap_or_else(|| "nats-server".into());
        let asked = Command::new(&nats).arg("--version").output();
        if !asked.is_ok_and(|asked| asked.status.success()) {
            let all = std::env::var_os("TRIALOG_TEST_ALL").is_some_and(|all| all == "1");
            assert!(!all, "there is no nats-server, and TRIALOG_TEST_ALL is set");
            eprintln!("NOT RUN: there is no nats-server here, nor in TRIALOG_TEST_NATS");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut script = Command::new("bash")
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/deploy/cluster-demo.sh"
            ))
            .arg(dir.path())
            .env("NATS_SERVER", nats)
            .env("TRIALOG", env!("CARGO_BIN_EXE_trialog"))
            .env("TRIALOG_MIN_FREE", "0")
            .env("TRIALOG_BOOTSTRAP_KEY", KEY)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash runs");
        let mut printed = BufReader::new(script.stdout.take().expect("piped")).lines();
        let is_ready = printed.any(|line| line.is_ok_and(|line| line.contains("are ready")));
        let demo = Self { script, dir };
        assert!(is_ready, "they did not get ready: {}", demo.said("node-1"));
        Some(demo)
    }

    /// Where a node listens; they have the numbers 1, 2 and 3.
    pub fn address(&self, node: usize) -> SocketAddr {
        let path = self.dir.path().join(format!("node-{node}.address"));
        let text = std::fs::read_to_string(path).unwrap();
        text.trim().parse().unwrap()
    }

    /// A node's store.
    pub fn store(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    /// The addresses of the NATS servers.
    pub fn nats(&self) -> Vec<SocketAddr> {
        let text = std::fs::read_to_string(self.dir.path().join("journal")).unwrap();
        let servers = text.trim().strip_prefix("nats://").unwrap();
        servers.split(',').map(|at| at.parse().unwrap()).collect()
    }

    /// Sends a signal to the process `node-N` or `nats-N`. One that has just ended is started again by the script.
    pub fn signal(&self, name: &str, signal: &str) {
        let path = self.dir.path().join(format!("{name}.pid"));
        let begun = Instant::now();
        loop {
            let pid = std::fs::read_to_string(&path).unwrap();
            let asked = Command::new("kill").args([signal, pid.trim()]).output();
            if asked.unwrap().status.success() {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{name} isn't there, and said: {}",
                self.said(name)
            );
        }
    }

    /// What a process said.
    pub fn said(&self, name: &str) -> String {
        let path = self.dir.path().join(format!("{name}.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// A node of its own that reaches the NATS servers by other addresses.
    pub fn another_node(&self, dir: &Path, nats: &[SocketAddr], args: &[&str]) -> Server {
        let nats: Vec<String> = nats.iter().map(SocketAddr::to_string).collect();
        let journal = format!("nats://{}", nats.join(","));
        Server::start(dir, &[&["--journal", &journal], args].concat())
    }

    /// How many messages the stream holds, and how many there ever were.
    pub fn messages(&self) -> (u64, u64) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let servers: Vec<String> = self
                .nats()
                .iter()
                .map(|at| format!("nats://{at}"))
                .collect();
            let client = async_nats::connect(servers).await.unwrap();
            let context = async_nats::jetstream::new(client);
            let stream = context.get_stream("trialog").await.unwrap();
            let state = &stream.cached_info().state;
            (state.messages, state.last_sequence)
        })
    }

    /// Ends them in order, and keeps their files.
    pub fn end(&mut self) {
        let pid = self.script.id().to_string();
        let killed = Command::new("kill").arg(pid).status();
        assert!(killed.unwrap().success());
        self.script.wait().unwrap();
    }

    /// What `trialog replay` gives of a node's files.
    pub fn replayed(&self, dir: &Path) -> String {
        let output = crate::server::run(&["replay", arg(dir)]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Ok(None) = self.script.try_wait() {
            self.end();
        }
    }
}
