//! One request after the other, for what a run needs before and after it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::answer::Answer;
use super::wire::{Address, Wire};
use crate::model::Slug;

const TIMEOUT: Duration = Duration::from_secs(60);
/// How many experiments are asked about at once.
const THREADS: usize = 8;

/// Which server, with which key.
#[derive(Debug, Clone)]
pub struct Server {
    pub address: Address,
    /// As it was named, for people and for `host`.
    pub host: String,
    pub api_key: String,
}

/// A connection to it.
pub struct Client<'s> {
    server: &'s Server,
    stream: Wire<TcpStream>,
    input: Vec<u8>,
}

impl Server {
    pub fn connect(&self) -> Result<Client<'_>> {
        let is_sendable = self.api_key.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(
            is_sendable,
            "the API key can't be sent: it has characters that a header can't"
        );
        let stream = self.address.connect(TIMEOUT);
        let stream = stream.with_context(|| format!("can't reach a server at {}", self.host))?;
        Ok(Client {
            server: self,
            stream,
            input: Vec::new(),
        })
    }

    /// What an acknowledgement means there: `sync` or `relaxed`.
    pub fn durability(&self) -> Result<String> {
        let mut client = self.connect()?;
        let answer = client.ask("GET", "/ready", b"")?;
        let ready = answer.json();
        let durability = ready.get("durability").and_then(Value::as_str);
        let host = &self.host;
        match durability {
            Some(durability) => Ok(durability.to_owned()),
            None if answer.status == 503 => bail!("the server at {host} is not ready"),
            None => bail!("what answers at {host} is no trialog"),
        }
    }

    /// Makes sure that entries can be written to all these experiments. Those that aren't there are
    /// made if they may be.
    pub fn prepare(&self, slugs: &[Slug], variants: &[String], may_create: bool) -> Result<()> {
        let definition = json!({ "variants": variants }).to_string();
        self.for_each(slugs, |client, _, slug| {
            // An empty body is looked at only when nothing else is wrong.
            let path = format!("/experiment/{slug}/log");
            let probe = client.ask("POST", &path, b"")?;
            match (probe.status, &*probe.code()) {
                (400, "body_empty") => return Ok(()),
                (404, "experiment_not_found") if may_create => {}
                (404, "experiment_not_found") => {
                    let host = &client.server.host;
                    bail!("there is no experiment {slug} at {host}: make it, or say --create")
                }
                _ => bail!("the server refuses entries: {}", probe.words()),
            }
            let path = format!("/experiment/{slug}");
            let made = client.ask("PUT", &path, definition.as_bytes())?;
            ensure!(made.is_ok(), "can't make {slug}: {}", made.words());
            Ok(())
        })
    }

    /// How many entries each of these experiments has.
    pub fn counts(&self, slugs: &[Slug]) -> Result<Vec<u64>> {
        let counts: Vec<_> = slugs.iter().map(|_| AtomicU64::new(0)).collect();
        self.for_each(slugs, |client, at, slug| {
            let described = client.ask("GET", &format!("/experiment/{slug}"), b"")?;
            let words = || format!("can't count the entries of {slug}: {}", described.words());
            let count = described.json().get("count").and_then(Value::as_u64);
            let count = count.with_context(words)?;
            if let Some(place) = counts.get(at) {
                place.store(count, Ordering::Relaxed);
            }
            Ok(())
        })?;
        Ok(counts.into_iter().map(AtomicU64::into_inner).collect())
    }

    /// Asks about each of these experiments, some at once.
    fn for_each(
        &self,
        slugs: &[Slug],
        ask: impl Fn(&mut Client<'_>, usize, &Slug) -> Result<()> + Sync,
    ) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut client = self.connect()?;
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(slug) = slugs.get(at) else {
                    return Ok(());
                };
                if let Err(error) = ask(&mut client, at, slug) {
                    // The others need not go on.
                    next.store(slugs.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        };
        std::thread::scope(|scope| {
            let threads = THREADS.min(slugs.len());
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            running.into_iter().try_for_each(|thread| {
                let ended = thread.join();
                ended.unwrap_or_else(|_| bail!("a thread ended by itself"))
            })
        })
    }
}

impl Client<'_> {
    /// Sends a request and waits for its answer.
    pub fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer<'_>> {
        let (host, key, len) = (&self.server.host, &self.server.api_key, body.len());
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {key}\r\n\
             content-type: application/json\r\ncontent-length: {len}\r\n\r\n"
        )
        .into_bytes();
        request.extend_from_slice(body);
        let asking = || format!("asking the server at {host} failed");
        self.stream.write_all(&request).with_context(asking)?;
        self.stream.flush().with_context(asking)?;
        self.input.clear();
        let mut piece = [0; 4096];
        while Answer::parse(&self.input)?.is_none() {
            let read = match self.stream.read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.with_context(asking)?,
            };
            ensure!(read > 0, "the server at {host} ended the connection");
            self.input.extend(piece.iter().take(read));
        }
        Answer::parse(&self.input)?.context("it was whole")
    }
}
