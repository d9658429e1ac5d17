//! Every entry that an audit sends, what was answered, and what a look at the files makes of it.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Result, bail};
use fastrand::Rng;

use super::answer::Answer;
use super::api::Server;
use super::driver::Work;
use super::load::{Shape, head};
use super::plan::Plan;
use super::spread::Spread;
use super::tally::ids;
use super::verdict::Verdict;
use crate::fs::real;
use crate::model::{LogId, Slug};
use crate::offline::Source;
use crate::offline::replay::{Replayed, Selection, replay};
use crate::offline::verify::verify;

/// The longest text in an entry.
const TEXT_LEN_MAX: usize = 2000;

/// The book of all entries. Each has a number, from which its experiment and every byte of it follow,
/// so that no copy is kept.
pub struct Ledger {
    seed: u64,
    experiments: Vec<Slug>,
    variants: Vec<String>,
    batch: Option<usize>,
    zipf: Option<f64>,
    spread: Spread,
    heads: Vec<Vec<u8>>,
    text: String,
    entries: Vec<Fate>,
    acknowledged: u64,
    unknown: u64,
    unknown_found: u64,
}

/// What is known of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It was sent, and may be there or not.
    Open,
    /// It must be there under this id.
    Kept(LogId),
    /// It must not be there: it was refused, or an earlier look did not find it.
    Gone,
}

impl Ledger {
    pub fn new(plan: &Plan, seed: u64) -> Self {
        Self::with(plan.experiments.clone(), plan.batch, plan.zipf, seed)
    }

    fn with(experiments: Vec<Slug>, batch: Option<usize>, zipf: Option<f64>, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let text = (0..2 * TEXT_LEN_MAX).map(|_| random.alphanumeric());
        Self {
            seed,
            spread: Spread::new(experiments.len(), zipf),
            experiments,
            variants: ["A", "B"].map(String::from).into(),
            batch,
            zipf,
            heads: Vec::new(),
            text: text.collect(),
            entries: Vec::new(),
            acknowledged: 0,
            unknown: 0,
            unknown_found: 0,
        }
    }

    /// The variants that entries name.
    pub fn variants(&self) -> &[String] {
        &self.variants
    }

    /// Entries that were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Entries without an answer that were found.
    pub fn unknown_found(&self) -> u64 {
        self.unknown_found
    }

    /// From now on requests go to this server.
    pub fn ask_at(&mut self, server: &Server) {
        let shape = Shape {
            host: &server.host,
            api_key: &server.api_key,
            experiments: &self.experiments,
            zipf: self.zipf,
            batch: self.batch,
            seed: self.seed,
        };
        let heads = self.experiments.iter().map(|slug| head(&shape, slug));
        self.heads = heads.collect();
    }

    /// Looks for all entries in the files of a store that nobody serves, and settles what was open:
    /// it is there for good now, or never.
    pub fn look(&mut self, store: &Path) -> Result<Verdict> {
        let disk = real::host().disk;
        let damage = verify(disk.clone(), store)?.findings.into_iter();
        let mut look = Look::new(self, damage.map(|found| found.what).collect());
        let source = Source::open(disk, store)?;
        replay(&source, &Selection::default(), |entry| {
            look.meet(self, &entry);
            Ok(())
        })?;
        Ok(self.settle(look))
    }

    fn settle(&mut self, look: Look) -> Verdict {
        let mut verdict = look.verdict;
        let per_request = self.batch.unwrap_or(1);
        let requests = self
            .entries
            .chunks_mut(per_request)
            .zip(look.seen.chunks(per_request));
        for (fates, seen) in requests {
            let is_open = fates.first() == Some(&Fate::Open);
            let found = seen.iter().flatten().count();
            if is_open && found > 0 {
                self.unknown_found += found as u64;
                verdict.torn += u64::from(found < fates.len());
            }
            for (fate, seen) in fates.iter_mut().zip(seen) {
                match (*fate, seen) {
                    (Fate::Open, Some(id)) => *fate = Fate::Kept(*id),
                    (Fate::Open, None) => *fate = Fate::Gone,
                    (Fate::Kept(_), None) => verdict.lost += 1,
                    (Fate::Kept(id), Some(seen)) => verdict.changed += u64::from(id != *seen),
                    (Fate::Gone, Some(_)) => verdict.unexpected += 1,
                    (Fate::Gone, None) => {}
                }
            }
        }
        verdict.acknowledged = self.acknowledged;
        verdict.unknown = self.unknown;
        verdict
    }

    /// Where the request that begins with this entry goes.
    fn experiment_of(&self, n: usize) -> usize {
        let first = n - n % self.batch.unwrap_or(1);
        self.spread.choose(&mut self.random_of(first))
    }

    fn random_of(&self, n: usize) -> Rng {
        Rng::with_seed(self.seed ^ (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Writes an entry: its number stands in its context.
    fn write_entry(&self, n: usize, out: &mut Vec<u8>) {
        let mut random = self.random_of(n);
        // The first number chose the experiment.
        let _experiment = random.u64(..);
        let variant = if random.bool() { "A" } else { "B" };
        // Mostly short, now and then long.
        let len = random.usize(..TEXT_LEN_MAX) >> random.u32(..6);
        let begin = random.usize(..TEXT_LEN_MAX);
        let text = self.text.get(begin..begin + len).unwrap_or_default();
        let context = format!(r#"{CONTEXT}{n}}},"variantKey":"{variant}","input":{{"text":""#);
        out.extend_from_slice(context.as_bytes());
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\"}}");
    }

    /// Fates of the entries of one request.
    fn fates(&mut self, first: usize) -> impl Iterator<Item = &mut Fate> {
        let per_request = self.batch.unwrap_or(1);
        self.entries.iter_mut().skip(first).take(per_request)
    }

    fn leave_open(&mut self) {
        self.unknown += self.batch.unwrap_or(1) as u64;
    }
}

/// What stands in front of an entry's number.
const CONTEXT: &str = r#"{"context":{"audit":"#;

impl Work for Ledger {
    /// The number of the first entry.
    type Ticket = usize;

    fn next(&mut self, out: &mut Vec<u8>) -> usize {
        let first = self.entries.len();
        let mut body = Vec::new();
        for n in first..first + self.batch.unwrap_or(1) {
            self.entries.push(Fate::Open);
            if n > first {
                body.push(b'\n');
            }
            self.write_entry(n, &mut body);
        }
        let head = self.heads.get(self.experiment_of(first));
        out.extend_from_slice(head.map(Vec::as_slice).unwrap_or_default());
        out.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        out.extend_from_slice(&body);
        first
    }

    fn answered(&mut self, first: usize, answer: &Answer<'_>) -> Result<()> {
        match answer.status {
            200 => {
                let mut count = 0;
                for (fate, id) in self.fates(first).zip(ids(answer.body)) {
                    *fate = Fate::Kept(id);
                    count += 1;
                }
                self.acknowledged += count;
            }
            400..500 => bail!("the server refuses entries: {}", answer.words()),
            503 | 507 => self.fates(first).for_each(|fate| *fate = Fate::Gone),
            _ => self.leave_open(),
        }
        Ok(())
    }

    fn lost(&mut self, _first: usize) {
        self.leave_open();
    }
}

/// One reading of a whole store.
struct Look {
    verdict: Verdict,
    last_ids: HashMap<Slug, LogId>,
    /// Under which id each entry was seen.
    seen: Vec<Option<LogId>>,
}

impl Look {
    fn new(ledger: &Ledger, damage: Vec<String>) -> Self {
        Self {
            verdict: Verdict {
                damage,
                ..Verdict::default()
            },
            last_ids: HashMap::new(),
            seen: vec![None; ledger.entries.len()],
        }
    }

    fn meet(&mut self, ledger: &Ledger, entry: &Replayed<'_>) {
        self.verdict.found += 1;
        match self.last_ids.get_mut(entry.slug) {
            Some(last) if entry.id <= *last => self.verdict.doubled += 1,
            Some(last) => *last = entry.id,
            None => {
                self.last_ids.insert(entry.slug.clone(), entry.id);
            }
        }
        let number = number_of(entry.body);
        let place = number.and_then(|n| Some((n, self.seen.get_mut(n)?)));
        let Some((n, seen)) = place else {
            self.verdict.unexpected += 1;
            return;
        };
        let mut sent = Vec::new();
        ledger.write_entry(n, &mut sent);
        let is_in_place = ledger.experiments.get(ledger.experiment_of(n)) == Some(entry.slug);
        if !is_in_place || sent != entry.body {
            self.verdict.changed += 1;
        }
        if seen.replace(entry.id).is_some() {
            self.verdict.doubled += 1;
        }
    }
}

fn number_of(body: &[u8]) -> Option<usize> {
    let rest = std::str::from_utf8(body).ok()?.strip_prefix(CONTEXT)?;
    rest.split_once('}')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLUGS: [&str; 3] = ["a", "b", "c"];

    /// A ledger with `count` requests of two entries each, of which the last is not answered, and
    /// the one before was refused.
    fn ledger(count: usize) -> Ledger {
        let mut ledger = Ledger::with(
            SLUGS.map(|slug| Slug::parse(slug).unwrap()).into(),
            Some(2),
            None,
            7,
        );
        for n in 0..count {
            let first = ledger.next(&mut Vec::new());
            assert_eq!(first, 2 * n);
            let [one, two] = [id(first), id(first + 1)];
            let body = format!(r#"{{"logIds":["{one}","{two}"]}}"#);
            let mut answer = Answer {
                status: 200,
                body: body.as_bytes(),
                len: 0,
                is_last: false,
            };
            if n + 1 == count {
                ledger.lost(first);
            } else {
                answer.status = if n + 2 == count { 503 } else { 200 };
                ledger.answered(first, &answer).unwrap();
            }
        }
        ledger
    }

    fn id(n: usize) -> LogId {
        LogId::from_u128(n as u128 + 1)
    }

    /// What is in a store, in the order of its log.
    type There = Vec<(usize, LogId, Vec<u8>, Slug)>;

    fn there(ledger: &Ledger, numbers: impl IntoIterator<Item = usize>) -> There {
        let entry = |n: usize| {
            let mut body = Vec::new();
            ledger.write_entry(n, &mut body);
            let slug = ledger.experiments[ledger.experiment_of(n)].clone();
            (n, id(n), body, slug)
        };
        numbers.into_iter().map(entry).collect()
    }

    fn looked(ledger: &mut Ledger, there: &There) -> Verdict {
        let mut look = Look::new(ledger, Vec::new());
        for (_, id, body, slug) in there {
            let entry = Replayed {
                slug,
                id: *id,
                received_at_ms: 0,
                body,
            };
            look.meet(ledger, &entry);
        }
        ledger.settle(look)
    }

    /// What a look finds beside the counts, as `[lost, doubled, changed, unexpected, torn]`.
    fn found(change: impl FnOnce(&mut There)) -> [u64; 5] {
        let mut ledger = ledger(10);
        let mut there = there(&ledger, 0..16);
        change(&mut there);
        let found = looked(&mut ledger, &there);
        assert_eq!((found.acknowledged, found.unknown), (16, 2));
        [
            found.lost,
            found.doubled,
            found.changed,
            found.unexpected,
            found.torn,
        ]
    }

    #[test]
    fn what_is_wrong_is_found_and_nothing_else() {
        assert_eq!(found(|_| {}), [0; 5]);
        assert_eq!(found(|there| drop(there.remove(3))), [1, 0, 0, 0, 0]);
        let changed = found(|there| *there[3].2.last_mut().unwrap() = b' ');
        assert_eq!(changed, [0, 0, 1, 0, 0]);
        let moved = found(|there| {
            let other = SLUGS.into_iter().find(|slug| *slug != there[3].3.as_str());
            there[3].3 = Slug::parse(other.unwrap()).unwrap();
        });
        assert_eq!(moved, [0, 0, 1, 0, 0]);
        let renamed = found(|there| there.last_mut().unwrap().1 = id(40));
        assert_eq!(renamed, [0, 0, 1, 0, 0]);
        // Under its own id it is also out of order; under another it also has the wrong one.
        let again = found(|there| there.push(there.last().unwrap().clone()));
        assert_eq!(again, [0, 2, 0, 0, 0]);
        let as_another = found(|there| {
            let (n, _, body, slug) = there[3].clone();
            there.push((n, id(40), body, slug));
        });
        assert_eq!(as_another, [0, 1, 1, 0, 0]);
        let of_nobody = found(|there| {
            let slug = there[0].3.clone();
            there.push((0, id(41), b"{}".to_vec(), slug));
        });
        assert_eq!(of_nobody, [0, 0, 0, 1, 0]);
    }

    #[test]
    fn what_was_refused_or_gone_once_must_not_come_back() {
        let mut ledger = ledger(10);
        let refused = there(&ledger, (0..16).chain([16]));
        assert_eq!(looked(&mut ledger, &refused).unexpected, 1);
        // The last request was not answered, and is not there now: for good.
        let back = there(&ledger, (0..16).chain([18, 19]));
        assert_eq!(looked(&mut ledger, &back).unexpected, 2);
    }

    #[test]
    fn what_was_not_answered_is_there_whole_or_not_at_all_and_then_stays() {
        for (numbers, torn) in [(&[18, 19][..], 0), (&[19], 1)] {
            let mut ledger = ledger(10);
            let seen = there(&ledger, (0..16).chain(numbers.iter().copied()));
            assert_eq!(looked(&mut ledger, &seen).torn, torn);
            assert_eq!(ledger.unknown_found(), numbers.len() as u64);
            let without = there(&ledger, 0..16);
            assert_eq!(looked(&mut ledger, &without).lost, numbers.len() as u64);
        }
    }
}
