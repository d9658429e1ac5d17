//! Fifty-seven short histories, and the power gone at each single call that changes the disk, with each
//! subset of what was not synced then: up to ten such things all of them, of more a sample.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use trialog::auth::{Keyring, NewKey, Scope};
use trialog::fs::sim::Crash;
use trialog::log::expiry::Limits;

use crate::rig::{Rig, STORE, entry};

/// Up to this many unsynced things, every subset is tried.
const ALL_SUBSETS_MAX: usize = 10;
/// Of more, so many.
const SAMPLES: u64 = 400;
/// After every so many of the crashes the store is also written to.
const GO_ON_EVERY: usize = 4;
/// And after every so many the power goes once more, at each call of the start.
const CRASH_AGAIN_EVERY: usize = 199;

/// Each letter is a step:
/// `a`, `A` an entry, a longer one; `t` one of the second experiment; `g` three in one group;
/// `2` a batch of two experiments; `L` a large group around the journal; `b` a round of the
/// background work; `s` sealing; `i` the actor leaves; `d`, `m` the second experiment is deleted,
/// made; `x` what is closed of the first one is dropped; `k` a key is made; `R` a clean end and a start; `K`, `X`, `Y` a kill, a power cut that
/// loses all, that keeps all, and a start. Each history begins with a start.
const HISTORIES: [&str; 57] = [
    "",
    "a",
    "ab",
    "aab",
    "ag",
    "gAb",
    "2",
    "2b2",
    "22b",
    "tat",
    "AAAA",
    "AAAAb",
    "AAAAs",
    "AAsAAsb",
    "AAAsbRa",
    "gAsgAsb",
    "2A2A2sb",
    "AAARAAs",
    "aaaaaaa",
    "aaaabaaaabaaa",
    "2222222",
    "2b2b2b2b2",
    "AbAbAbAbA",
    "aaaaaRaaaa",
    "ai",
    "abia",
    "aabiabia",
    "tbita",
    "AAsbiAb",
    "iaib",
    "L",
    "aLa",
    "Lb",
    "LL",
    "bLaLb",
    "aLKa",
    "LAsLb",
    "2L2b",
    "aLRLa",
    "d",
    "tdm",
    "tbdmt",
    "tdmtb",
    "dmRt",
    "tbdbmtKt",
    "k",
    "kk",
    "akRk",
    "aKaXaYa",
    "AAsKAXLYb",
    "AAAAsx",
    "AAAAsbxb",
    "AAAAsxAAAsx",
    "AAAAsxKAxX",
    "AAsxRAAAsxb",
    "AALAsxbLAx",
    "AAAAsxibA",
];

fn put(rig: &mut Rig, n: &mut u64, name: &str, count: u64, padding: usize) {
    *n += count;
    let entries = (*n - count..*n).map(|n| entry("A", n, padding)).collect();
    let _dead = rig.append(&[(name, entries)]);
}

/// One step; keys that were made are counted.
fn step(rig: &mut Rig, letter: char, n: &mut u64, keys: &mut usize) {
    match letter {
        'a' => put(rig, n, "one", 1, 40),
        'A' => put(rig, n, "one", 1, 700),
        't' => put(rig, n, "two", 1, 100),
        'g' => put(rig, n, "one", 3, 60),
        '2' => {
            *n += 1;
            let groups = ["one", "two"].map(|name| (name, vec![entry("B", *n, 90)]));
            let _dead = rig.append(&groups);
        }
        'L' => {
            *n += 3;
            let entries = (*n - 3..*n).map(|n| entry("B", n, 300)).collect();
            let _dead = rig.append_around("one", entries);
        }
        'b' => rig.background(),
        's' => rig.seal(),
        'i' => rig.idle("one"),
        'd' => rig.delete("two"),
        'm' => rig.create("two"),
        'x' => rig.retain("one", &NOTHING),
        'k' => *keys += usize::from(make_key(rig)),
        other => panic!("no step: {other}"),
    }
}

fn make_key(rig: &Rig) -> bool {
    let Ok((keyring, _)) = Keyring::open(&rig.machine.host(), Path::new(STORE)) else {
        return false;
    };
    let new = NewKey {
        name: "ci".into(),
        scopes: vec![Scope::Ingest],
        experiments: Vec::new(),
        expires_at_ms: None,
    };
    keyring.create(new).is_ok()
}

/// Where histories begin: the first one on an empty disk.
fn before(is_first: bool, seed: u64) -> Rig {
    let mut rig = Rig::new(seed);
    rig.segment_bytes = 2048;
    rig.journal_bytes = 12 << 10;
    if !is_first {
        rig.start().unwrap();
        rig.create("one");
        rig.create("two");
        put(&mut rig, &mut 1000, "one", 1, 30);
        rig.stop();
    }
    rig
}

/// Nothing is kept that may be dropped.
const NOTHING: Limits = Limits {
    age_ms_max: None,
    bytes_max: Some(0),
    number_end: None,
};

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    /// Calls at which the power went.
    moments: usize,
    /// Those of them with every subset.
    whole: usize,
    crashes: usize,
    /// Second ones, within the start after a first.
    in_recovery: usize,
}

/// The history on a machine whose power goes at this call that changes the disk; how many keys
/// were made, and whether the power did go.
fn lived(history: &str, base: &Rig, at: u64) -> (Rig, usize, bool) {
    let mut rig = base.fork();
    let until = rig.machine.change_count() + at;
    let (mut n, mut keys) = (0, 0);
    rig.machine.stop_at(at);
    let _dead = rig.start();
    for letter in history.chars() {
        if rig.machine.change_count() >= until {
            break;
        }
        if !matches!(letter, 'R' | 'K' | 'X' | 'Y') {
            step(&mut rig, letter, &mut n, &mut keys);
            continue;
        }
        // The next life's power goes when this one's would have.
        let left = until - rig.machine.change_count();
        if letter == 'R' {
            rig.stop();
        } else {
            match letter {
                'K' => rig.kill(),
                'X' => rig.crash(Crash::LoseAll),
                _ => rig.crash(Crash::KeepAll),
            }
            rig.machine.stop_at(left);
        }
        if rig.machine.change_count() < until {
            let _dead = rig.start();
        }
    }
    let has_gone = rig.machine.change_count() >= until;
    (rig, keys, has_gone)
}

fn crash_everywhere(history: &str, number: u64) -> Count {
    let base = before(history.is_empty(), number);
    let mut count = Count::default();
    for at in 0.. {
        let (left, keys, has_gone) = lived(history, &base, at);
        count.moments += 1;
        let (subsets, is_all) = subsets(&left, number << 32 | at);
        count.whole += usize::from(is_all);
        for bits in subsets {
            count.crashes += 1;
            let nth = count.crashes;
            let come_back = AssertUnwindSafe(|| come_back(&left, bits, keys, nth));
            match std::panic::catch_unwind(come_back) {
                Ok(again) => count.in_recovery += again,
                Err(_) => panic!("history {history:?}, call {at}, subset {bits:#b}"),
            }
        }
        if !has_gone {
            return count;
        }
    }
    unreachable!("every history ends")
}

/// What a crash may keep, and whether that is all there is.
fn subsets(left: &Rig, seed: u64) -> (Vec<u64>, bool) {
    let unsynced = left.machine.unsynced_count();
    if unsynced <= ALL_SUBSETS_MAX {
        return ((0..1 << unsynced).collect(), true);
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let ends = [0, u64::MAX].into_iter();
    let chosen = ends.chain((0..SAMPLES).map(|_| random.u64(..)));
    (chosen.collect(), false)
}

/// The power goes again, at each call of the start, with each subset; says how often.
fn crash_in_recovery(crashed: &Rig) -> usize {
    let mut count = 0;
    for at in 0.. {
        let mut left = crashed.fork();
        left.machine.stop_at(at);
        let is_up = left.start().is_ok();
        for bits in subsets(&left, at).0 {
            count += 1;
            let mut rig = left.fork();
            rig.crash(Crash::Subset(bits));
            check(&mut rig);
            let started = rig.start();
            assert_eq!(started, Ok(()), "call {at} of the start, subset {bits:#b}");
            rig.check();
        }
        if is_up {
            break;
        }
    }
    count
}

/// Nothing can be owed before there is a whole store.
fn check(rig: &mut Rig) {
    let experiments = Path::new(STORE).join("experiments");
    if rig.machine.host().disk.list(&experiments).is_ok() {
        rig.check();
    } else {
        assert!(rig.models.is_empty());
    }
}

/// The power is back: what was promised is there, before a start, after it, and further on.
fn come_back(left: &Rig, bits: u64, keys: usize, nth: usize) -> usize {
    let mut rig = left.fork();
    rig.crash(Crash::Subset(bits));
    let again = match nth % CRASH_AGAIN_EVERY {
        0 => crash_in_recovery(&rig),
        _ => 0,
    };
    check(&mut rig);
    rig.start().unwrap();
    rig.check();
    let (keyring, _) = Keyring::open(&rig.machine.host(), Path::new(STORE)).unwrap();
    let there = keyring.list().len();
    assert!(
        (keys..=keys + 1).contains(&there),
        "{there} keys, {keys} were made"
    );
    if nth.is_multiple_of(GO_ON_EVERY) {
        rig.create("three");
        for name in ["one", "three"] {
            let _may_be_gone = rig.append(&[(name, vec![entry("C", 5000, 50)])]);
        }
        rig.background();
        rig.crash(Crash::LoseAll);
        rig.check();
    }
    again
}

#[test]
fn a_crash_at_every_call_of_57_histories_with_every_subset_of_what_was_not_synced() {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let work = || {
        let mut counts = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(history) = HISTORIES.get(number) else {
                return counts;
            };
            counts.push(crash_everywhere(history, number as u64));
        }
    };
    let counts = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let counts = workers.into_iter().map(|worker| worker.join().unwrap());
        counts.flatten().collect::<Vec<_>>()
    });
    let mut sum = Count::default();
    for count in &counts {
        sum.moments += count.moments;
        sum.whole += count.whole;
        sum.crashes += count.crashes;
        sum.in_recovery += count.in_recovery;
    }
    eprintln!("crashes in {} short histories: {sum:?}", counts.len());
    assert!(sum.whole * 10 > sum.moments * 9, "{sum:?}");
    assert!(sum.crashes > 30_000, "{sum:?}");
    assert!(sum.in_recovery > 30_000, "{sum:?}");
}
