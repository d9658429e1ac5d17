//! `trialog backup`: beside a server under load, of a killed one's store, on a disk that fills, beside
//! retention; what is broken off is no store, and the next one begins anew.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use trialog::fs::sim::{Crash, Failure, Fault, Op};
use trialog::fs::{Access, write_all_at};
use trialog::model::{LogId, Slug};
use trialog::offline::backup::{BackedUp, BackupError, DurableSegment, backup};
use trialog::offline::target::TargetError;
use trialog::offline::verify::verify;

use crate::faults::disk::Tmpfs;
use crate::ledger::{Body, Ledger, ids_of};
use crate::load::{EXPERIMENTS, SIZES, assert_some_are_read, body, make_store, post, under_load};
use crate::rig::{Rig, STORE, entry, replayed, slug};
use crate::server::{EXAMPLE, PATIENCE, Server, arg, run, trialog};

/// One of the experiments keeps little.
const RETAINED: &str = "/experiment/delta";

fn backup_of(server: &Server, to: &Path) -> std::process::Output {
    let url = format!("http://{}", server.address);
    let mut command = trialog();
    command.args([
        "backup",
        arg(to),
        "--data",
        arg(&server.dir),
        "--server",
        &url,
    ]);
    command.output().unwrap()
}

fn assert_clean(store: &Path) {
    let verified = run(&["verify", arg(store)]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
}

/// What was acknowledged at once: to which experiment, under which ids.
type Batch = (&'static str, Vec<LogId>, Vec<Body>);

/// Sends one batch after the other, of many sizes, some of them around the journal.
fn write_on(server: &Server, seed: u64, acked: &Mutex<Vec<Batch>>, is_over: &AtomicBool) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut client = server.connect();
    while !is_over.load(Ordering::Relaxed) {
        let (count, padding) = match random.u8(..20) {
            0 => (40, 8000),
            1..6 => (random.usize(2..60), 100),
            _ => (1, random.usize(..900)),
        };
        let bodies: Vec<Body> = (0..count).map(|_| body(&mut random, padding)).collect();
        let experiment = EXPERIMENTS[random.usize(..EXPERIMENTS.len())];
        let answer = post(&mut client, &server.key, &slug(experiment), &bodies).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let batch = (experiment, ids_of(&answer), bodies);
        acked.lock().unwrap().push(batch);
    }
}

#[test]
fn a_backup_under_load_has_all_that_was_acknowledged_before_and_batches_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    make_store(&store);
    let often = ["--retention-interval", "1"];
    let server = Server::start(&store, &[&SIZES[..], &often].concat());
    let definition = r#"{"variants":["A","B"],"retention":{"maxBytes":200000}}"#;
    let changed = server.ask("PUT", RETAINED, definition);
    assert_eq!(changed.status, 200, "{changed:?}");
    let (acked, is_over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let mut copies: Vec<(PathBuf, usize)> = Vec::new();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (server, acked, is_over) = (&server, &acked, &is_over);
            scope.spawn(move || write_on(server, seed, acked, is_over));
        }
        for n in 0..6 {
            let count = || acked.lock().unwrap().len();
            let wanted = count() + 200;
            while count() < wanted {
                std::thread::yield_now();
            }
            let before = count();
            let to = dir.path().join(format!("backup-{n}"));
            let output = backup_of(&server, &to);
            assert!(output.status.success(), "{output:?}");
            copies.push((to, before));
        }
        let until = Instant::now() + PATIENCE;
        let dropped = || server.ask("GET", RETAINED, "").json()["dropped"].clone();
        while dropped()["segments"] == 0 {
            assert!(Instant::now() < until, "nothing is dropped");
        }
        let dropped = dropped();
        assert!(dropped["entries"].as_u64() > Some(0) && dropped["bytes"].as_u64() > Some(0));
        is_over.store(true, Ordering::Relaxed);
    });
    server.kill();
    let acked = acked.into_inner().unwrap();
    let disk = trialog::fs::real::host().disk;
    for (copy, before) in &copies {
        assert_clean(copy);
        let keys = fs::metadata(copy.join("keys.json")).unwrap();
        assert_eq!(keys.permissions().mode() & 0o777, 0o600);
        assert!(!copy.join("admin.key").exists());
        let all = EXPERIMENTS.map(|name| {
            let found = replayed(disk.clone(), copy, &slug(name));
            (name, found.into_iter().collect::<BTreeMap<_, _>>())
        });
        let mut all = BTreeMap::from(all);
        for (n, (experiment, ids, bodies)) in acked.iter().enumerate() {
            let found = all.get_mut(experiment).unwrap();
            let there = ids.iter().zip(bodies);
            let there = there.filter(|(id, body)| found.remove(id).as_ref() == Some(*body));
            let there = there.count();
            let may_be_gone = n >= *before || RETAINED.ends_with(experiment);
            assert!(there == ids.len() || there == 0 && may_be_gone, "{ids:?}");
        }
        assert!(all.values().all(BTreeMap::is_empty), "of nobody: {all:?}");
    }
    // The last one takes the place of the store. The key is the operator's to keep.
    let (copy, _) = copies.pop().unwrap();
    fs::copy(store.join("admin.key"), copy.join("admin.key")).unwrap();
    let server = Server::start(&copy, &SIZES);
    let answer = server.ask("POST", "/experiment/alpha/log", EXAMPLE);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(server.stop().0.success());
    assert_clean(&copy);
}

#[test]
fn a_killed_servers_store_is_copied_with_what_only_its_journal_has() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    make_store(&store);
    let mut random = fastrand::Rng::with_seed(2);
    let mut ledger = Ledger::default();
    under_load(
        Server::start(&store, &SIZES),
        &mut ledger,
        &mut random,
        |server, tally| {
            tally.wait_until(|counts| counts.acknowledged >= 1000);
            server.kill();
        },
    );
    let to = dir.path().join("backup");
    let output = run(&["backup", arg(&to), "--data", arg(&store)]);
    assert!(output.status.success(), "{output:?}");
    assert_clean(&to);
    ledger.check(&to);
    // It is never written over.
    let again = run(&["backup", arg(&to), "--data", arg(&store)]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("is there already"),
        "{again:?}"
    );
    let key = fs::read(store.join("admin.key")).unwrap();
    fs::write(to.join("admin.key"), key).unwrap();
    let server = Server::start(&to, &SIZES);
    assert_some_are_read(&server, &ledger, &mut random);
    assert!(server.stop().0.success());
}

#[test]
fn a_full_disk_leaves_no_half_copy_and_room_again_a_whole_one() {
    let Some(small) = Tmpfs::mounted(8 << 20) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("store"), &[]);
    server.define("one");
    let padding = "x".repeat(900_000);
    for _ in 0..10 {
        let body = format!(r#"{{"variantKey":"A","input":{{"p":"{padding}"}}}}"#);
        assert_eq!(server.ask("POST", "/experiment/one/log", &body).status, 200);
    }
    let to = small.path().join("backup");
    let output = backup_of(&server, &to);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(
        fs::read_dir(small.path()).unwrap().count(),
        0,
        "nothing is left there"
    );
    assert_eq!(
        server.ask("POST", "/experiment/one/log", EXAMPLE).status,
        200
    );
    let output = backup_of(&server, &dir.path().join("backup"));
    assert!(output.status.success(), "{output:?}");
    assert_clean(&dir.path().join("backup"));
}

/// A store that was killed, with sealed segments, a journal and what only that has.
fn killed() -> Rig {
    let mut rig = Rig::with("one");
    rig.create("two");
    for n in 0..20 {
        let group = vec![entry("A", n, 600)];
        rig.append(&[("one", group)]).unwrap();
        if n % 5 == 0 {
            rig.seal();
            rig.background();
        }
    }
    rig.append_around("one", (0..9).map(|n| entry("B", 100 + n, 700)).collect())
        .unwrap();
    rig.append(&[("one", vec![entry("A", 200, 600)])]).unwrap();
    rig.kill();
    // As of a node of a replicated store.
    let disk = rig.machine.host().disk;
    let notes = Path::new(STORE).join("replica");
    disk.create_dir(&notes).unwrap();
    for name in [
        "identity.json",
        "node.json",
        "shard-0000.json",
        "shard-0001.tmp",
    ] {
        let file = disk.create(&notes.join(name)).unwrap();
        write_all_at(&*file, name.as_bytes(), 0).unwrap();
        file.sync_data().unwrap();
    }
    disk.sync_dir(&notes).unwrap();
    disk.sync_dir(STORE.as_ref()).unwrap();
    rig
}

fn copy(rig: &Rig) -> Result<BackedUp, BackupError> {
    backup(
        &rig.machine.host(),
        STORE.as_ref(),
        "/copy".as_ref(),
        None,
        None,
    )
}

#[test]
fn broken_off_at_any_call_it_is_whole_or_no_store_and_the_next_one_is_whole() {
    let base = killed();
    let mut changes = 0;
    for at in 0.. {
        let rig = base.fork();
        let before = rig.machine.change_count();
        rig.machine.stop_at(at);
        let is_done = copy(&rig).is_ok();
        changes = rig.machine.change_count() - before;
        for crash in [Crash::LoseAll, Crash::KeepAll, Crash::Random] {
            let mut rig = rig.fork();
            rig.crash(crash);
            let disk = rig.machine.host().disk;
            let is_there = verify(disk.clone(), "/copy".as_ref()).is_ok();
            assert!(is_there || !is_done, "call {at}: acknowledged, and gone");
            if !is_there {
                let again = copy(&rig);
                assert!(again.is_ok(), "call {at}: {again:?}");
            }
            let report = verify(disk.clone(), "/copy".as_ref()).unwrap();
            assert_eq!(report.findings, [], "call {at}");
            let found = replayed(disk, "/copy".as_ref(), &slug("one"));
            assert_eq!(found, rig.models[&slug("one")].acked, "call {at}");
            rig.check();
        }
        if is_done {
            break;
        }
    }
    assert!(changes > 30, "{changes}");
}

#[test]
fn a_call_that_fails_leaves_nothing_there() {
    let base = killed();
    for op in [
        Op::Create,
        Op::Write,
        Op::Sync,
        Op::SyncDir,
        Op::Rename,
        Op::Map,
    ] {
        for after in 0..6 {
            let rig = base.fork();
            rig.machine.fail(Fault {
                op,
                path: "/copy",
                after,
                failure: Failure::Io,
                is_sticky: false,
            });
            let failed = copy(&rig);
            let disk = rig.machine.host().disk;
            let is_there = disk.list("/copy".as_ref()).is_ok();
            // Whether it has its name is unknown only where the sync of that failed.
            assert!(
                failed.is_ok() || !is_there || op == Op::SyncDir,
                "{op:?} {after}"
            );
            assert!(
                disk.list("/copy.unfinished".as_ref()).is_err(),
                "{op:?} {after}"
            );
            if failed.is_err() && !is_there {
                rig.machine.heal();
                assert!(copy(&rig).is_ok());
            }
        }
    }
}

#[test]
fn the_copy_of_a_node_has_older_notes_than_segments_and_not_its_number() {
    let rig = killed();
    rig.machine.record();
    assert!(copy(&rig).is_ok());
    let calls = rig.machine.recorded();
    let first = |path: &str| {
        calls
            .iter()
            .position(|(_, at)| at.starts_with(path))
            .unwrap()
    };
    let last = |path: &str| {
        calls
            .iter()
            .rposition(|(_, at)| at.starts_with(path))
            .unwrap()
    };
    assert!(last("/store/replica") < first("/store/experiments"));
    assert!(last("/store/replica") < first("/store/journal"));
    let files = rig.machine.files();
    let notes = files
        .iter()
        .filter_map(|path| path.strip_prefix("/copy/replica").ok());
    let notes: Vec<_> = notes.collect();
    let expected = ["identity.json", "shard-0000.json"].map(Path::new);
    assert_eq!(notes, expected);
    for name in expected {
        let bytes = rig.machine.read(&Path::new("/copy/replica").join(name));
        assert_eq!(bytes.unwrap(), name.as_os_str().as_encoded_bytes());
    }
}

#[test]
fn what_is_in_the_way_is_left_alone() {
    let rig = killed();
    let disk = rig.machine.host().disk;
    disk.create_dir("/copy.unfinished".as_ref()).unwrap();
    disk.create("/copy.unfinished/mine".as_ref()).unwrap();
    assert!(matches!(
        copy(&rig),
        Err(BackupError::Target(TargetError::InTheWay(_)))
    ));
    disk.remove_file("/copy.unfinished/mine".as_ref()).unwrap();
    assert!(copy(&rig).is_ok());
    assert!(matches!(
        copy(&rig),
        Err(BackupError::Target(TargetError::Exists(_)))
    ));
    let none = backup(
        &rig.machine.host(),
        "/".as_ref(),
        "/other".as_ref(),
        None,
        None,
    );
    assert!(matches!(none, Err(BackupError::NotAStore(_))));
}

#[test]
fn beside_a_server_each_segment_is_cut_where_that_says_it_is_durable() {
    let mut rig = Rig::with("one");
    for n in 0..8 {
        rig.append(&[("one", vec![entry("A", n, 600)])]).unwrap();
    }
    let segments = rig.view("one").segments(0).into_iter().map(|segment| {
        let name = segment.path().file_name().unwrap();
        DurableSegment {
            file_name: name.to_str().unwrap().into(),
            bytes: segment.frames_end(),
        }
    });
    let told: Vec<DurableSegment> = segments.collect();
    assert!(told.len() > 1);
    let acked = rig.models[&slug("one")].acked.clone();
    // What comes meanwhile is in the files, and was not told.
    rig.append(&[("one", vec![entry("B", 100, 100), entry("B", 101, 100)])])
        .unwrap();
    rig.background();
    let disk = rig.machine.host().disk;
    let dir = Path::new(STORE).join("experiments/one");
    let last = told.last().unwrap();
    let file = disk.open(&dir.join(&last.file_name), Access::Read).unwrap();
    assert!(
        file.len().unwrap() > last.bytes,
        "there is something to cut"
    );
    let mut ask = |_: &Slug| Ok(told.clone());
    let copied = backup(
        &rig.machine.host(),
        STORE.as_ref(),
        "/copy".as_ref(),
        Some(&mut ask),
        None,
    );
    assert_eq!(copied.unwrap().segments, told.len() as u64);
    let report = verify(disk.clone(), "/copy".as_ref()).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(replayed(disk, "/copy".as_ref(), &slug("one")), acked);
}
