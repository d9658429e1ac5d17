//! Three real NATS servers on loopback, one JetStream cluster: what the variable `TRIALOG_TEST_NATS` names, or
//! `nats-server` on the path.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub const SERVERS: usize = 3;

/// Its servers are killed when it is dropped.
pub struct Cluster {
    program: PathBuf,
    dir: TempDir,
    /// Where clients and the other servers reach each.
    ports: Vec<(u16, u16)>,
    servers: Vec<Option<Child>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in 0..self.servers.len() {
            self.kill(number);
        }
    }
}

impl Cluster {
    /// Starts one, if there is a program for it.
    pub fn start() -> Option<Self> {
        let program = std::env::var_os("TRIALOG_TEST_NATS").unwrap_or_else(|| "nats-server".into());
        let program = PathBuf::from(program);
        let said = Command::new(&program).arg("--version").output();
        if said.is_err() {
            not_run("there is no nats-server here, nor in TRIALOG_TEST_NATS");
            return None;
        }
        // All at once, so that none is given twice.
        let free: Vec<_> = (0..2 * SERVERS)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let port = |at: usize| free[at].local_addr().unwrap().port();
        let ports = (0..SERVERS)
            .map(|n| (port(2 * n), port(2 * n + 1)))
            .collect();
        drop(free);
        let mut cluster = Self {
            program,
            dir: tempfile::tempdir().unwrap(),
            ports,
            servers: (0..SERVERS).map(|_| None).collect(),
        };
        for number in 0..SERVERS {
            cluster.start_server(number);
        }
        Some(cluster)
    }

    /// Starts a server, in the folder that it had.
    pub fn start_server(&mut self, number: usize) {
        let home = self.dir.path().join(format!("server-{number}"));
        std::fs::create_dir_all(&home).unwrap();
        let (client_port, route_port) = self.ports[number];
        let routes: Vec<_> = self.ports.iter().map(|(_, port)| *port).collect();
        let routes: Vec<_> = routes
            .iter()
            .map(|port| format!("\"nats://127.0.0.1:{port}\""))
            .collect();
        let words = format!(
            "server_name: server-{number}\n\
             listen: \"127.0.0.1:{client_port}\"\n\
             jetstream {{ store_dir: \"{}\", max_file_store: 1GB, max_memory_store: 64MB }}\n\
             cluster {{ name: test, listen: \"127.0.0.1:{route_port}\", routes: [{}] }}\n",
            home.display(),
            routes.join(", "),
        );
        let config = home.join("config");
        std::fs::write(&config, words).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(home.join("log"))
            .unwrap();
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&config);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.servers[number] = Some(command.spawn().unwrap());
    }

    /// Kills a server, if it runs.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut server) = self.servers[number].take() {
            // It may have ended already.
            let _killed = server.kill();
            let _reaped = server.wait();
        }
    }

    pub fn addresses(&self) -> Vec<String> {
        let ports = self.ports.iter();
        ports
            .map(|(port, _)| format!("nats://127.0.0.1:{port}"))
            .collect()
    }

    /// The number of the server that leads a stream.
    pub async fn leader(&self, stream: &str) -> usize {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(leader) = self.asked_leader(stream).await {
                return leader;
            }
            assert!(Instant::now() < until, "no server leads the stream");
        }
    }

    async fn asked_leader(&self, stream: &str) -> Option<usize> {
        let client = async_nats::connect(self.addresses()).await.ok()?;
        let context = async_nats::jetstream::new(client);
        let stream = context.get_stream(stream).await.ok()?;
        let leader = stream.cached_info().cluster.as_ref()?.leader.clone()?;
        leader.strip_prefix("server-")?.parse().ok()
    }
}

/// Says that a test could not run here, which is a failure where all must run.
pub fn not_run(why: &str) {
    use std::io::Write;

    let must = std::env::var_os("TRIALOG_TEST_ALL").is_some_and(|all| all != "0");
    assert!(!must, "TRIALOG_TEST_ALL is set, and this can't run: {why}");
    // Not by `eprintln!`, which the test runner keeps to itself.
    let words = format!("NOT RUN: {why}\n");
    std::io::stderr().write_all(words.as_bytes()).unwrap();
}
