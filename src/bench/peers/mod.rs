//! Servers of others, through their own clients: the same entries, as many of them at once, from one
//! thread as well. Built with the feature `peers`.

mod jetstream;
mod postgres;
mod redis_streams;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use fastrand::Rng;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::{Builder, Runtime};

use super::entries::Entries;
use super::meter::Meter;
use super::pace::Pace;
use super::plan::{Peer, Plan};
use super::spread::Spread;
use super::target::{Account, Kept, Target, goes_on};
use crate::model::Slug;

/// How long answers are waited for once no more requests are sent.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon a wish to stop is heard.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// A peer that runs already. An error says what is wrong: it isn't there, or an acknowledgement of
/// it doesn't mean that the entry is on stable storage.
pub fn target<'p>(
    peer: Peer,
    plan: &'p Plan,
    entries: &Entries,
    stop: &'p AtomicBool,
) -> Result<Box<dyn Target + 'p>> {
    Ok(match peer {
        Peer::Redis => Box::new(Remote::<redis_streams::Streams>::new(plan, entries, stop)?),
        Peer::Nats => Box::new(Remote::<jetstream::JetStream>::new(plan, entries, stop)?),
        Peer::Postgres => Box::new(Remote::<postgres::Table>::new(plan, entries, stop)?),
        Peer::Noop | Peer::Fdatasync => return Err(anyhow!("it has no client of its own")),
    })
}

/// Where the entries of one run go on a peer: made for it, and removed behind it.
trait Place: Sized {
    type Line: Line;
    /// `name` is free there. Refuses a server that isn't durable.
    async fn make(url: Option<&str>, name: String, experiments: &[Slug]) -> Result<Self>;
    /// What the server is, and how durable.
    fn server(&self) -> String;
    async fn connect(&self) -> Result<Self::Line>;
    /// How many entries are there.
    async fn count(&mut self) -> Result<u64>;
    async fn remove(&mut self) -> Result<()>;
}

/// A connection, with one request at a time.
trait Line {
    /// Waits until all bodies are acknowledged. The error is a short code.
    async fn append(&mut self, experiment: usize, bodies: Vec<Bytes>) -> Result<(), String>;
}

struct Remote<'p, P: Place> {
    plan: &'p Plan,
    runtime: Runtime,
    place: P,
    /// Connections without a request.
    idle: Vec<P::Line>,
    work: Work,
    acknowledged: u64,
    unknown: u64,
    stop: &'p AtomicBool,
}

/// What is sent: as to a trialog, by the same seed.
struct Work {
    bodies: Vec<Bytes>,
    next: usize,
    per_request: usize,
    spread: Spread,
    random: Rng,
}

impl<'p, P: Place> Remote<'p, P> {
    fn new(plan: &'p Plan, entries: &Entries, stop: &'p AtomicBool) -> Result<Self> {
        // One thread, as the load on a trialog has.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let name = format!("trialog_bench_{:016x}", fastrand::u64(..));
        let url = plan.peer_url.as_deref();
        let place = runtime.block_on(P::make(url, name, &plan.experiments))?;
        let bodies = entries.bodies.iter();
        // Whole from here on: what was made is removed also when connections fail.
        let mut remote = Self {
            plan,
            runtime,
            place,
            idle: Vec::with_capacity(plan.connections),
            work: Work {
                bodies: bodies.map(|body| Bytes::from(body.clone())).collect(),
                next: 0,
                per_request: plan.entries_per_request(),
                spread: Spread::new(plan.experiments.len(), plan.zipf),
                random: Rng::with_seed(plan.seed),
            },
            acknowledged: 0,
            unknown: 0,
            stop,
        };
        for n in 0..plan.connections {
            let line = remote.runtime.block_on(remote.place.connect());
            let line = line.with_context(|| format!("connection {} failed", n + 1))?;
            remote.idle.push(line);
        }
        Ok(remote)
    }
}

impl<P: Place> Target for Remote<'_, P> {
    fn round(&mut self, span: Duration, meter: &mut Meter) -> Result<()> {
        let per_request = self.work.per_request as u64;
        let (place, idle, work) = (&self.place, &mut self.idle, &mut self.work);
        let begin = Instant::now();
        let end = begin + span;
        let mut pace = Pace::closed(self.plan.clients, begin);
        meter.begin_round(begin);
        self.runtime.block_on(async {
            let mut running = FuturesUnordered::new();
            let mut ticks = tokio::time::interval(WAIT_MAX);
            let mut now = begin;
            loop {
                let is_open = now < end && goes_on(self.stop);
                while is_open
                    && !idle.is_empty()
                    && let Some(begun) = pace.take(now)
                    && let Some(line) = idle.pop()
                {
                    let (experiment, bodies) = work.next();
                    running.push(ask(line, experiment, bodies, begun));
                }
                if !is_open && (running.is_empty() || now >= end + DRAIN_TIMEOUT) {
                    break;
                }
                tokio::select! {
                    biased;
                    Some((line, begun, outcome)) = running.next() => {
                        now = Instant::now();
                        pace.answered(now);
                        match outcome {
                            Ok(()) => {
                                meter.acknowledged(now - begun);
                                self.acknowledged += per_request;
                                idle.push(line);
                            }
                            Err(code) => {
                                meter.failed(code);
                                self.unknown += per_request;
                                drop(line);
                                idle.push(place.connect().await.context("the server has gone")?);
                            }
                        }
                    }
                    _ = ticks.tick() => now = Instant::now(),
                }
                meter.tick(now)?;
            }
            // Their connections are lost with them.
            for _ in 0..running.len() {
                meter.failed("no_answer".into());
                self.unknown += per_request;
                idle.push(place.connect().await.context("the server has gone")?);
            }
            anyhow::Ok(())
        })?;
        meter.end_round(Instant::now())
    }

    fn account(&mut self, with_count: bool) -> Result<Option<Account>> {
        let kept = match with_count {
            false => None,
            true => Some(Kept {
                acknowledged: self.acknowledged,
                unknown: self.unknown,
                found: self.runtime.block_on(self.place.count())?,
            }),
        };
        let server = self.place.server();
        Ok(Some(Account { server, kept }))
    }
}

impl<P: Place> Drop for Remote<'_, P> {
    fn drop(&mut self) {
        // What is left on a server that has gone has a telling name.
        let _removed = self.runtime.block_on(self.place.remove());
    }
}

impl Work {
    fn next(&mut self) -> (usize, Vec<Bytes>) {
        let experiment = self.spread.choose(&mut self.random);
        let bodies = self.bodies.iter().cycle().skip(self.next);
        let bodies = bodies.take(self.per_request).cloned().collect();
        self.next = (self.next + self.per_request) % self.bodies.len().max(1);
        (experiment, bodies)
    }
}

/// One request, from a connection that it gives back.
async fn ask<L: Line>(
    mut line: L,
    experiment: usize,
    bodies: Vec<Bytes>,
    begun: Instant,
) -> (L, Instant, Result<(), String>) {
    let outcome = line.append(experiment, bodies).await;
    (line, begun, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_sent_in_its_turn() {
        let mut work = Work {
            bodies: ["a", "b", "c"].map(Bytes::from).into(),
            next: 0,
            per_request: 2,
            spread: Spread::new(1, None),
            random: Rng::with_seed(1),
        };
        let sent: Vec<_> = (0..3).flat_map(|_| work.next().1).collect();
        assert_eq!(sent, ["a", "b", "c", "a", "b", "c"]);
    }
}
