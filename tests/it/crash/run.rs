//! Doing what a schedule says, and checking what is left after each end of a life.

use std::collections::BTreeMap;

use trialog::model::Durability;

use super::schedule::{CutOff, End, How, NAMES, Schedule, Step};
use crate::lies::Lie;
use crate::model::Leeway;
use crate::rig::{Life, Rig, entry};

/// What happened in runs.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub schedules: u64,
    /// Those of them with more than one crash.
    pub with_several_crashes: u64,
    /// Those of them with a crash while the store recovered.
    pub with_crash_in_recovery: u64,
    /// Those of them in which a call failed.
    pub with_failed_call: u64,
    pub crashes: u64,
    pub kills: u64,
    pub stops: u64,
    pub acknowledged: u64,
    /// Groups taken back, since the journal was full and stuck.
    pub taken_back: u64,
    /// Segments dropped by retention.
    pub dropped: u64,
    /// Crashes and kills at a change to the disk, by what was being done.
    pub inside: BTreeMap<&'static str, u64>,
}

/// Runs a schedule on a store with this bug, if any; says what is wrong.
pub fn run(schedule: &Schedule, lie: Option<Lie>) -> Result<Seen, String> {
    let mut runner = Runner::new(schedule, lie)?;
    for step in &schedule.steps {
        let doing = runner.perform(step)?;
        runner.must_take_entries()?;
        runner.end_if_due(doing)?;
    }
    runner.end(&End {
        how: How::Stop,
        after: None,
        recovery: Vec::new(),
    })?;
    Ok(runner.finish())
}

struct Runner {
    rig: Rig,
    now_ms: i64,
    entries: u64,
    /// An end that is to come at this count of changes.
    pending: Option<(End, u64)>,
    /// How many calls had failed when this life began.
    failed_before: u64,
    /// A sync failed, so the page cache showed what recovery, which asks the disk, may not find.
    was_cache_wrong: bool,
    /// Crashes, and those in recovery, of this run alone.
    seen: Seen,
    crashes_in_recovery: u64,
}

impl Runner {
    fn new(schedule: &Schedule, lie: Option<Lie>) -> Result<Self, String> {
        let mut rig = Rig::new(schedule.seed);
        rig.durability = schedule.durability;
        rig.segment_bytes = schedule.segment_bytes;
        rig.journal_bytes = schedule.journal_bytes;
        rig.background_at = schedule.background_at;
        rig.lie = lie;
        rig.start()?;
        for name in NAMES {
            rig.create(name);
        }
        Ok(Self {
            rig,
            now_ms: 1_764_000_000_000,
            entries: 0,
            pending: None,
            failed_before: 0,
            was_cache_wrong: false,
            seen: Seen::default(),
            crashes_in_recovery: 0,
        })
    }

    /// Does one step, and says what it was.
    fn perform(&mut self, step: &Step) -> Result<&'static str, String> {
        let rig = &mut self.rig;
        let entries = &mut self.entries;
        let mut next = |variant: &str, padding| {
            *entries += 1;
            entry(variant, *entries, padding)
        };
        match step {
            Step::Append {
                which,
                count,
                padding,
            } => {
                let group = (0..*count).map(|i| next(["A", "B", "C"][i % 3], *padding));
                let group = group.collect();
                let rolls = rig.rolls;
                let _failing = rig.append(&[(NAMES[*which], group)]);
                return Ok(if rig.rolls > rolls { "roll" } else { "append" });
            }
            Step::AppendToAll { padding } => {
                let groups = NAMES.map(|name| (name, vec![next("A", *padding)]));
                let _failing = rig.append(&groups);
                return Ok("append to all");
            }
            Step::AppendAround { which, count } => {
                let group = (0..*count).map(|_| next("B", 700)).collect();
                let _failing = rig.append_around(NAMES[*which], group);
                return Ok("large group");
            }
            Step::Send { which, request } => {
                rig.send(NAMES[*which], *request);
                return Ok("request with keys");
            }
            Step::Read { which, pick } => rig.read(NAMES[*which], *pick),
            Step::Background => {
                let is_checkpoint = rig.needs_checkpoint();
                rig.background();
                return Ok(if is_checkpoint {
                    "checkpoint"
                } else {
                    "write-out"
                });
            }
            Step::Seal => {
                rig.seal();
                return Ok("seal");
            }
            Step::Idle { which } => {
                rig.idle(NAMES[*which]);
                return Ok("leaving");
            }
            Step::Retain { which, limits } => {
                rig.retain(NAMES[*which], limits);
                return Ok("retention");
            }
            Step::Remake { which } => {
                rig.delete(NAMES[*which]);
                rig.create(NAMES[*which]);
                return Ok("deletion and making");
            }
            Step::Delete { which } => {
                rig.delete(NAMES[*which]);
                return Ok("deletion");
            }
            Step::Clock { step_ms } => {
                self.now_ms = (self.now_ms + step_ms).max(1_700_000_000_000);
                rig.machine.set_now_ms(self.now_ms as u64);
            }
            Step::Fail(fault) => rig.machine.fail(fault.clone()),
            Step::End(end) => self.take_end(end)?,
        }
        Ok("other")
    }

    /// A store of which no call failed in this life takes entries.
    fn must_take_entries(&self) -> Result<(), String> {
        let has_failed = |life: &Life| life.parts.shared.is_failed();
        if self.rig.life.as_ref().is_some_and(has_failed)
            && self.rig.machine.failed_count() == self.failed_before
        {
            return Err("no call failed, and yet nothing more is acknowledged".into());
        }
        Ok(())
    }

    fn take_end(&mut self, end: &End) -> Result<(), String> {
        match (end.after, &self.pending) {
            (Some(_), Some(_)) => Ok(()),
            (Some(after), None) => {
                self.rig.machine.stop_at(after);
                let at = self.rig.machine.change_count() + after;
                self.pending = Some((end.clone(), at));
                Ok(())
            }
            // The power may go while the server stops.
            (None, Some(_)) if end.how == How::Stop => {
                self.rig.stop();
                self.end_if_due("clean stop")?;
                match self.rig.life {
                    Some(_) => Ok(()),
                    None => self.end(end),
                }
            }
            (None, _) => self.end(end),
        }
    }

    fn end_if_due(&mut self, doing: &'static str) -> Result<(), String> {
        let changes = self.rig.machine.change_count();
        let Some((end, _)) = self.pending.take_if(|(_, at)| changes >= *at) else {
            return Ok(());
        };
        *self.seen.inside.entry(doing).or_default() += 1;
        self.end(&end)
    }

    /// Ends this life, checks what is left, lets recovery be cut off, and begins the next life.
    fn end(&mut self, end: &End) -> Result<(), String> {
        self.pending = None;
        if end.how == How::Stop && self.rig.life.is_some() {
            self.rig.stop();
        }
        self.after(end.how, false)?;
        for cut_off in &end.recovery {
            match cut_off {
                CutOff::End(how, after) => {
                    self.rig.machine.stop_at(*after);
                    let is_inside = self.rig.start().is_err();
                    self.rig.life = None;
                    self.after(*how, is_inside)?;
                }
                CutOff::Fail(fault) => {
                    self.rig.machine.fail(fault.clone());
                    let _may_go_well = self.rig.start();
                    self.rig.life = None;
                    self.after(How::Kill, false)?;
                }
            }
        }
        let leeway = Leeway {
            ends_may_be_lost: self.is_relaxed() && self.was_cache_wrong,
            settles: true,
        };
        self.was_cache_wrong = false;
        let started = self.rig.start();
        started.map_err(|error| format!("the server doesn't start: {error}"))?;
        self.failed_before = self.rig.machine.failed_count();
        let checked = self.rig.try_check(leeway);
        checked.map_err(|why| format!("once recovered: {why}"))?;
        for name in NAMES {
            self.rig.create(name);
        }
        Ok(())
    }

    /// The machine after an end; what is left on it is checked.
    fn after(&mut self, how: How, is_in_recovery: bool) -> Result<(), String> {
        self.was_cache_wrong |= self.rig.machine.is_cache_wrong();
        let is_crash = match how {
            How::Crash(crash) => {
                self.rig.crash(crash);
                self.seen.crashes += 1;
                self.crashes_in_recovery += u64::from(is_in_recovery);
                true
            }
            How::Kill | How::Stop => {
                self.rig.kill();
                self.seen.kills += u64::from(how == How::Kill);
                self.seen.stops += u64::from(how == How::Stop);
                false
            }
        };
        self.rig.machine.heal();
        let checked = self.rig.try_check(Leeway {
            ends_may_be_lost: self.is_relaxed() && (is_crash || self.was_cache_wrong),
            settles: is_crash,
        });
        let place = if is_in_recovery { " in recovery" } else { "" };
        checked.map_err(|why| format!("after {how:?}{place}: {why}"))
    }

    fn is_relaxed(&self) -> bool {
        self.rig.durability == Durability::Relaxed
    }

    fn finish(mut self) -> Seen {
        let acked = self.rig.models.values().map(|model| model.acked.len());
        self.seen.acknowledged = acked.sum::<usize>() as u64;
        self.seen.taken_back = self.rig.taken_back;
        self.seen.dropped = self.rig.dropped;
        self.seen.schedules = 1;
        self.seen.with_several_crashes = u64::from(self.seen.crashes > 1);
        self.seen.with_crash_in_recovery = u64::from(self.crashes_in_recovery > 0);
        self.seen.with_failed_call = u64::from(self.rig.machine.fault_count() > 0);
        self.seen
    }
}

impl Seen {
    /// Adds what was seen elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.with_several_crashes += other.with_several_crashes;
        self.with_crash_in_recovery += other.with_crash_in_recovery;
        self.with_failed_call += other.with_failed_call;
        self.crashes += other.crashes;
        self.kills += other.kills;
        self.stops += other.stops;
        self.acknowledged += other.acknowledged;
        self.taken_back += other.taken_back;
        self.dropped += other.dropped;
        for (doing, count) in &other.inside {
            *self.inside.entry(doing).or_default() += count;
        }
    }
}
