//! Files that are gone, swapped, doubled, or something else altogether: found and named, paid for
//! with what was in them and nothing else, and left as they are.

use std::path::{Path, PathBuf};

use trialog::auth::Keyring;
use trialog::fs::sim::Crash;

use crate::rig::{Rig, SECTOR, STORE, entry, slug};
use crate::scene::{Entries, garbage, journal_file, place, spoil};
use crate::server::{EXAMPLE, Server, arg, run};

/// Two experiments of three segments and more each, and a clean end.
fn two_experiments() -> Rig {
    let mut rig = Rig::with("one");
    rig.create("two");
    rig.segment_bytes = 2048;
    for n in 0..12 {
        rig.put("one", n, 300);
        rig.put("two", n, 400);
        rig.seal();
    }
    rig.restart();
    rig.stop();
    assert!(rig.segments("one").len() > 3 && rig.segments("two").len() > 3);
    rig
}

fn of(rig: &Rig, name: &str) -> Entries {
    rig.replay_of(&Path::new(STORE).join("experiments").join(name))
        .0
}

fn acked(rig: &Rig, name: &str) -> Entries {
    rig.models[&slug(name)].acked.clone()
}

fn remove(rig: &Rig, path: &Path) {
    rig.machine.host().disk.remove_file(path).unwrap();
}

fn is_named(rig: &Rig, path: &Path) -> bool {
    let findings = rig.verified().findings;
    findings
        .iter()
        .any(|finding| path.starts_with(&finding.path))
}

/// Starts; the other experiment is whole; this one takes entries behind all that it ever gave,
/// and what it gave back before it gives back still. No file that was there has changed.
fn starts_and_goes_on(rig: &mut Rig) {
    let before = of(rig, "one");
    let files: Vec<(PathBuf, Vec<u8>)> = rig
        .machine
        .files()
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(".segment"))
        .map(|path| (path.clone(), rig.machine.read(&path).unwrap()))
        .collect();
    rig.start().unwrap();
    assert_eq!(of(rig, "two"), acked(rig, "two"));
    rig.machine.set_now_ms(1_765_000_000_000);
    let was = acked(rig, "one");
    for n in [90, 91] {
        rig.put("one", n, 100);
        rig.put("two", n, 100);
        let new = acked(rig, "one").pop().unwrap();
        assert!(was.iter().all(|(id, _)| *id < new.0), "ids rise");
        rig.seal();
        rig.restart();
        assert_eq!(of(rig, "two"), acked(rig, "two"));
        let now = of(rig, "one");
        assert_eq!(now.last(), Some(&new));
        assert_eq!(now[..before.len()], before, "what was there is there");
    }
    for (path, bytes) in files {
        let now = rig.machine.read(&path).unwrap();
        assert!(now.starts_with(&bytes), "{} has changed", path.display());
    }
    rig.stop();
}

#[test]
fn a_segment_that_is_gone_costs_what_was_in_it() {
    let whole = two_experiments();
    let segments = whole.segments("one");
    for (at, path) in segments.iter().enumerate() {
        let mut rig = whole.fork();
        let (lost, _) = rig.replay_of(path);
        remove(&rig, path);
        let mut rest = acked(&rig, "one");
        rest.retain(|entry| !lost.contains(entry));
        assert_eq!(of(&rig, "one"), rest);
        // Nothing tells that a log went on behind its last segment but what is gone itself.
        let is_last = at + 1 == segments.len();
        let behind = segments.get(at + 1).unwrap_or(path);
        assert!(is_last || is_named(&rig, behind), "{}", path.display());
        starts_and_goes_on(&mut rig);
    }
}

#[test]
fn segments_swapped_between_experiments_are_read_in_neither() {
    let whole = two_experiments();
    let (one, two) = (whole.segments("one"), whole.segments("two"));
    for (a, b) in one.iter().zip(&two) {
        let rig = whole.fork();
        let (in_one, in_two) = (rig.machine.read(a).unwrap(), rig.machine.read(b).unwrap());
        rig.machine.overwrite(a, &in_two).unwrap();
        rig.machine.overwrite(b, &in_one).unwrap();
        assert!(is_named(&rig, a) && is_named(&rig, b));
        for (name, path) in [("one", a), ("two", b)] {
            let (was, _) = whole.replay_of(path);
            let mut rest = acked(&rig, name);
            rest.retain(|entry| !was.contains(entry));
            assert_eq!(of(&rig, name), rest, "{}", path.display());
        }
        // The same for one of them alone, so that the other experiment is whole.
        let mut rig = whole.fork();
        rig.machine.overwrite(a, &in_two).unwrap();
        assert!(is_named(&rig, a) && !is_named(&rig, b));
        starts_and_goes_on(&mut rig);
        assert!(is_named(&rig, a), "still");
    }
}

#[test]
fn a_doubled_segment_gives_its_entries_once() {
    let whole = two_experiments();
    let one = whole.segments("one");
    for from in &one {
        let bytes = whole.machine.read(from).unwrap();
        let last = whole.segments("two").pop().unwrap();
        let names = ["00000000000000000001", "00000000000000000999"];
        let own = names.map(|name| one[0].with_file_name(format!("{name}.segment")));
        let other = names.map(|name| last.with_file_name(format!("{name}.segment")));
        for to in own.into_iter().chain(other) {
            let mut rig = whole.fork();
            place(&rig.machine, &to, &bytes);
            assert!(is_named(&rig, &to), "{}", to.display());
            assert_eq!(of(&rig, "one"), acked(&rig, "one"), "{}", to.display());
            assert_eq!(of(&rig, "two"), acked(&rig, "two"), "{}", to.display());
            starts_and_goes_on(&mut rig);
            assert!(is_named(&rig, &to), "still");
            assert_eq!(of(&rig, "one"), acked(&rig, "one"));
        }
    }
}

#[test]
fn a_journal_file_that_is_gone_is_told_and_costs_only_what_it_alone_held() {
    let mut whole = two_experiments();
    whole.start().unwrap();
    for n in 20..24 {
        whole.put("one", n, 300);
    }
    let safe = acked(&whole, "one");
    whole.restart();
    whole.put("one", 24, 100);
    whole.crash(Crash::LoseAll);
    for gone in [vec![1], vec![2], vec![1, 2]] {
        let mut rig = whole.fork();
        for number in &gone {
            remove(&rig, &journal_file(*number));
        }
        assert!(
            gone.iter()
                .all(|number| is_named(&rig, &journal_file(*number)))
        );
        let found = of(&rig, "one");
        assert!(found[..] == safe[..] || found == acked(&rig, "one"));
        starts_and_goes_on(&mut rig);
    }
}

#[test]
fn a_definition_that_is_gone_costs_no_entry() {
    let mut rig = two_experiments();
    let path = Path::new("/store/experiments/one/experiment.json");
    let bytes = rig.machine.read(path).unwrap();
    remove(&rig, path);
    assert!(is_named(&rig, path));
    assert_eq!(of(&rig, "one"), acked(&rig, "one"));
    rig.start().unwrap();
    rig.put("two", 50, 100);
    assert_eq!(of(&rig, "two"), acked(&rig, "two"));
    assert!(rig.append(&[("one", vec![])]).is_err());
    rig.stop();
    // Put back, it goes on.
    place(&rig.machine, path, &bytes);
    starts_and_goes_on(&mut rig);
    assert_eq!(rig.verified().findings, []);
}

#[test]
fn definitions_swapped_between_experiments_are_told_and_nothing_is_mixed() {
    let rig = two_experiments();
    let path = |name: &str| PathBuf::from(format!("/store/experiments/{name}/experiment.json"));
    let (one, two) = (path("one"), path("two"));
    let bytes = [&one, &two].map(|path| rig.machine.read(path).unwrap());
    rig.machine.overwrite(&one, &bytes[1]).unwrap();
    rig.machine.overwrite(&two, &bytes[0]).unwrap();
    let segments = [rig.segments("one"), rig.segments("two")].concat();
    assert!(segments.iter().all(|segment| is_named(&rig, segment)));
    // Put back, nothing is missing.
    rig.machine.overwrite(&one, &bytes[0]).unwrap();
    rig.machine.overwrite(&two, &bytes[1]).unwrap();
    let mut rig = rig;
    rig.check();
    starts_and_goes_on(&mut rig);
}

#[test]
fn what_a_start_cant_do_without_is_named_and_nothing_is_changed() {
    let whole = two_experiments();
    let format = Path::new("/store/FORMAT");
    for bytes in [None, Some(vec![]), Some(vec![0; 74]), Some(garbage(74, 5))] {
        let mut rig = whole.fork();
        match &bytes {
            None => remove(&rig, format),
            Some(bytes) => rig.machine.overwrite(format, bytes).unwrap(),
        }
        let refused = rig.start().unwrap_err();
        let sentence = match bytes {
            None => "/store is not a trialog store and not empty",
            Some(_) => "/store/FORMAT is damaged",
        };
        assert!(refused.contains(sentence), "{refused}");
        // Segments can still be read, one experiment at a time.
        assert_eq!(of(&rig, "one"), acked(&rig, "one"));
        assert_eq!(of(&rig, "two"), acked(&rig, "two"));
        for path in whole.machine.files() {
            let is_same = rig.machine.read(&path).ok() == whole.machine.read(&path).ok();
            assert!(is_same || path == format, "{}", path.display());
        }
    }
    for bytes in [vec![], vec![0; 300], garbage(300, 6)] {
        let rig = whole.fork();
        place(&rig.machine, Path::new("/store/keys.json"), &bytes);
        let refused = Keyring::open(&rig.machine.host(), Path::new(STORE));
        let refused = refused.err().expect("no keys can be read").to_string();
        assert!(
            refused.contains("/store/keys.json can't be read"),
            "{refused}"
        );
        assert_eq!(
            rig.machine.read(Path::new("/store/keys.json")).unwrap(),
            bytes
        );
    }
}

#[test]
fn a_large_group_that_had_not_ended_in_a_segment_without_a_beginning_stops_no_start() {
    let mut rig = two_experiments();
    rig.segment_bytes = 1 << 20;
    rig.start().unwrap();
    rig.put("one", 30, 100);
    rig.machine.stop_at(3);
    let group = (40..44).map(|n| entry("B", n, 700)).collect();
    assert!(rig.append_around("one", group).is_err());
    rig.crash(Crash::KeepAll);
    let last = rig.segments("one").pop().unwrap();
    spoil(&rig.machine, &last, |bytes| {
        bytes[..SECTOR].copy_from_slice(&garbage(SECTOR, 9));
    });
    assert!(is_named(&rig, &last));
    starts_and_goes_on(&mut rig);
}

#[test]
fn a_server_says_what_is_wrong_with_whole_files_and_serves_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let sizes = ["--segment-bytes", "65536"];
    let server = Server::start(&store, &sizes);
    let padding = "x".repeat(9000);
    let mut ids = Vec::new();
    for experiment in ["one", "two", "three"] {
        server.define(experiment);
        for n in 0..10 {
            let body = format!(r#"{{"variantKey":"A","input":{{"n":{n},"p":"{padding}"}}}}"#);
            let path = format!("/experiment/{experiment}/log");
            let id = server.ask("POST", &path, &body).log_id();
            ids.push(format!("{path}/{id}"));
        }
    }
    server.stop();
    let first = |name: &str| store.join(format!("experiments/{name}/{:020}.segment", 0));
    let bytes = ["one", "two"].map(|name| std::fs::read(first(name)).unwrap());
    std::fs::write(first("one"), &bytes[1]).unwrap();
    std::fs::write(first("two"), &bytes[0]).unwrap();
    std::fs::remove_file(store.join("journal/00000001.journal")).unwrap();
    let verified = run(&["verify", arg(&store)]);
    let told = String::from_utf8(verified.stdout).unwrap();
    assert_eq!(verified.status.code(), Some(1), "{told}");
    for words in [
        "experiments/one/00000000000000000000.segment: the segment is of another experiment",
        "experiments/two/00000000000000000000.segment: the segment is of another experiment",
        "journal/00000001.journal: ",
    ] {
        assert!(told.contains(words), "{words} is not in {told}");
    }
    assert!(!told.contains("experiments/three"), "{told}");
    let server = Server::start(&store, &sizes);
    assert!(
        server.said().contains("00000001.journal"),
        "{}",
        server.said()
    );
    assert!(server.said().contains("the file is missing"));
    for id in &ids[20..] {
        assert_eq!(server.ask("GET", id, "").status, 200, "{id}");
    }
    // The first entries of the two are where they don't belong, the last ones where they do.
    for (id, status) in [(0, 404), (9, 200), (10, 404), (19, 200)] {
        let answer = server.ask("GET", &ids[id], "");
        assert_eq!(answer.status, status, "{}: {answer:?}", ids[id]);
    }
    assert!(
        server
            .said()
            .contains("the segment is of another experiment")
    );
    server.ask("POST", "/experiment/one/log", EXAMPLE).log_id();
    server.stop();
    assert_eq!(
        std::fs::read(first("one")).unwrap(),
        bytes[1],
        "left as it is"
    );
}
