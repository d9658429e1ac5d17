//! The real binary as a child process.

use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub use crate::client::{Answer, Client};

/// Far more than anything here takes: what isn't there by then never comes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The body that the user's contract gives as an example.
pub const EXAMPLE: &str = r#"{"variantKey":"A","input":{"query":"What are the latest AI advancements?"},"output":{"response":"Recent AI advancements include improvements in large language models and generative AI."},"metrics":{"latency_ms":123,"token_count":78,"user_rating":5},"context":{"session_id":"session_abc_123","environment":"production"}}"#;

/// A command of the binary under test, in an environment that has no settings of ours.
pub fn trialog() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trialog"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TRIALOG_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(args: &[&str]) -> Output {
    trialog().args(args).output().expect("the binary runs")
}

/// `path` as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("test folders have UTF-8 names")
}

/// A running `trialog serve`. Killed when it is dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    pub dir: PathBuf,
    /// The first admin key.
    pub key: String,
    said: Arc<Said>,
    printed: Arc<Said>,
}

impl Server {
    /// Starts on the store `dir`, which need not exist, and waits until it listens.
    pub fn start(dir: &Path, args: &[&str]) -> Self {
        Self::start_by(&mut trialog(), dir, args)
    }

    /// As [`Self::start`], with a command that has its own environment.
    pub fn start_by(command: &mut Command, dir: &Path, args: &[&str]) -> Self {
        Self::start_in(command, Path::new("."), dir, args)
    }

    /// As [`Self::start_by`], with a `dir` that is relative to the command's own folder.
    pub fn start_in(command: &mut Command, folder: &Path, dir: &Path, args: &[&str]) -> Self {
        let mut child = Self::spawn(command, dir, args);
        let said = Said::of(child.stderr.take().expect("piped"));
        let line = said.wait_for("address=");
        Self::with(child, said, &line, folder.join(dir))
    }

    /// As [`Self::start`]; when it ends instead, how, and what it said.
    pub fn try_start(dir: &Path, args: &[&str]) -> Result<Self, (ExitStatus, String)> {
        let mut child = Self::spawn(&mut trialog(), dir, args);
        let said = Said::of(child.stderr.take().expect("piped"));
        match said.wait_for_or_end("address=") {
            Ok(line) => Ok(Self::with(child, said, &line, dir.to_path_buf())),
            Err(words) => Err((child.wait().expect("it was our child"), words)),
        }
    }

    /// As [`Self::start`]; once it listens, nobody reads what it says or prints.
    pub fn start_unread(dir: &Path, args: &[&str]) -> Self {
        let mut child = Self::spawn(&mut trialog(), dir, args);
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        drop(child.stdout.take());
        let mut lines = stderr.lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("address="));
        let line = line.expect("it listens");
        drop(lines);
        Self::with(child, Said::of(io::empty()), &line, dir.to_path_buf())
    }

    fn spawn(command: &mut Command, dir: &Path, args: &[&str]) -> Child {
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        command.args(["--data", arg(dir)]).args(args);
        // The machine that tests run on may be short of room.
        if !args.contains(&"--min-free") {
            command.args(["--min-free", "0"]);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the binary runs")
    }

    fn with(mut child: Child, said: Arc<Said>, line: &str, dir: PathBuf) -> Self {
        let address = field(line, "address=").expect("an address");
        let key = std::fs::read_to_string(dir.join("admin.key")).unwrap_or_default();
        let printed = match child.stdout.take() {
            Some(stdout) => Said::of(stdout),
            None => Said::of(io::empty()),
        };
        Self {
            child,
            address: address.parse().expect("an address"),
            dir,
            key: key.trim().to_owned(),
            said,
            printed,
        }
    }

    /// What it said on stderr so far.
    pub fn said(&self) -> String {
        self.said.so_far()
    }

    /// Waits until a line on stderr holds `words`.
    pub fn wait_until_said(&self, words: &str) -> String {
        self.said.wait_for(words)
    }

    /// Waits until a line on stdout holds `words`.
    pub fn wait_until_printed(&self, words: &str) -> String {
        self.printed.wait_for(words)
    }

    /// `http://` and its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Runs a command of the binary that asks this server, with its admin key.
    pub fn command(&self, args: &[&str]) -> Output {
        let mut command = trialog();
        command.args(args).args(["--server", &self.url()]);
        command.args(["--api-key", &self.key]);
        command.output().expect("the binary runs")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().expect("it was running");
        self.child.wait().expect("it was our child");
    }

    /// SIGTERM, and waits for its end; says how long that took.
    pub fn stop(self) -> (ExitStatus, Duration) {
        self.terminate();
        let since = Instant::now();
        (self.wait(), since.elapsed())
    }

    /// Waits for its end.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("it was our child")
    }

    /// Waits until a signal has stopped it.
    pub fn wait_until_stopped(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).expect("not zero");
        let which = rustix::process::WaitId::Pid(pid);
        let stopped = rustix::process::waitid(which, rustix::process::WaitIdOptions::STOPPED);
        assert!(stopped.expect("it is our child").is_some());
    }

    /// SIGTERM, and waits for its end; gives back all that it said.
    pub fn end(mut self) -> (ExitStatus, String) {
        self.terminate();
        let status = self.child.wait().expect("it was our child");
        (status, self.said.whole())
    }

    /// SIGTERM alone.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).expect("not zero");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    }

    /// A connection for any number of requests.
    pub fn connect(&self) -> Client {
        Client::connect(self.address).expect("it listens")
    }

    /// One request with the admin key, on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let key = ("x-api-key", self.key.as_str());
        self.connect()
            .send(method, path, &[key], body.as_bytes())
            .expect("an answer")
    }

    /// As [`Self::ask`], without a body and with `key`.
    pub fn ask_as(&self, key: &str, method: &str, path: &str) -> Answer {
        self.connect()
            .send(method, path, &[("x-api-key", key)], b"")
            .expect("an answer")
    }

    /// Makes a key; gives back its id and its text.
    pub fn make_key(&self, request: &str) -> (String, String) {
        let answer = self.ask("POST", "/keys", request);
        assert_eq!(answer.status, 201, "{answer:?}");
        let text = |name: &str| answer.json()[name].as_str().expect(name).to_owned();
        (text("id"), text("key"))
    }

    /// Makes an experiment with the variants A and B.
    pub fn define(&self, slug: &str) {
        let body = r#"{"variants":["A","B"]}"#;
        let answer = self.ask("PUT", &format!("/experiment/{slug}"), body);
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _may_have_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// What a child writes to one of its pipes, as far as it has come.
struct Said {
    text: Mutex<(String, bool)>,
    grown: Condvar,
}

impl Said {
    fn of(pipe: impl Read + Send + 'static) -> Arc<Self> {
        let said = Arc::new(Self {
            text: Mutex::default(),
            grown: Condvar::new(),
        });
        let growing = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                growing.text.lock().expect("no panic under it").0 += &format!("{line}\n");
                growing.grown.notify_all();
            }
            growing.text.lock().expect("no panic under it").1 = true;
            growing.grown.notify_all();
        });
        said
    }

    fn so_far(&self) -> String {
        self.text.lock().unwrap().0.clone()
    }

    /// All of it, once the pipe is closed.
    fn whole(&self) -> String {
        let text = self.text.lock().unwrap();
        let ended = self
            .grown
            .wait_timeout_while(text, PATIENCE, |(_, is_ended)| !*is_ended);
        ended.unwrap().0.0.clone()
    }

    /// Waits for a line that holds `words`.
    fn wait_for(&self, words: &str) -> String {
        let line = self.wait_for_or_end(words);
        line.unwrap_or_else(|said| panic!("no {words:?} in: {said}"))
    }

    /// The line with `words`; or all that was said, when nothing more is.
    fn wait_for_or_end(&self, words: &str) -> Result<String, String> {
        let until = Instant::now() + PATIENCE;
        let mut text = self.text.lock().unwrap();
        loop {
            if let Some(line) = text.0.lines().find(|line| line.contains(words)) {
                return Ok(line.to_owned());
            }
            if text.1 {
                return Err(text.0.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {words:?} in: {}", text.0);
            text = self.grown.wait_timeout(text, left).unwrap().0;
        }
    }
}

/// The value behind `name` in a line of the server's log.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = line.split_once(name)?;
    value.split_whitespace().next()
}
