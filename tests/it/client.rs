//! A client that sends exactly the bytes it is told to, and reads answers whole.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::server::PATIENCE;

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
    /// Whether a body that came in pieces broke off.
    pub is_cut: bool,
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_for(address, PATIENCE)
    }

    /// As [`Self::connect`], waiting for each answer no longer than this.
    pub fn connect_for(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
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
        let sent = self.send_raw(&bytes);
        // Who is refused in the middle of a long body may not get rid of the rest.
        let answer = self.read_answer(method == "HEAD");
        answer.or_else(|error| sent.and(Err(error)))
    }

    /// Sends these bytes.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one response; one to HEAD has no body.
    pub fn read_answer(&mut self, is_head: bool) -> io::Result<Answer> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut answer = self.read_head()?;
        if answer.header("transfer-encoding") == Some("chunked") && !is_head {
            answer.is_cut = !self.read_chunks(&mut answer.body)?;
            return Ok(answer);
        }
        let len = answer.header("content-length").unwrap_or("0");
        if !is_head {
            answer.body = vec![0; len.parse().map_err(|_| ended())?];
            self.stream.read_exact(&mut answer.body)?;
        }
        Ok(answer)
    }

    /// Reads what comes before a response's body.
    pub fn read_head(&mut self) -> io::Result<Answer> {
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
        Ok(Answer {
            status,
            headers,
            body: Vec::new(),
            is_cut: false,
        })
    }

    /// Reads a body that comes in pieces; says whether it came to its end.
    fn read_chunks(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            match self.read_chunk() {
                Ok(Some(chunk)) => body.extend(chunk),
                Ok(None) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next piece of a body that comes in pieces; `None` at its end.
    pub fn read_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = usize::from_str_radix(line.trim_end(), 16);
        let len = len.map_err(io::Error::other)?;
        let mut chunk = vec![0; len + 2];
        self.stream.read_exact(&mut chunk)?;
        chunk.truncate(len);
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }

    /// Waits until something has come, and takes nothing.
    pub fn wait_for_bytes(&mut self) {
        assert!(!self.stream.fill_buf().expect("it answers").is_empty());
    }

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

    /// The code of an error; empty when it is none, or isn't even JSON.
    pub fn code_or_empty(&self) -> String {
        match self.status {
            200 => String::new(),
            _ => self.code(),
        }
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
