//! Copies in an archive, and stores that begin of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::read_through::{lines, wait_until_let_go};
use crate::server::{Server, arg};
use crate::{ENTRIES, Rig, SMALL, Scene, alternating, send, wait_until_archived};

fn backup(rig: &Rig, server: Option<&Server>, data: &Path) -> Output {
    let mut command = rig.command();
    command.args(["backup", &rig.url, "--data", arg(data)]);
    if let Some(server) = server {
        command.args(["--server", &server.url(), "--api-key", &server.key]);
    }
    command.output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Some segments are in the archive and here, some there alone, and one is still written.
#[test]
fn a_store_whose_disk_is_gone_begins_anew_of_its_archive() {
    let Some(scene) = Scene::on_s3() else {
        return;
    };
    let Scene { server, rig, .. } = &scene;
    let (store, restored) = (rig.store(), rig.dir.path().join("restored"));
    let key = server.key.clone();
    let Scene {
        server,
        rig,
        s3: _s3,
        proxy: _proxy,
    } = scene;
    server.stop();
    let server = rig.serve(&["--segment-bytes", "20MiB", "--archive-local-bytes", "0"]);
    wait_until_let_go(&server);
    send(&server, ENTRIES, 50, 1000, alternating);
    let all = lines(&server);
    let copied = backup(&rig, Some(&server), &store);
    assert!(copied.status.success(), "{copied:?}");
    assert!(
        words(&copied).contains("are in the archive already"),
        "{copied:?}"
    );
    assert!(!store.join("copying").exists());
    // What comes later isn't in it.
    send(&server, ENTRIES + 50, 1, 1000, alternating);
    drop(server);
    fs::remove_dir_all(&store).unwrap();

    rig.out(&["restore", &rig.url, arg(&restored)]);
    // The archive isn't needed any more.
    let offline = Rig::on("file:///nowhere", &[]);
    assert_eq!(offline.out(&["replay", arg(&restored)]), all);
    assert!(offline.run(&["verify", arg(&restored)]).status.success());
    let mut server = Server::start(&restored, &[]);
    server.key = key;
    assert_eq!(lines(&server), all);
    send(&server, ENTRIES + 50, 10, 1000, alternating);
    // The newest copy counts.
    let copied = backup(&rig, Some(&server), &restored);
    assert!(copied.status.success(), "{copied:?}");
    let (all, again) = (lines(&server), rig.dir.path().join("again"));
    rig.out(&["restore", &rig.url, arg(&again)]);
    assert_eq!(offline.out(&["replay", arg(&again)]), all);
}

/// The files of all copies in an archive that is a folder, in order.
fn copies(rig: &Rig) -> Vec<PathBuf> {
    let root = PathBuf::from(rig.url.strip_prefix("file://").unwrap());
    let mut found = Vec::new();
    let mut dirs = vec![root];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => found.push(path),
            }
        }
    }
    found.retain(|path| path.iter().any(|part| part == "_copies"));
    found.sort();
    found
}

#[test]
fn what_of_a_copy_is_missing_or_changed_is_told_and_nothing_is_restored() {
    let rig = Rig::in_folder();
    let restored = rig.dir.path().join("restored");
    let refused = |saying: &str| {
        let output = rig.run(&["restore", &rig.url, arg(&restored)]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(words(&output).contains(saying), "{output:?}");
        assert!(!words(&output).contains("panicked"), "{output:?}");
        let left = fs::read_dir(rig.dir.path()).unwrap();
        let mut left = left.map(|entry| entry.unwrap().file_name());
        assert!(!left.any(|name| name.to_str().unwrap().starts_with("restored")));
    };
    let server = rig.serve(&["--segment-bytes", SMALL]);
    send(&server, 0, ENTRIES, 1000, alternating);
    wait_until_archived(&server);
    let archived = rig.archived_files().swap_remove(0);
    refused("has no copy of a store");
    assert!(backup(&rig, Some(&server), &rig.store()).status.success());
    let first = lines(&server);
    send(&server, ENTRIES, 10, 1000, alternating);
    server.stop();
    // Also of a store that nobody has open, and where a copy was broken off.
    fs::create_dir(rig.store().join("copying")).unwrap();
    fs::write(rig.store().join("copying/rest"), "of a copy").unwrap();
    assert!(backup(&rig, None, &rig.store()).status.success());

    let ends_with = |end: &str| {
        let found = copies(&rig).into_iter().rev();
        let mut found = found.filter(|path| path.to_str().unwrap().ends_with(end));
        found.next().expect(end)
    };
    let part = ends_with(".segment.part");
    let whole = fs::read(&part).unwrap();
    let mut flipped = whole.clone();
    flipped[300] ^= 1;
    fs::write(&part, &flipped).unwrap();
    refused("don't fit their checksum");
    fs::write(&part, &whole[1..]).unwrap();
    refused("another length");
    fs::write(&part, &whole).unwrap();
    let aside = archived.with_extension("aside");
    fs::rename(&archived, &aside).unwrap();
    refused("it is missing");
    fs::rename(&aside, &archived).unwrap();
    let list = ends_with("copy.json");
    let said = fs::read_to_string(&list).unwrap();
    fs::write(&list, said.replace(".json\"", ".jsom\"")).unwrap();
    refused("checksum");
    // One without a list was broken off: the one before it counts.
    fs::remove_file(&list).unwrap();
    rig.out(&["restore", &rig.url, arg(&restored)]);
    assert_eq!(rig.out(&["replay", arg(&restored)]), first);
    let output = rig.run(&["restore", &rig.url, arg(&restored)]);
    assert!(words(&output).contains("is there already"), "{output:?}");
    fs::remove_dir_all(&restored).unwrap();

    // A list by which something would be written elsewhere.
    let list = ends_with("copy.json");
    let said = fs::read_to_string(&list).unwrap();
    let unchecked: Vec<_> = said
        .lines()
        .filter(|line| !line.contains("crc32"))
        .collect();
    let unchecked = unchecked.join("\n");
    let members = unchecked.trim_end().trim_end_matches('}').trim_end();
    let unchecked = format!("{}\n}}", members.trim_end_matches(','));
    fs::write(&list, unchecked.replace("keys.json", "../keys.json")).unwrap();
    refused("no path in a store");
    fs::write(&list, said).unwrap();

    // Copies of two stores.
    let other = Rig::on(&rig.url, &[]);
    let server = other.serve(&[]);
    send(&server, 0, 1, 10, alternating);
    assert!(
        backup(&other, Some(&server), &other.store())
            .status
            .success()
    );
    refused("several stores");
    let store = list.ancestors().nth(3).unwrap();
    let address = format!("file://{}", arg(store));
    rig.out(&["restore", &address, arg(&restored)]);
    assert_eq!(rig.out(&["replay", arg(&restored)]), first);
    let output = backup(&Rig::on("s4://bucket", &[]), None, &rig.store());
    assert!(
        words(&output).contains("no archive's address"),
        "{output:?}"
    );
}

#[test]
fn there_is_no_copy_with_a_hole() {
    let rig = Rig::in_folder();
    let server = rig.serve(&["--segment-bytes", SMALL]);
    send(&server, 0, ENTRIES, 1000, alternating);
    wait_until_archived(&server);
    let archived = rig.archived_files().swap_remove(1);
    server.stop();
    let server = rig.serve(&["--segment-bytes", SMALL, "--archive-local-bytes", "0"]);
    wait_until_let_go(&server);
    let aside = archived.with_extension("aside");
    fs::rename(&archived, &aside).unwrap();
    for server in [Some(server), None] {
        let output = backup(&rig, server.as_ref(), &rig.store());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(
            words(&output).contains("are in an archive alone"),
            "{output:?}"
        );
        assert!(copies(&rig).is_empty());
        server.map(Server::stop);
    }
    fs::rename(&aside, &archived).unwrap();
    let output = backup(&rig, None, &rig.store());
    assert!(output.status.success(), "{output:?}");
    assert!(!copies(&rig).is_empty());
}
