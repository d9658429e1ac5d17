//! The plainest model of what a store must hold, and the comparison of a store with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use trialog::model::{LogId, Slug};
use trialog::offline::Source;
use trialog::offline::replay::{Selection, replay};
use trialog::offline::verify::verify_source;

use crate::rig::{Rig, STORE};

/// What one experiment must hold.
#[derive(Default, Clone, Debug)]
pub struct Model {
    /// Acknowledged entries, in order.
    pub acked: Vec<(LogId, Vec<u8>)>,
    /// Groups that were not acknowledged: each is there whole or not at all.
    pub unsure: Vec<Vec<(LogId, Vec<u8>)>>,
    /// All up to this one was dropped, or may have been.
    pub dropped_through: Option<LogId>,
    /// Whether it may have been; once its log is opened that is decided.
    pub is_drop_unsure: bool,
    /// Whether it must be there itself.
    pub presence: Presence,
}

/// Whether an experiment must be there.
#[derive(Default, Clone, Copy, Debug, PartialEq)]
pub enum Presence {
    #[default]
    There,
    /// Its making was cut off, or failed: it may be there, empty.
    MaybeMade,
    /// Its deletion was cut off, or failed: it may be there, whole.
    MaybeGone,
}

/// What a check puts up with.
#[derive(Clone, Copy, Debug)]
pub struct Leeway {
    /// The last ones of what was acknowledged may be lost: with relaxed durability alone.
    pub ends_may_be_lost: bool,
    /// What is seen is on the disk, so what was unsure is settled from then on. After a kill it
    /// may be in the page cache only.
    pub settles: bool,
}

impl Leeway {
    /// All that was acknowledged is there.
    pub const NONE: Self = Self {
        ends_may_be_lost: false,
        settles: true,
    };
}

impl Rig {
    /// As [`Self::try_check`], with no leeway.
    pub fn check(&mut self) {
        self.try_check(Leeway::NONE).unwrap();
    }

    /// Checks every promise: acknowledged entries are there, equal, in order; others whole or not
    /// at all, and never back once they were absent; ids rise; nothing is called damaged. What was
    /// unsure is settled from then on. Says what is wrong.
    pub fn try_check(&mut self, leeway: Leeway) -> Result<(), String> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        if leeway.settles {
            self.look_at_drops();
        }
        let disk = self.machine.host().disk;
        let source = Source::open(disk, Path::new(STORE)).map_err(|e| format!("opening: {e}"))?;
        // Beside a life that goes on it says less, and the next end comes.
        if self.life.is_none() {
            let report = verify_source(&source);
            let report = report.map_err(|error| format!("verify: {error}"))?;
            if let Some(finding) = report.findings.first() {
                return Err(format!("a verdict of damage: {finding:?}"));
            }
        }
        let dirs = source.experiment_dirs();
        let names = dirs.filter_map(|dir| Slug::parse(dir.file_name()?.to_str()?).ok());
        let there: BTreeSet<Slug> = names.collect();
        let models = self.models.iter().filter(|(name, _)| there.contains(*name));
        let mut walks: BTreeMap<&Slug, Walk<'_>> = models
            .map(|(name, model)| (name, Walk::new(model)))
            .collect();
        let outcome = replay(&source, &Selection::default(), |entry| {
            let walk = walks.get_mut(entry.slug);
            let taken = match walk {
                Some(walk) => walk.take(entry.id, entry.body),
                None => Err(format!("{} is of no experiment that is there", entry.id)),
            };
            taken.map_err(|why| io::Error::other(format!("{}: {why}", entry.slug)))
        });
        let outcome = outcome.map_err(|error| error.to_string())?;
        if !outcome.damages.is_empty() || !outcome.unreadable.is_empty() {
            return Err(format!("replay met damage: {outcome:?}"));
        }
        let mut settled = BTreeMap::new();
        for (name, walk) in walks {
            let seen = walk.end(leeway).map_err(|why| format!("{name}: {why}"))?;
            settled.insert(name.clone(), seen);
        }
        self.settle(&there, settled, leeway)
    }

    fn settle(
        &mut self,
        there: &BTreeSet<Slug>,
        mut settled: BTreeMap<Slug, Settled>,
        leeway: Leeway,
    ) -> Result<(), String> {
        if let Some(back) = there.iter().find(|name| !self.models.contains_key(*name)) {
            return Err(format!("{back} is there, and must not be"));
        }
        let is_lost = |(name, model): &(&Slug, &Model)| {
            model.presence == Presence::There && !there.contains(*name)
        };
        if let Some((lost, _)) = self.models.iter().find(is_lost) {
            return Err(format!("the experiment {lost} is lost"));
        }
        if !leeway.settles {
            return Ok(());
        }
        self.models.retain(|name, _| there.contains(name));
        for (name, model) in &mut self.models {
            let seen = settled.remove(name).unwrap_or_default();
            model.acked.truncate(seen.acked_count);
            let unsure = std::mem::take(&mut model.unsure).into_iter();
            for (group, is_there) in unsure.zip(seen.groups) {
                if is_there {
                    model.acked.extend(group);
                }
            }
            model.acked.sort_by_key(|(id, _)| *id);
            model.by_key().map_err(|why| format!("{name}: {why}"))?;
            model.presence = Presence::There;
        }
        Ok(())
    }
}

/// What was seen of an experiment.
#[derive(Default)]
struct Settled {
    acked_count: usize,
    groups: Vec<bool>,
}

/// Compares an experiment's entries with its model, one by one.
struct Walk<'a> {
    /// All that may be there, by id, each with the number of its group when it is unsure.
    expected: Vec<(LogId, &'a [u8], Option<usize>)>,
    at: usize,
    acked_count: usize,
    /// How many entries each unsure group has, and how many of them are there.
    groups: Vec<(usize, usize)>,
}

impl<'a> Walk<'a> {
    fn new(model: &'a Model) -> Self {
        let acked = model.acked.iter();
        let mut expected: Vec<_> = acked.map(|(id, body)| (*id, &**body, None)).collect();
        for (number, group) in model.unsure.iter().enumerate() {
            let entries = group.iter();
            expected.extend(entries.map(|(id, body)| (*id, &**body, Some(number))));
        }
        expected.sort_by_key(|(id, ..)| *id);
        Self {
            expected,
            at: 0,
            acked_count: 0,
            groups: model.unsure.iter().map(|group| (group.len(), 0)).collect(),
        }
    }

    fn take(&mut self, found: LogId, found_body: &[u8]) -> Result<(), String> {
        while let Some((id, body, group)) = self.expected.get(self.at) {
            self.at += 1;
            match group {
                _ if id == &found && *body != found_body => return Err(format!("{id} is changed")),
                Some(group) if id == &found => self.groups[*group].1 += 1,
                None if id == &found => self.acked_count += 1,
                _ if id > &found => break,
                Some(_) => continue,
                None => return Err(format!("{id} was acknowledged and is lost")),
            }
            return Ok(());
        }
        Err(format!("{found} was absent before, or is out of order"))
    }

    fn end(self, leeway: Leeway) -> Result<Settled, String> {
        let rest = self.expected.iter().skip(self.at);
        let mut lost = rest.filter(|(_, _, group)| group.is_none());
        if let (Some((id, ..)), false) = (lost.next(), leeway.ends_may_be_lost) {
            return Err(format!("{id} was acknowledged and is lost at the end"));
        }
        if self
            .groups
            .iter()
            .any(|(len, there)| *there != 0 && there != len)
        {
            return Err("a group is there in part".into());
        }
        let groups = self.groups.iter();
        Ok(Settled {
            acked_count: self.acked_count,
            groups: groups.map(|(_, there)| *there > 0).collect(),
        })
    }
}
