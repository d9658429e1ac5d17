//! The proof that users can run themselves: a server of our own under load is killed with SIGKILL at
//! random moments and started again, and after each end all entries are looked for.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fastrand::Rng;
use serde::Serialize;

use super::driver::Driver;
use super::ledger::Ledger;
use super::meter::Meter;
use super::own::{self, Scratch};
use super::pace::Pace;
use super::plan::Plan;
use super::report::grouped;
use super::target::goes_on;
use super::verdict::Verdict;

/// After so many kills it goes on with a new store: each end is followed by a look at everything.
const KILLS_PER_STORE: u32 = 10;
/// Each so-many-th kill meets a start: before it, in the middle of it or just behind it.
const STARTS_EACH: u32 = 4;
/// How long a start lives that is to be killed, at most.
const START_MS_MAX: u64 = 60;

/// What an audit found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Audited {
    /// How often a server was killed.
    pub kills: u32,
    /// How many of these were killed while they started.
    pub kills_at_start: u32,
    /// Counts over all stores, as they are at their ends.
    pub verdict: Verdict,
    /// Of the unknown entries, those that are there.
    pub unknown_found: u64,
    /// Where the store is kept when something is wrong with it.
    pub kept: Option<String>,
}

/// Hears how it goes.
pub type Words<'w> = &'w dyn Fn(&str);

/// Kills `kills` times, and sees what is left. Ends early when something is wrong.
pub fn audit(plan: &Plan, kills: u32, stop: &AtomicBool, say: Words<'_>) -> Result<Audited> {
    let mut audited = Audited::default();
    let mut random = Rng::with_seed(plan.seed);
    while audited.kills < kills && goes_on(stop) {
        let count = KILLS_PER_STORE.min(kills - audited.kills);
        let mut scratch = Scratch::make(&plan.dir)?;
        let seed = random.u64(..);
        let mut store = Store {
            plan,
            // On average the kills fill the time that the whole may take.
            life_max: 2 * plan.duration / kills.max(1),
            scratch: &scratch,
            ledger: Ledger::new(plan, seed),
            random: random.fork(),
            stop,
        };
        let lived = store.live(count, kills, &mut audited, say);
        let is_good = lived.is_ok() && audited.verdict.is_good();
        if !is_good {
            let kept = scratch.keep().join("store");
            lived.with_context(|| format!("the store is kept in {}", kept.display()))?;
            audited.kept = Some(kept.display().to_string());
            break;
        }
    }
    Ok(audited)
}

/// One store, over all its lives.
struct Store<'a> {
    plan: &'a Plan,
    life_max: Duration,
    scratch: &'a Scratch,
    ledger: Ledger,
    random: Rng,
    stop: &'a AtomicBool,
}

impl Store<'_> {
    fn live(&mut self, count: u32, of: u32, audited: &mut Audited, say: Words<'_>) -> Result<()> {
        for n in 0..count {
            if !goes_on(self.stop) {
                break;
            }
            let before = self.ledger.acknowledged();
            let is_at_start = n % STARTS_EACH == STARTS_EACH - 1;
            let lived = match is_at_start {
                true => self.killed_at_start()?,
                false => self.killed_under_load()?,
            };
            audited.kills += 1;
            audited.kills_at_start += u32::from(is_at_start);
            let verdict = self.ledger.look(&self.scratch.store())?;
            say(&format!(
                "kill {} of {of}, {} ms after {}: {} entries acknowledged, {} in all; {}",
                audited.kills,
                lived.as_millis(),
                if is_at_start {
                    "its start"
                } else {
                    "the load began"
                },
                grouped(self.ledger.acknowledged() - before),
                grouped(verdict.found),
                if verdict.is_good() {
                    "all is well"
                } else {
                    "NOT as it should be"
                },
            ));
            if !verdict.is_good() {
                audited.take(verdict, &self.ledger);
                return Ok(());
            }
        }
        // And once more after an end in good order.
        let (served, _) = own::start(&self.scratch.store(), &self.plan.serve_flags)?;
        served.stop()?;
        let verdict = self.ledger.look(&self.scratch.store())?;
        audited.take(verdict, &self.ledger);
        Ok(())
    }

    fn killed_under_load(&mut self) -> Result<Duration> {
        let (served, server) = own::start(&self.scratch.store(), &self.plan.serve_flags)?;
        server.prepare(&self.plan.experiments, self.ledger.variants(), true)?;
        self.ledger.ask_at(&server);
        let mut driver = Driver::connect(server.address.clone(), self.plan.connections, self.stop)?;
        let mut meter = Meter::new("audit", self.plan.entries_per_request(), None)?;
        let begin = Instant::now();
        let life = self.life_max.mul_f64(self.random.f64());
        let mut pace = Pace::closed(self.plan.clients, begin);
        driver.send_until(begin + life, &mut pace, &mut self.ledger, &mut meter)?;
        let lived = begin.elapsed();
        served.kill()?;
        // What it had answered before may still be on its way.
        driver.drain(&mut self.ledger, &mut meter)?;
        Ok(lived)
    }

    fn killed_at_start(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        let served = own::spawn(&self.scratch.store(), &self.plan.serve_flags)?;
        std::thread::sleep(Duration::from_micros(
            self.random.u64(..START_MS_MAX * 1000),
        ));
        let lived = begin.elapsed();
        served.kill()?;
        Ok(lived)
    }
}

impl Audited {
    /// The last look at a store.
    fn take(&mut self, seen: Verdict, ledger: &Ledger) {
        self.verdict.add(seen);
        self.unknown_found += ledger.unknown_found();
    }
}
