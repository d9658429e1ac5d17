//! A store of 64 KiB, and each of its 524,288 bits flipped: found and named, or shown to harm
//! nothing, and paid for with one entry at most, before a start and after it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use trialog::auth::{Keyring, NewKey, Scope};
use trialog::fs::sim::Crash;
use trialog::model::{LogId, Slug};
use trialog::offline::Source;
use trialog::offline::replay::{Selection, replay};
use trialog::offline::verify::{Finding, verify};

use crate::rig::{Rig, STORE, entry};
use crate::scene::{Entries, journal_file, spoil};

const STORE_BYTES: usize = 64 << 10;
const KEYS: usize = 4;
/// Bits that a thread takes at once.
const CHUNK_BITS: usize = 2048;

/// Sealed segments with footers, active ones, one that is in the journal only; batches in both
/// laps of the journal that the segments lack; definitions; keys whose names take up `filling`.
fn build(filling: usize) -> Rig {
    let mut rig = Rig::new(64);
    rig.segment_bytes = 9 << 10;
    rig.journal_bytes = 16 << 10;
    rig.start().unwrap();
    let (keyring, _) = Keyring::open(&rig.machine.host(), Path::new(STORE)).unwrap();
    for n in 0..KEYS {
        let new = NewKey {
            name: "k".repeat((filling + n) / KEYS),
            scopes: vec![Scope::Admin, Scope::Ingest],
            experiments: vec!["search-*".into()],
            expires_at_ms: Some(1_795_536_000_000),
        };
        keyring.create(new).unwrap();
    }
    rig.create("one");
    rig.create("two");
    rig.create("empty");
    for n in 0..24 {
        rig.put("one", n, 300 + 60 * (n as usize % 5));
        let few = (0..1 + n % 3).map(|m| entry("B", 100 * n + m, 40));
        assert_eq!(rig.append(&[("two", few.collect())]), Ok(()));
        rig.seal();
    }
    rig.put_around("one", 30, 3);
    rig.restart();
    rig.create("three");
    rig.put("three", 0, 100);
    // Some of these are in the segments too, the others in the journal only; the last one begins
    // the second lap.
    let second_lap = |rig: &Rig| rig.machine.read(&journal_file(2)).unwrap();
    let unused = second_lap(&rig);
    for n in 40.. {
        let batch = |variant, len| (0..2).map(|m| entry(variant, 10 * n + m, len)).collect();
        let groups = [("one", batch("A", 130)), ("two", batch("C", 30))];
        assert_eq!(rig.append(&groups), Ok(()));
        if second_lap(&rig) != unused {
            break;
        }
        if n == 41 {
            rig.background();
        }
    }
    rig.crash(Crash::KeepAll);
    rig
}

fn len_of(rig: &Rig) -> usize {
    let files = rig.machine.files().into_iter();
    files
        .map(|path| rig.machine.read(&path).unwrap().len())
        .sum()
}

fn store_of_64_kib() -> Rig {
    let bare = len_of(&build(KEYS));
    assert!((0..200 * KEYS).contains(&(STORE_BYTES - bare)), "{bare}");
    let missing = STORE_BYTES - bare;
    let mut rig = build(KEYS + missing);
    assert_eq!(len_of(&rig), STORE_BYTES);
    rig.check();
    rig
}

/// All that can be read of a store without starting it.
#[derive(PartialEq)]
struct Look {
    /// By experiment, in log order.
    entries: BTreeMap<Slug, Entries>,
    findings: Vec<Finding>,
}

/// What a store says of itself; or with which sentence it refuses.
fn look(rig: &Rig) -> Result<Look, String> {
    let disk = rig.machine.host().disk;
    let report = verify(disk.clone(), Path::new(STORE)).map_err(|e| e.to_string())?;
    let source = Source::open(disk, Path::new(STORE)).map_err(|e| e.to_string())?;
    let mut entries: BTreeMap<Slug, Entries> = BTreeMap::new();
    let outcome = replay(&source, &Selection::default(), |entry| {
        let of_slug = entries.entry(entry.slug.clone()).or_default();
        of_slug.push((entry.id, entry.body.to_vec()));
        Ok(())
    });
    outcome.map_err(|e| e.to_string())?;
    Ok(Look {
        entries,
        findings: report.findings,
    })
}

/// What becomes of a store: before a start, and after one.
struct Fate {
    before: Result<Look, String>,
    /// What the start said, and what can be read then.
    start: Result<Look, String>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

fn fate(rig: &Rig) -> Fate {
    let before = look(rig);
    let mut rig = rig.fork();
    let keys = Keyring::open(&rig.machine.host(), Path::new(STORE)).map(|_| ());
    let started = rig.start().and(keys.map_err(|error| error.to_string()));
    let start = started.and_then(|()| {
        rig.kill();
        look(&rig)
    });
    let files = rig.machine.files().into_iter();
    let read = |path: PathBuf| (path.clone(), rig.machine.read(&path).unwrap());
    Fate {
        before,
        start,
        files: files.map(read).collect(),
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    found: usize,
    harmless: usize,
    cost_an_entry: usize,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.found += other.found;
        self.harmless += other.harmless;
        self.cost_an_entry += other.cost_an_entry;
    }
}

struct Sweep<'a> {
    whole: &'a Fate,
}

impl Sweep<'_> {
    /// What the flip of this bit came to; or what is wrong with that.
    fn judge(&self, path: &Path, bit: usize, fate: &Fate) -> Result<Tally, String> {
        let mut tally = Tally::default();
        if self.is_harmless(path, bit, fate) {
            tally.harmless = 1;
            return Ok(tally);
        }
        let whole = self.whole.before.as_ref().map_err(String::clone)?;
        for look in [&fate.before, &fate.start].into_iter().flatten() {
            let lost = lost(&look.entries, &whole.entries).ok_or("a wrong entry")?;
            if lost.len() > 1 {
                return Err(format!("lost: {lost:?}"));
            }
            tally.cost_an_entry = lost.len().max(tally.cost_an_entry);
        }
        if !is_found(path, bit / 8, fate) {
            return Err(format!("not found: {:?}", told(fate)));
        }
        tally.found = 1;
        if let (Ok(before), Ok(after)) = (&fate.before, &fate.start)
            && before.entries != after.entries
        {
            return Err("a start changed what can be read".into());
        }
        Ok(tally)
    }

    /// Nothing that can be read is different, and nothing is called damaged, before a start and
    /// after it; and after it no byte of any file is another, but for the flipped one itself, if
    /// nothing was written there.
    fn is_harmless(&self, path: &Path, bit: usize, fate: &Fate) -> bool {
        let whole = self.whole;
        if fate.before != whole.before || fate.start != whole.start {
            return false;
        }
        fate.files.len() == whole.files.len()
            && fate.files.iter().all(|(name, bytes)| {
                let Some(expected) = whole.files.get(name) else {
                    return false;
                };
                if name != path || bytes.len() != expected.len() {
                    return bytes == expected;
                }
                let differs = |at: &usize| bytes[*at] != expected[*at];
                let mut others = (0..bytes.len()).filter(differs);
                others.all(|at| at == bit / 8)
            })
    }
}

/// Whether the file is named with the place, or as a whole.
fn is_found(path: &Path, byte: usize, fate: &Fate) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    // A flipped version is told as a later one, before anything else is looked at.
    let is_named = |said: &String| said.contains(name) || said.contains("store format");
    match (&fate.before, &fate.start) {
        (Err(said), Err(refused)) => is_named(said) && is_named(refused),
        (Err(_), Ok(_)) => false,
        // No reader needs the keys; a server does, and says so.
        (Ok(_), Err(refused)) => name == "keys.json" && is_named(refused),
        (Ok(look), Ok(_)) => look.findings.iter().any(|finding| match &finding.range {
            Some(range) => finding.path == path && range.contains(&(byte as u64)),
            None => path.starts_with(&finding.path),
        }),
    }
}

fn told(fate: &Fate) -> Vec<String> {
    let told = |look: &Result<Look, String>| match look {
        Ok(look) => format!("{:?}", look.findings),
        Err(said) => said.clone(),
    };
    vec![told(&fate.before), told(&fate.start)]
}

/// The entries of `whole` that are not there; `None` when others are.
fn lost(entries: &BTreeMap<Slug, Entries>, whole: &BTreeMap<Slug, Entries>) -> Option<Vec<LogId>> {
    let mut lost = Vec::new();
    for (slug, whole) in whole {
        let mut found = entries.get(slug).into_iter().flatten().peekable();
        for entry in whole {
            if found.next_if_eq(&entry).is_none() {
                lost.push(entry.0);
            }
        }
        if found.next().is_some() {
            return None;
        }
    }
    Some(lost)
}

#[test]
fn each_flipped_bit_of_a_store_of_64_kib_is_found_or_harmless_and_costs_one_entry_at_most() {
    let rig = store_of_64_kib();
    let whole = fate(&rig);
    let findings = whole.before.as_ref().map(|look| look.findings.len());
    assert_eq!(findings.ok(), Some(0), "{:?}", told(&whole));
    let files = rig.machine.files().into_iter();
    let mut chunks = Vec::new();
    for path in files {
        let bits = rig.machine.read(&path).unwrap().len() * 8;
        let begins = (0..bits).step_by(CHUNK_BITS);
        chunks.extend(begins.map(|begin| (path.clone(), begin..bits.min(begin + CHUNK_BITS))));
    }
    let sweep = Sweep { whole: &whole };
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let judged = std::thread::scope(|scope| {
        let work = |rig: Rig| {
            let (chunks, next, sweep) = (&chunks, &next, &sweep);
            move || {
                let mut judged = Vec::new();
                while let Some((path, bits)) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for bit in bits.clone() {
                        let flip = |bytes: &mut Vec<u8>| bytes[bit / 8] ^= 1 << (bit % 8);
                        spoil(&rig.machine, path, flip);
                        judged.push((path, bit, sweep.judge(path, bit, &fate(&rig))));
                        spoil(&rig.machine, path, flip);
                    }
                }
                judged
            }
        };
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(work(rig.fork())))
            .collect();
        let judged = workers.into_iter().map(|worker| worker.join().unwrap());
        judged.flatten().collect::<Vec<_>>()
    });
    assert_eq!(judged.len(), STORE_BYTES * 8);
    let mut by_kind: BTreeMap<&str, (usize, Tally)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (path, bit, tally) in judged {
        let kind = path.extension().or(path.file_name()).unwrap();
        let (bits, sum) = by_kind.entry(kind.to_str().unwrap()).or_default();
        *bits += 1;
        match tally {
            Ok(tally) => sum.add(tally),
            Err(what) => wrong.push(format!("{} bit {bit}: {what}", path.display())),
        }
    }
    for (kind, (bits, tally)) in &by_kind {
        eprintln!("{kind}: {bits} bits, {tally:?}");
    }
    let first = &wrong[..wrong.len().min(10)];
    assert!(wrong.is_empty(), "{} wrong, as {first:#?}", wrong.len());
    let (bits, journal) = by_kind["journal"];
    assert!(
        journal.found > bits / 5,
        "much of it is batches: {journal:?}"
    );
    assert_eq!(
        journal.cost_an_entry, 0,
        "a batch with one wrong bit is whole"
    );
}
