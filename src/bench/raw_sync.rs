//! The raw disk: the same bytes, written one after the other and synced each, with nothing around it.
//! No log that syncs for each entry can be faster.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::entries::Entries;
use super::meter::Meter;
use super::pace::Pace;
use super::plan::Plan;
use super::target::{Target, goes_on};
use crate::fs::{File, real, write_all_at};

/// The file is zeroed once and written again and again, as the journal is: a file that grows costs
/// twice as much for each sync.
const FILE_BYTES: u64 = 64 << 20;

pub struct RawSync<'p> {
    plan: &'p Plan,
    bodies: Vec<String>,
    next: usize,
    file: Arc<dyn File>,
    at: u64,
    stop: &'p AtomicBool,
}

impl<'p> RawSync<'p> {
    /// With a new file in `dir`.
    pub fn new(
        plan: &'p Plan,
        entries: &Entries,
        dir: &Path,
        stop: &'p AtomicBool,
    ) -> Result<Self> {
        let disk = real::host().disk;
        let path = dir.join("raw");
        let file = disk.create(&path);
        let file = file.with_context(|| format!("can't make {}", path.display()))?;
        let zeros = vec![0; 1 << 20];
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            write_all_at(&*file, &zeros, offset)?;
        }
        file.sync_data()?;
        disk.sync_dir(dir)?;
        Ok(Self {
            plan,
            bodies: entries.bodies.clone(),
            next: 0,
            file,
            at: 0,
            stop,
        })
    }

    fn append(&mut self) -> Result<()> {
        let mut bytes = Vec::new();
        for _ in 0..self.plan.entries_per_request() {
            let body = self.bodies.get(self.next).map(String::as_bytes);
            bytes.extend_from_slice(body.unwrap_or_default());
            self.next = (self.next + 1) % self.bodies.len().max(1);
        }
        let len = bytes.len() as u64;
        if self.at + len > FILE_BYTES {
            self.at = 0;
        }
        write_all_at(&*self.file, &bytes, self.at)?;
        self.at += len;
        Ok(self.file.sync_data()?)
    }
}

impl Target for RawSync<'_> {
    fn round(&mut self, span: Duration, meter: &mut Meter) -> Result<()> {
        let begin = Instant::now();
        let end = begin + span;
        let mut pace = match self.plan.rate {
            Some(rate) => Pace::open(rate, begin, span),
            None => Pace::closed(1, begin),
        };
        meter.begin_round(begin);
        let mut now = begin;
        while now < end && goes_on(self.stop) {
            match pace.take(now) {
                Some(begun) => {
                    self.append().context("the raw loop failed")?;
                    now = Instant::now();
                    meter.acknowledged(now - begun);
                    pace.answered(now);
                }
                None => {
                    let next = pace.next().unwrap_or(end).min(end);
                    std::thread::sleep(next.saturating_duration_since(now));
                    now = Instant::now();
                }
            }
            meter.tick(now)?;
        }
        meter.left_unsent(pace.unsent());
        meter.end_round(Instant::now())
    }
}
