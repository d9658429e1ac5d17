//! Reading by selection against a plain filter over all that was logged: any log, any query, both
//! orders, in one go and page by page; with damage; before and after entries are durable. And what
//! it costs, counted in bytes.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use trialog::fs::Disk;
use trialog::log::cursor::{Lost, Met, Reading};
use trialog::log::open::open;
use trialog::log::segment_file::Incarnation;
use trialog::log::select::{Order, Selection};
use trialog::log::view::LogView;
use trialog::log::writer::{LogOptions, Staged};
use trialog::model::{LogId, NewEntry};
use trialog::offline::Source;
use trialog::offline::replay::{self, replay};

use crate::rig::{Rig, SECTOR, STORE, entry, slug};

const SEEDS: u64 = 400;
const T0: u64 = 1_764_000_000_000;

/// An entry, as a test knows it.
#[derive(Debug, Clone, PartialEq)]
struct Logged {
    id: LogId,
    at_ms: u64,
    body: Vec<u8>,
}

impl Logged {
    fn is_of(&self, variant: &str) -> bool {
        let begin = format!(r#"{{"variantKey":"{variant}","#);
        self.body.starts_with(begin.as_bytes())
    }

    /// The filter, as plain as can be.
    fn is_in(&self, selection: &Selection) -> bool {
        let variants = &selection.variants;
        (variants.is_empty() || variants.iter().any(|variant| self.is_of(variant)))
            && selection.after.is_none_or(|after| self.id > after)
            && selection.before.is_none_or(|before| self.id < before)
            && selection.since_ms.is_none_or(|since| self.at_ms >= since)
            && selection.until_ms.is_none_or(|until| self.at_ms < until)
    }
}

/// What a cursor gives, up to `limit` entries.
#[derive(Debug, Default)]
struct Given {
    entries: Vec<Logged>,
    lost: Vec<Lost>,
    has_more: bool,
    reading: Reading,
}

fn read(
    view: &LogView,
    disk: &Arc<dyn Disk>,
    selection: &Selection,
    order: Order,
    limit: usize,
) -> Given {
    let mut given = Given::default();
    let mut cursor = view.cursor(disk.clone(), selection.clone(), order);
    loop {
        let more = cursor.step(&mut |met| match met {
            Met::Entry(_) if given.entries.len() == limit => {
                given.has_more = true;
                ControlFlow::Break(())
            }
            Met::Entry(entry) => {
                given.entries.push(Logged {
                    id: entry.id,
                    at_ms: entry.received_at_ms,
                    body: entry.body.to_vec(),
                });
                ControlFlow::Continue(())
            }
            Met::Lost(lost) => {
                given.lost.push(lost);
                ControlFlow::Continue(())
            }
        });
        if !more.unwrap() || given.has_more {
            given.reading = cursor.reading();
            return given;
        }
    }
}

/// As [`read`], page by page, each from the last id of the one before.
fn read_paged(
    view: &LogView,
    disk: &Arc<dyn Disk>,
    selection: &Selection,
    order: Order,
    limit: usize,
) -> Vec<Logged> {
    let mut selection = selection.clone();
    let mut entries = Vec::new();
    loop {
        let page = read(view, disk, &selection, order, limit);
        let last = page.entries.last().map(|entry| entry.id);
        entries.extend(page.entries);
        if !page.has_more {
            return entries;
        }
        match order {
            Order::OldestFirst => selection.after = last,
            Order::NewestFirst => selection.before = last,
        }
    }
}

/// A log with a history, and all of its entries.
fn filled(seed: u64, rng: &mut Rng) -> (Rig, Vec<Logged>) {
    let mut rig = Rig::new(seed);
    rig.segment_bytes = [4096, 150 << 10, 600 << 10][rng.usize(..3)];
    rig.journal_bytes = 4 << 20;
    rig.start().unwrap();
    rig.create("one");
    let mut all: Vec<Logged> = Vec::new();
    let mut now = T0;
    for n in 0..rng.u64(5..40) {
        match rng.u8(..12) {
            0..=7 => {
                // Now and then the clock is set back.
                now = (now + rng.u64(..5000)).saturating_sub(rng.u64(..800));
                rig.machine.set_now_ms(now);
                let entries = (0..rng.u64(1..40)).map(|k| any_entry(n * 100 + k, rng));
                let entries: Vec<_> = entries.collect();
                rig.append(&[("one", entries)]).unwrap();
                let acked = &rig.models[&slug("one")].acked;
                let new = acked[all.len()..].iter();
                all.extend(new.map(|(id, body)| Logged {
                    id: *id,
                    at_ms: now,
                    body: body.clone(),
                }));
            }
            8 => rig.background(),
            9 => rig.seal(),
            10 => rig.idle("one"),
            _ => rig.restart(),
        }
    }
    assert_eq!(rig.wrong, None, "seed {seed}");
    (rig, all)
}

fn any_entry(n: u64, rng: &mut Rng) -> NewEntry {
    let variant = ["A", "A", "A", "A", "B", "B", "C"][rng.usize(..7)];
    let padding = match rng.u8(..20) {
        0 => rng.usize(..60_000),
        1..=8 => rng.usize(..2000),
        _ => rng.usize(..60),
    };
    entry(variant, n, padding)
}

fn any_selection(all: &[Logged], rng: &mut Rng) -> Selection {
    let id = |rng: &mut Rng| {
        let near = rng.choice(all).map_or(1, |entry| entry.id.as_u128());
        Some(LogId::from_u128(near + rng.u128(..3) - 1)).filter(|_| rng.bool())
    };
    let (after, before) = (id(rng), id(rng));
    let time = |rng: &mut Rng| {
        let near = rng.choice(all).map_or(T0, |entry| entry.at_ms);
        Some(near + rng.u64(..3) - 1).filter(|_| rng.u8(..3) == 0)
    };
    let (since_ms, until_ms) = (time(rng), time(rng));
    let variants: &[&str] = [&[][..], &["A"], &["B"], &["C"], &["D"], &["C", "B"]][rng.usize(..6)];
    Selection {
        variants: variants.iter().map(|key| (*key).to_owned()).collect(),
        after,
        before,
        since_ms,
        until_ms,
    }
}

fn expected(all: &[Logged], selection: &Selection, order: Order) -> Vec<Logged> {
    let mut wanted: Vec<_> = all
        .iter()
        .filter(|entry| entry.is_in(selection))
        .cloned()
        .collect();
    if order == Order::NewestFirst {
        wanted.reverse();
    }
    wanted
}

#[test]
fn any_query_of_any_log_gives_what_a_plain_filter_gives() {
    let mut given_count = 0;
    for seed in 0..SEEDS {
        let rng = &mut Rng::with_seed(seed);
        let (mut rig, all) = filled(seed, rng);
        let (view, disk) = (rig.view("one"), rig.machine.host().disk);
        for query in 0..12 {
            let selection = any_selection(&all, rng);
            let order = [Order::OldestFirst, Order::NewestFirst][rng.usize(..2)];
            let case = format!("seed {seed}, query {query}: {selection:?} {order:?}");
            let expected = expected(&all, &selection, order);
            let given = read(&view, &disk, &selection, order, usize::MAX);
            assert_eq!(given.lost, [], "{case}");
            assert!(given.entries == expected, "{case}");
            let paged = read_paged(&view, &disk, &selection, order, rng.usize(1..60));
            assert!(paged == expected, "{case}, page by page");
            given_count += given.entries.len();
        }
    }
    assert!(
        given_count > 100_000,
        "only {given_count} entries were given"
    );
}

#[test]
fn around_damage_all_that_is_whole_is_given_and_what_is_lost_is_told() {
    let mut lost_count = 0;
    for seed in 0..SEEDS {
        let rng = &mut Rng::with_seed(seed ^ 0x6461_6d61);
        let (mut rig, all) = filled(seed, rng);
        rig.stop();
        let what = damage(&rig, rng);
        rig.start().unwrap();
        let whole = replayed(&rig);
        let (view, disk) = (rig.view("one"), rig.machine.host().disk);
        for query in 0..12 {
            let selection = any_selection(&all, rng);
            let order = [Order::OldestFirst, Order::NewestFirst][rng.usize(..2)];
            let case = format!("seed {seed}, {what}, query {query}: {selection:?} {order:?}");
            let given = read(&view, &disk, &selection, order, usize::MAX);
            assert!(
                given.entries == expected(&whole, &selection, order),
                "{case}"
            );
            let is_given = |id| given.entries.iter().any(|entry| entry.id == id);
            for entry in expected(&all, &selection, order) {
                let is_told = given.lost.iter().any(|lost| {
                    entry.id > lost.after && lost.before.is_none_or(|before| entry.id < before)
                });
                assert!(
                    is_given(entry.id) || is_told,
                    "{case}: {} is missing without a word of {:?}",
                    entry.id,
                    given.lost
                );
                lost_count += usize::from(!is_given(entry.id));
            }
        }
    }
    assert!(lost_count > 500, "only {lost_count} entries were lost");
}

/// Damages a segment in one place, cuts it short, or takes one away that isn't the last.
fn damage(rig: &Rig, rng: &mut Rng) -> String {
    let segments = rig.segments("one");
    let Some(path) = rng.choice(&segments) else {
        return "no damage".into();
    };
    let mut bytes = rig.machine.read(path).unwrap();
    let is_last = segments.last() == Some(path);
    match rng.u8(..8) {
        0 if !is_last => {
            rig.machine.host().disk.remove_file(path).unwrap();
            return format!("{} removed", path.display());
        }
        1 if !is_last => bytes.truncate(rng.usize(512..bytes.len())),
        _ => {
            let begin = rng.usize(..bytes.len());
            let len = [1, 1, 1, 50, 250][rng.usize(..5)];
            for byte in bytes.iter_mut().skip(begin).take(len) {
                *byte ^= rng.u8(1..);
            }
            let place = format!("{} hit at {begin} ({len})", path.display());
            rig.machine.overwrite(path, &bytes).unwrap();
            return place;
        }
    }
    let place = format!("{} cut to {}", path.display(), bytes.len());
    rig.machine.overwrite(path, &bytes).unwrap();
    place
}

/// What an offline reader finds whole.
fn replayed(rig: &Rig) -> Vec<Logged> {
    let source = Source::open(rig.machine.host().disk, Path::new(STORE)).unwrap();
    let mut entries = Vec::new();
    let outcome = replay(&source, &replay::Selection::default(), |entry| {
        entries.push(Logged {
            id: entry.id,
            at_ms: entry.received_at_ms,
            body: entry.body.to_vec(),
        });
        Ok(())
    });
    outcome.unwrap();
    entries
}

/// A log of 20,000 entries of about 430 bytes in segments of 1 MiB, a second apart for each hundred;
/// each hundredth is of the variant "rare". Sealed but for its end, or all of it in memory.
fn large(is_sealed: bool) -> (Rig, Vec<Logged>) {
    let mut rig = Rig::new(1);
    rig.segment_bytes = 1 << 20;
    rig.journal_bytes = 32 << 20;
    rig.start().unwrap();
    rig.create("one");
    for batch in 0..200 {
        rig.machine.set_now_ms(T0 + batch * 1000);
        let variant = |k| if k == 37 { "rare" } else { "often" };
        let entries = (0..100).map(|k| entry(variant(k), batch * 100 + k, 310));
        rig.append(&[("one", entries.collect())]).unwrap();
    }
    if is_sealed {
        rig.seal();
        rig.restart();
    }
    let acked = rig.models[&slug("one")].acked.iter().enumerate();
    let all = acked.map(|(n, (id, body))| Logged {
        id: *id,
        at_ms: T0 + n as u64 / 100 * 1000,
        body: body.clone(),
    });
    let all = all.collect();
    (rig, all)
}

#[test]
fn indexes_are_used_as_the_bytes_that_are_read_show() {
    for is_sealed in [true, false] {
        let (mut rig, all) = large(is_sealed);
        let (view, disk) = (rig.view("one"), rig.machine.host().disk);
        let cost = |selection: &Selection| {
            let given = read(&view, &disk, selection, Order::OldestFirst, usize::MAX);
            let expected = expected(&all, selection, Order::OldestFirst);
            assert!(given.entries == expected && !expected.is_empty());
            given.reading
        };
        let whole = cost(&Selection::default());
        let log_bytes: usize = all.iter().map(|entry| entry.body.len()).sum();
        assert!(
            whole.bytes > log_bytes as u64 && whole.segments >= 8,
            "{whole:?}"
        );

        let rare = cost(&Selection {
            variants: vec!["rare".into()],
            ..Selection::default()
        });
        assert!(rare.bytes * 20 <= whole.bytes, "{rare:?} of {whole:?}");

        // Some seconds in the middle of a segment or over the end of one.
        for second in [40, 41, 42, 100, 199] {
            let range = cost(&Selection {
                since_ms: Some(T0 + second * 1000),
                until_ms: Some(T0 + second * 1000 + 2000),
                ..Selection::default()
            });
            assert!(range.segments <= 2, "{range:?}");
            assert!(range.bytes <= range.segments * (rig.segment_bytes + (64 << 10)));
        }

        let ids = cost(&Selection {
            after: Some(all[7_000].id),
            before: Some(all[7_011].id),
            ..Selection::default()
        });
        assert!(ids.bytes <= 2 * (64 << 10) + 1024, "{ids:?}");
    }
}

#[test]
fn a_segments_times_are_read_from_its_footer_alone() {
    let (mut rig, all) = large(true);
    let (view, disk) = (rig.view("one"), rig.machine.host().disk);
    let selection = Selection {
        since_ms: Some(T0 + 20_000),
        until_ms: Some(T0 + 21_000),
        ..Selection::default()
    };
    let given = read(&view, &disk, &selection, Order::OldestFirst, usize::MAX);
    assert_eq!(
        given.entries,
        expected(&all, &selection, Order::OldestFirst)
    );
    // The first one to ask: all footers, and the frames of one segment.
    assert_eq!(given.reading.segments, 1);
    assert!(given.reading.bytes < rig.segment_bytes + 9 * (16 << 10));
}

#[test]
fn only_what_is_durable_is_read_also_behind_the_end_of_a_segment() {
    let rig = Rig::with("one");
    let host = rig.machine.host();
    let dir = Path::new(STORE).join("experiments/one");
    let options = LogOptions {
        store_id: 7,
        slug: slug("one"),
        incarnation: Incarnation::new(9),
        dir,
        segment_bytes: 4096,
        sector_bytes: SECTOR,
    };
    let mut writer = open(options, host.clone()).unwrap().writer;
    let view = writer.view().clone();
    let ids = |order| {
        let given = read(&view, &host.disk, &Selection::default(), order, usize::MAX);
        assert_eq!(given.lost, []);
        given
            .entries
            .iter()
            .map(|entry| entry.id)
            .collect::<Vec<_>>()
    };
    // Three groups of which the third begins a new segment; none is durable.
    let groups: Vec<Staged> = (0..3)
        .map(|n| {
            writer
                .stage(&[entry("A", n, 1100), entry("B", n, 20)])
                .unwrap()
        })
        .collect();
    assert!(groups[2].closed.is_some() && groups[1].closed.is_none());
    let mut durable = Vec::new();
    for group in groups {
        for id in &group.ids {
            assert!(!durable.contains(id));
            assert_eq!(view.get(&*host.disk, *id).unwrap(), None, "not durable yet");
        }
        assert_eq!(ids(Order::OldestFirst), durable);
        let _scheduled = group
            .segment
            .file
            .push_durable(group.offset, group.bytes.into());
        durable.extend(group.ids);
        assert_eq!(ids(Order::OldestFirst), durable);
        let newest_first: Vec<_> = durable.iter().rev().copied().collect();
        assert_eq!(ids(Order::NewestFirst), newest_first);
    }
}

/// A reader that stands in the middle of the log holds nothing that a writer needs, and costs it no call.
#[test]
fn readers_cost_a_writer_nothing() {
    let calls = |reader_count: usize| {
        let mut rig = Rig::with("one");
        rig.segment_bytes = 16 << 10;
        let some = |n: u64| {
            (0..20)
                .map(|k| entry("A", n * 20 + k, 300))
                .collect::<Vec<_>>()
        };
        for n in 0..20 {
            rig.append(&[("one", some(n))]).unwrap();
        }
        rig.background();
        let (view, disk) = (rig.view("one"), rig.machine.host().disk);
        let orders = [Order::OldestFirst, Order::NewestFirst];
        let mut readers: Vec<_> = (0..reader_count)
            .map(|n| view.cursor(disk.clone(), Selection::default(), orders[n % 2]))
            .collect();
        let mut met = 0;
        for reader in &mut readers {
            // To open a segment, and to read a block of it.
            for _ in 0..2 {
                let mut take = |_: Met<'_>| {
                    met += 1;
                    ControlFlow::Continue(())
                };
                assert!(reader.step(&mut take).unwrap());
            }
        }
        assert!(met >= reader_count, "each is in the middle");
        rig.machine.record();
        for n in 20..40 {
            rig.append(&[("one", some(n))]).unwrap();
        }
        let recorded = rig.machine.recorded();
        drop(readers);
        recorded
    };
    let without = calls(0);
    assert!(without.len() >= 40, "{without:?}");
    assert_eq!(calls(50), without);
}
