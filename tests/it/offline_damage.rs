//! Segments with damage: found, told, repaired around, and shown for people.

use std::fs;
use std::path::Path;

use crate::offline::{COUNT, SMALL, expected, fill, ids, replay, segments};
use crate::server::{Server, arg, run};

/// Changes one bit within the entry whose body has `"n":<n>.0`.
fn damage(file: &Path, n: usize) {
    let mut bytes = fs::read(file).unwrap();
    let wanted = format!("\"n\":{n}.0");
    let at = bytes
        .windows(wanted.len())
        .position(|window| window == wanted.as_bytes());
    bytes[at.expect("it is in this segment") + 1] ^= 0x20;
    fs::write(file, bytes).unwrap();
}

#[test]
fn damage_is_found_told_and_repaired_around() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &SMALL);
    let sent = fill(&server);
    server.stop();
    let first = segments(&store.join("experiments/demo")).remove(0);
    let whole = fs::read(&first).unwrap();
    damage(&first, 6);
    let damaged = fs::read(&first).unwrap();
    let rest = expected(&sent, |entry| entry.id != sent[6].id);
    // Found, with the place and the cost; everything else is given back.
    let finds = || {
        let output = run(&["verify", arg(&store)]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let found = String::from_utf8(output.stdout).unwrap();
        assert_eq!(found.lines().count(), 1, "{found}");
        assert!(
            found.starts_with(&format!("{}: bytes ", first.display())),
            "{found}"
        );
        assert!(
            found.contains(&format!("entry {} is lost", sent[6].id)),
            "{found}"
        );
    };
    finds();
    let output = run(&["replay", arg(&store)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines: Vec<_> = std::str::from_utf8(&output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(ids(&lines), rest);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains(arg(&first)) && said.contains("`trialog verify` tells"),
        "{said}"
    );
    // Only --repair writes anything.
    assert_eq!(fs::read(&first).unwrap(), damaged);
    let output = run(&["verify", "--repair", arg(&store)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let kept = first.with_extension("segment.damaged-1");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("whole entries; the damaged file is"),
        "{said}"
    );
    assert!(said.contains(arg(&kept)), "{said}");
    assert_eq!(fs::read(&kept).unwrap(), damaged);
    assert_ne!(fs::read(&first).unwrap(), whole);
    assert_eq!(run(&["verify", arg(&store)]).status.code(), Some(0));
    assert_eq!(ids(&replay(&[arg(&store)])), rest);
    // Again, in another entry: nothing kept is overwritten.
    damage(&first, 8);
    assert_eq!(
        run(&["verify", "--repair", arg(&store)]).status.code(),
        Some(1)
    );
    assert_eq!(fs::read(&kept).unwrap(), damaged);
    assert!(first.with_extension("segment.damaged-2").exists());
    // A server reads what is whole, and goes on behind it.
    let server = Server::start(&store, &SMALL);
    let status = |n: usize| {
        let path = format!("/experiment/demo/log/{}", sent[n].id);
        server.ask("GET", &path, "").status
    };
    assert_eq!([4, 6, 8, 10].map(status), [200, 404, 404, 200]);
    let next = server
        .ask("POST", "/experiment/demo/log", r#"{"variantKey":"A"}"#)
        .log_id();
    assert!(next > sent[COUNT - 1].id);
    assert_eq!(
        server.ask("GET", "/experiment/demo", "").json()["count"],
        19
    );
}

#[test]
fn damage_that_is_not_repaired_costs_a_server_one_entry() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &SMALL);
    let sent = fill(&server);
    server.stop();
    damage(&segments(&store.join("experiments/demo"))[0], 6);
    let server = Server::start(&store, &SMALL);
    let get = |n: usize| server.ask("GET", &format!("/experiment/demo/log/{}", sent[n].id), "");
    get(6).assert_error(
        500,
        "log_damaged",
        "the log is damaged at this place",
        "the lost one",
    );
    for n in [0, 4, 8, 38] {
        assert_eq!(get(n).status, 200, "{n}");
    }
    server
        .ask("POST", "/experiment/demo/log", r#"{"variantKey":"A"}"#)
        .log_id();
}

#[test]
fn a_segment_is_shown_for_people() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &SMALL);
    let sent = fill(&server);
    server.stop();
    let demo = segments(&store.join("experiments/demo"));
    let inspect = |file: &Path, args: &[&str]| {
        let output = run(&[&["inspect", arg(file)], args].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = inspect(&demo[0], &[]);
    let len = fs::metadata(&demo[0]).unwrap().len();
    for words in [
        "experiment      demo\n",
        "segment         number 0, from sequence 0\n",
        &format!("file            {len} bytes\n"),
        "variant 0 is \"A\"\n",
        "variant 1 is \"B\"\n",
        &format!("{} 20", sent[0].id),
        "footer          at ",
        "variant         \"A\": ",
    ] {
        assert!(shown.contains(words), "{words:?} is not in {shown}");
    }
    let frames = |shown: &str| {
        shown
            .lines()
            .filter(|line| line.contains("body of"))
            .count()
    };
    assert!(frames(&shown) > 5, "{shown}");
    assert_eq!(frames(&inspect(&demo[0], &["--frames", "2"])), 1);
    let last = inspect(demo.last().unwrap(), &[]);
    assert!(last.contains("before it       ends at "), "{last}");
    damage(&demo[0], 6);
    let shown = inspect(&demo[0], &[]);
    assert!(shown.contains("damage up to"), "{shown}");
}
