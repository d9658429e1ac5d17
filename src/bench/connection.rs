//! One connection of HTTP/1.1 that is kept open, with one request on it at a time. It never waits.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use mio::{Interest, Registry, Token};

use super::answer::Answer;
use super::wire::{Address, Wire};

/// Most answers are smaller. A larger one makes the buffer grow.
const INPUT_LEN: usize = 2048;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Connection {
    stream: Wire<mio::net::TcpStream>,
    /// The request that is being sent, and how much of it has gone.
    output: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    received: usize,
}

impl Connection {
    pub fn open(address: &Address, registry: &Registry, token: Token) -> Result<Self> {
        let stream = address.connect(CONNECT_TIMEOUT);
        let stream =
            stream.with_context(|| format!("can't reach a server at {}", address.socket))?;
        let mut stream = stream.into_polled()?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(stream.socket(), token, interest)?;
        Ok(Self {
            stream,
            output: Vec::new(),
            sent: 0,
            input: vec![0; INPUT_LEN],
            received: 0,
        })
    }

    /// Has `render` write a request, and sends as much of it as goes at once.
    pub fn send<T>(&mut self, render: impl FnOnce(&mut Vec<u8>) -> T) -> (T, io::Result<()>) {
        self.output.clear();
        self.sent = 0;
        let rendered = render(&mut self.output);
        (rendered, self.flush())
    }

    /// Sends what is left of the request, as far as it goes.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match self.stream.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes what has come. A read that doesn't fill the buffer has emptied the socket, so that
    /// there is no need to ask once more.
    pub fn receive(&mut self) -> io::Result<()> {
        loop {
            if self.received == self.input.len() {
                self.input.resize(2 * self.received, 0);
            }
            let free = self.input.get_mut(self.received..).unwrap_or_default();
            let free_len = free.len();
            match self.stream.read(free) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.received += read;
                    if read < free_len && self.stream.tells_end() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The answer, once it is whole.
    pub fn answer(&self) -> Result<Option<Answer<'_>>> {
        Answer::parse(self.input.get(..self.received).unwrap_or_default())
    }

    /// Makes room for the next answer. Says whether there was more than the one: nobody asked.
    pub fn forget_answer(&mut self, len: usize) -> bool {
        let has_more = self.received > len;
        self.received = 0;
        has_more
    }
}
