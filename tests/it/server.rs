//! The real binary as a child process, and a client that sends exactly the bytes it is told to.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Far more than anything here takes: what isn't there by then never comes.
const PATIENCE: Duration = Duration::from_secs(60);

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
        if !args.contains(&"--free-bytes") {
            command.args(["--free-bytes", "0"]);
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
        let until = Instant::now() + PATIENCE;
        let mut text = self.text.lock().unwrap();
        loop {
            if let Some(line) = text.0.lines().find(|line| line.contains(words)) {
                return line.to_owned();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!text.1 && !left.is_zero(), "no {words:?} in: {}", text.0);
            text = self.grown.wait_timeout(text, left).unwrap().0;
        }
    }
}

/// A connection that speaks HTTP/1.1 as it is told to.
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let stream = BufReader::new(stream);
        Ok(Self { stream })
    }

    /// Sends a request with `content-length` and reads its answer.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: trialog\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        self.send_raw(&bytes)?;
        self.read_answer(method == "HEAD")
    }

    /// Sends these bytes.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one response; one to HEAD has no body.
    pub fn read_answer(&mut self, is_head: bool) -> io::Result<Answer> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).ok_or_else(ended)?;
        let status = status.parse().map_err(|_| ended())?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer {
            status,
            headers,
            body: Vec::new(),
        };
        let len = answer.header("content-length").unwrap_or("0");
        if !is_head {
            answer.body = vec![0; len.parse().map_err(|_| ended())?];
            self.stream.read_exact(&mut answer.body)?;
        }
        Ok(answer)
    }
}

impl Client {
    /// Says that nothing more will come; answers still can.
    pub fn end_sending(&self) {
        let stream = self.stream.get_ref();
        stream.shutdown(std::net::Shutdown::Write).expect("open");
    }

    /// Whether the server has closed the connection; fails when it sends something instead.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.fill_buf() {
            Ok(rest) => {
                assert!(
                    rest.is_empty(),
                    "more came: {}",
                    String::from_utf8_lossy(rest)
                );
                true
            }
            // It closed while bytes of ours were still on their way to it.
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The code of an error; empty when it is none.
    pub fn code(&self) -> String {
        let json = self.json();
        let code = json.pointer("/error/code").and_then(Value::as_str);
        code.unwrap_or_default().to_owned()
    }

    /// The message of an error.
    pub fn message(&self) -> String {
        let json = self.json();
        let message = json.pointer("/error/message").and_then(Value::as_str);
        message.unwrap_or_default().to_owned()
    }

    /// Fails unless this is an error of that kind, in the form that all errors have.
    pub fn assert_error(&self, status: u16, code: &str, message: &str, case: &str) {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{case}: {body}");
        assert_eq!(self.code(), code, "{case}: {body}");
        assert!(self.message().contains(message), "{case}: {body}");
        assert_eq!(self.json()["success"], false, "{case}: {body}");
        assert!(self.header("x-request-id").is_some(), "{case}");
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{case}"
        );
    }

    /// The id of an entry that was acknowledged.
    pub fn log_id(&self) -> String {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()["logId"].as_str().expect("a logId").to_owned()
    }
}

/// The value behind `name` in a line of the server's log.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = line.split_once(name)?;
    value.split_whitespace().next()
}
