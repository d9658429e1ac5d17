//! Stands between trialog and an S3 server, counts what passes, and breaks it as it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They go to the server.
    Pass,
    /// They are closed at once.
    Away,
    /// Each is cut off when so many bytes of it were sent to the server.
    CutAfter(u64),
    /// Each stands still when so many bytes of it were sent to the server.
    StallAfter(u64),
    /// Each request gets this answer, which is not the server's.
    Answer(&'static str),
}

struct State {
    target: SocketAddr,
    mode: Mutex<Mode>,
    up: AtomicU64,
    down: AtomicU64,
}

/// A proxy on a port of its own, until the test ends.
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    pub fn start(target: SocketAddr, mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            target,
            mode: Mutex::new(mode),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        });
        let serving = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let state = serving.clone();
                std::thread::spawn(move || state.connect(client));
            }
        });
        Self { address, state }
    }

    pub fn set(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
    }

    /// Bytes that were sent to the server so far.
    pub fn up(&self) -> u64 {
        self.state.up.load(Ordering::SeqCst)
    }

    /// Bytes that came from it so far.
    pub fn down(&self) -> u64 {
        self.state.down.load(Ordering::SeqCst)
    }
}

impl State {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap()
    }

    fn connect(&self, client: TcpStream) {
        match self.mode() {
            Mode::Away => return,
            Mode::Answer(answer) => return answer_all(client, answer),
            _ => {}
        }
        let Ok(server) = TcpStream::connect(self.target) else {
            return;
        };
        let (to_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| self.pass(server, to_client, &self.down, false));
            self.pass(client, to_server, &self.up, true);
        });
    }

    /// Hands on what comes, until one side ends or the mode says so.
    fn pass(&self, mut from: TcpStream, mut to: TcpStream, count: &AtomicU64, is_up: bool) {
        let mut buffer = vec![0; 16 << 10];
        let mut own = 0;
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            own += len as u64;
            count.fetch_add(len as u64, Ordering::SeqCst);
            match self.mode() {
                Mode::CutAfter(max) if is_up && own > max => break,
                Mode::Away | Mode::Answer(_) => break,
                Mode::StallAfter(max) if is_up && own > max => {
                    while self.mode() == Mode::StallAfter(max) {
                        std::thread::yield_now();
                    }
                    break;
                }
                _ => {}
            }
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        // They may have ended already.
        let _ended = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

/// Reads requests whole, and gives each the same answer.
fn answer_all(mut client: TcpStream, answer: &str) {
    let mut read = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let head_len = read.windows(4).position(|end| end == b"\r\n\r\n");
        if let Some(head_len) = head_len {
            let head = String::from_utf8_lossy(&read[..head_len]).to_lowercase();
            let said = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"));
            let body_len: usize = said.map_or(0, |len| len.trim().parse().unwrap());
            let len = head_len + 4 + body_len;
            if read.len() >= len {
                let head =
                    format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                // The next request asks what holds then. Whoever has gone doesn't hear it.
                let _gone = client.write_all(head.as_bytes());
                return;
            }
        }
        match client.read(&mut buffer) {
            Ok(len @ 1..) => read.extend_from_slice(&buffer[..len]),
            _ => return,
        }
    }
}
