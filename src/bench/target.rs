//! What takes the work: a trialog, or a peer that it is compared with.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::child::Served;
use super::driver::Driver;
use super::entries::Entries;
use super::load::{Load, Shape, Ticket};
use super::meter::Meter;
use super::pace::Pace;
use super::plan::{Peer, Plan};
use super::raw_sync::RawSync;
use super::tally::Tally;
use super::wire::Address;

/// Takes a plan's work for a while.
pub trait Target {
    /// Works for `span`, and until all that was begun is answered.
    fn round(&mut self, span: Duration, meter: &mut Meter) -> Result<()>;

    /// At the end: what there is to say of a server that isn't ours.
    fn account(&mut self, _with_count: bool) -> Result<Option<Account>> {
        Ok(None)
    }
}

/// What a peer says of itself, and what it holds.
#[derive(Debug, Clone, Serialize)]
pub struct Account {
    pub server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

/// Entries since the peer was made ready, those to warm up too.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Kept {
    pub acknowledged: u64,
    /// Sent and not acknowledged: there or not.
    pub unknown: u64,
    pub found: u64,
}

impl Kept {
    pub fn is_good(self) -> bool {
        (self.acknowledged..=self.acknowledged + self.unknown).contains(&self.found)
    }
}

/// Makes a peer ready. More of them go here: one arm each.
pub fn peer<'p>(
    peer: Peer,
    plan: &'p Plan,
    entries: &Entries,
    dir: &Path,
    stop: &'p AtomicBool,
) -> Result<Box<dyn Target + 'p>> {
    Ok(match peer {
        Peer::Noop => {
            let mut served = Served::spawn(&["noop".into(), "--child".into()])?;
            let address = served.listening().context("the reference didn't start")?;
            let (host, address) = (address.to_string(), Address::plain(address));
            let mut http = Http::new(plan, entries, address, &host, "none", stop)?;
            http.served = Some(served);
            Box::new(http)
        }
        Peer::Fdatasync => Box::new(RawSync::new(plan, entries, dir, stop)?),
        Peer::Redis | Peer::Nats | Peer::Postgres => foreign(peer, plan, entries, stop)?,
    })
}

#[cfg(feature = "peers")]
use super::peers::target as foreign;

#[cfg(not(feature = "peers"))]
fn foreign<'p>(
    peer: Peer,
    _plan: &'p Plan,
    _entries: &Entries,
    _stop: &'p AtomicBool,
) -> Result<Box<dyn Target + 'p>> {
    let name = peer.name();
    anyhow::bail!("this trialog has no client for {name}: build it with --features peers")
}

/// A server that takes entries as a trialog does.
pub struct Http<'p> {
    plan: &'p Plan,
    driver: Driver<'p, Ticket>,
    load: Load,
    /// The process, if it ends with this.
    served: Option<Served>,
}

impl<'p> Http<'p> {
    pub fn new(
        plan: &'p Plan,
        entries: &Entries,
        address: Address,
        host: &str,
        api_key: &str,
        stop: &'p AtomicBool,
    ) -> Result<Self> {
        let shape = Shape {
            host,
            api_key,
            experiments: &plan.experiments,
            zipf: plan.zipf,
            batch: plan.batch,
            seed: plan.seed,
        };
        let per_request = plan.entries_per_request();
        let tally = Tally::new(plan.experiments.len(), per_request, plan.check, plan.seed);
        Ok(Self {
            plan,
            driver: Driver::connect(address, plan.connections, stop)?,
            load: Load::new(&shape, entries, tally),
            served: None,
        })
    }

    pub fn tally(&self) -> &Tally {
        &self.load.tally
    }
}

impl Target for Http<'_> {
    fn round(&mut self, span: Duration, meter: &mut Meter) -> Result<()> {
        let begin = Instant::now();
        let pace = match self.plan.rate {
            Some(rate) => Pace::open(rate, begin, span),
            None => Pace::closed(self.plan.clients, begin),
        };
        self.driver.run(pace, &mut self.load, meter, begin + span)
    }
}

/// Whether a run is to go on.
pub fn goes_on(stop: &AtomicBool) -> bool {
    !stop.load(Ordering::Relaxed)
}
