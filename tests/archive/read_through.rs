//! Local copies go once they are archived, and a server's queries are answered as before: from the archive, also
//! over kills, and with clear errors where it can't be read.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::proxy::Mode;
use crate::server::{Answer, Server, arg};
use crate::{Rig, SMALL, Scene, load, metric, segments, wait_until, wait_until_archived};

const GO: [&str; 4] = ["--segment-bytes", SMALL, "--archive-local-bytes", "0"];
/// Of the queries that are to be answered alike.
const SAME: [&str; 7] = [
    "/logs?limit=1000",
    "/logs?limit=1000&order=desc",
    "/logs?limit=700&variant=B",
    "/stats",
    "/report",
    "/report?unit=input.n",
    "",
];

fn store_dir(rig: &Rig) -> PathBuf {
    rig.store().join("experiments/demo")
}

/// Waits until all that may go has gone: the newest sealed segment stays, and the one that is written to.
pub fn wait_until_let_go(server: &Server) {
    let dir = server.dir.join("experiments/demo");
    wait_until_archived_or_gone(server, &dir);
    wait_until("local copies go", server, || segments(&dir).len() <= 2);
}

fn wait_until_archived_or_gone(server: &Server, dir: &Path) {
    wait_until("something goes", server, || outlines(dir).len() > 3);
}

fn outlines(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap();
    let paths = all.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "outline"))
        .collect()
}

fn get(server: &Server, path: &str) -> Answer {
    server.ask("GET", &format!("/experiment/demo{path}"), "")
}

/// What an answer says but for what may differ: where bytes are.
fn said(server: &Server, path: &str) -> Value {
    let answer = get(server, path);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    let mut json = answer.json();
    if let Some(object) = json.as_object_mut() {
        object.remove("bytesOnDisk");
    }
    json
}

/// All entries, as lines.
pub fn lines(server: &Server) -> String {
    let headers = [
        ("x-api-key", server.key.as_str()),
        ("accept", "application/x-ndjson"),
    ];
    let mut client = server.connect();
    let answer = client.send("GET", "/experiment/demo/logs", &headers, b"");
    let answer = answer.unwrap();
    assert!(answer.status == 200 && !answer.is_cut, "{answer:?}");
    String::from_utf8(answer.body).unwrap()
}

fn ids(lines: &str) -> Vec<String> {
    let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["logId"].clone();
    let ids = lines
        .lines()
        .map(|line| id(line).as_str().unwrap().to_owned());
    ids.collect()
}

fn code(answer: &Answer) -> String {
    answer.json()["error"]["code"].as_str().unwrap().to_owned()
}

/// A store with all that is sealed archived, what it answered, and the same with its local copies gone.
fn gone(rig: &Rig) -> (Server, String) {
    let server = rig.serve(&["--segment-bytes", SMALL]);
    load(&server, 0);
    wait_until_archived(&server);
    let all = lines(&server);
    server.stop();
    let server = rig.serve(&GO);
    wait_until_let_go(&server);
    (server, all)
}

#[test]
fn queries_are_answered_as_before_when_the_local_copies_have_gone() {
    let rig = Rig::in_folder();
    let server = rig.serve(&["--segment-bytes", SMALL]);
    load(&server, 0);
    wait_until_archived(&server);
    let before: Vec<Value> = SAME.iter().map(|path| said(&server, path)).collect();
    let all = lines(&server);
    let whole = get(&server, "/segments/0");
    server.stop();

    let server = rig.serve(&GO);
    wait_until_let_go(&server);
    let check = |server: &Server| {
        for (path, before) in SAME.iter().zip(&before) {
            assert_eq!(said(server, path), *before, "{path}");
        }
        assert_eq!(lines(server), all);
        for (line, id) in all.lines().zip(ids(&all)).step_by(67) {
            let one = get(server, &format!("/log/{id}"));
            assert_eq!((one.status, &*one.body), (200, line.as_bytes()));
        }
        let again = get(server, "/segments/0");
        assert_eq!(
            (again.header("etag"), &again.body),
            (whole.header("etag"), &whole.body)
        );
        let states = said(server, "/segments");
        assert_eq!(states["segments"][0]["state"], "archived");
    };
    // As it went, and after a restart and a kill.
    check(&server);
    assert!(super::metric(&server, "reads_total") > 0);
    let bytes = get(&server, "").json()["bytesOnDisk"].as_u64().unwrap();
    assert!(
        bytes < 400_000,
        "{bytes} bytes on disk of a log of 800 entries of a KB"
    );
    server.stop();
    let server = rig.serve(&GO);
    check(&server);
    server.kill();
    let server = rig.serve(&GO);
    check(&server);

    // Whoever comes back from long ago is told all, and then what is new.
    let middle = &ids(&all)[10];
    let last_id = ("last-event-id", middle.as_str());
    let headers = [("x-api-key", server.key.as_str()), last_id];
    let mut client = server.connect();
    let mut request = String::from("GET /experiment/demo/tail HTTP/1.1\r\nhost: trialog\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    client
        .send_raw(format!("{request}\r\n").as_bytes())
        .unwrap();
    assert_eq!(client.read_head().unwrap().status, 200);
    let mut events = String::new();
    while events.matches("\ndata: {").count() < ids(&all).len() - 11 {
        let chunk = client.read_chunk().unwrap().unwrap();
        events.push_str(&String::from_utf8(chunk).unwrap());
    }
    let of_tail = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    assert!(of_tail.eq(all.lines().skip(11)));

    // It goes on: what comes now is archived, and goes, too.
    load(&server, ids(&all).len());
    wait_until("more goes", &server, || {
        outlines(&store_dir(&rig)).len() > 12
    });
    wait_until_let_go(&server);
    assert!(lines(&server).starts_with(&all));
    assert_eq!(lines(&server).lines().count(), 2 * ids(&all).len());
}

#[test]
fn offline_commands_say_where_the_entries_are() {
    let rig = Rig::in_folder();
    let (server, all) = gone(&rig);
    server.stop();
    let store = rig.store();
    for command in ["replay", "report"] {
        let output = rig.run(&[command, arg(&store)]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(output.stdout.is_empty(), "{command}");
        assert!(
            said.contains("in the archive alone: give this command the archive's address"),
            "{command}: {said}"
        );
    }
    // What is here is given.
    let after = ids(&all)[ids(&all).len() - 10].clone();
    let tail = rig.out(&["replay", arg(&store), "--after", &after]);
    assert_eq!(tail.lines().count(), 9);
    let verified = rig.run(&["verify", arg(&store)]);
    let said = String::from_utf8(verified.stderr).unwrap();
    assert!(verified.status.success(), "{said}");
    assert!(
        said.contains("entries are in the archive alone: verify its address"),
        "{said}"
    );
    let archived = rig.out(&["replay", &rig.url]);
    assert!(all.starts_with(&archived) && archived.lines().count() > 300);
    // A damaged outline is found, and told; the segment put back in its place heals it.
    let mut all_outlines = outlines(&store_dir(&rig));
    all_outlines.sort();
    let outline = &all_outlines[0];
    let good = fs::read(outline).unwrap();
    let mut bad = good.clone();
    bad[700] ^= 1;
    fs::write(outline, &bad).unwrap();
    let verified = rig.run(&["verify", arg(&store)]);
    let words = String::from_utf8(verified.stdout).unwrap();
    assert_eq!(verified.status.code(), Some(1), "{words}");
    assert!(words.contains(arg(outline)), "{words}");
    let server = rig.serve(&GO);
    let [first, other] = [0, 400].map(|n| format!("/log/{}", ids(&all)[n]));
    assert_eq!(code(&get(&server, "/logs?limit=1000")), "log_damaged");
    assert_eq!(get(&server, &other).status, 200, "others are given");
    assert_eq!(code(&get(&server, &first)), "log_damaged");
    for path in ["", "/stats", "/segments"] {
        assert_eq!(get(&server, path).status, 200, "{path}");
    }
    server.stop();
    let segment = outline.with_extension("segment");
    let object = rig.log_dir().join(segment.file_name().unwrap());
    fs::copy(object, &segment).unwrap();
    let server = rig.serve(&["--segment-bytes", SMALL]);
    assert_eq!(lines(&server), all);
}

#[test]
fn an_archive_that_is_away_is_told_in_time_and_holds_nobody_up() {
    let Some(scene) = Scene::on_s3() else { return };
    let (rig, proxy) = (&scene.rig, &scene.proxy);
    let all = lines(&scene.server);
    scene.server.stop();
    let args = [&GO[..], &["--archive-cache-bytes", "0"]].concat();
    let server = rig.serve(&args);
    wait_until_let_go(&server);
    let old = format!("/log/{}", ids(&all)[5]);
    let new = format!("/log/{}", ids(&all)[ids(&all).len() - 1]);
    for mode in [
        Mode::Away,
        Mode::Answer("503 Slow Down"),
        Mode::Answer("403 Forbidden"),
    ] {
        proxy.set(mode);
        let since = Instant::now();
        let answer = get(&server, &old);
        assert_eq!(code(&answer), "archive_unavailable", "{mode:?}: {answer:?}");
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (503, Some("10"))
        );
        assert!(since.elapsed() < Duration::from_secs(25), "{mode:?}");
        // What needs no archive is answered.
        for path in [&*new, "/stats", "/report", "/logs?limit=5&order=desc", ""] {
            assert_eq!(get(&server, path).status, 200, "{mode:?}: {path}");
        }
    }
    // It takes connections, and never answers: more readers than may wait for it.
    proxy.set(Mode::StallAfter(0));
    let since = Instant::now();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..100)
            .map(|_| scope.spawn(|| (get(&server, &old), since.elapsed())))
            .collect();
        for n in 0..20 {
            let began = Instant::now();
            crate::send(&server, 10_000 + n, 1, 10, |_| 'A');
            assert_eq!(get(&server, &new).status, 200);
            assert!(
                began.elapsed() < Duration::from_secs(5),
                "{n}: it is held up"
            );
        }
        let answers: Vec<_> = readers.into_iter().map(|one| one.join().unwrap()).collect();
        let count = |word: &str| answers.iter().filter(|one| code(&one.0) == word).count();
        let (unavailable, overloaded) = (count("archive_unavailable"), count("overloaded"));
        assert_eq!(unavailable + overloaded, 100);
        assert!(
            unavailable >= 16 && overloaded >= 1,
            "{unavailable}, {overloaded}"
        );
        let slowest = answers.iter().map(|one| one.1).max().unwrap();
        assert!(slowest < Duration::from_secs(30), "{slowest:?}");
    });
    proxy.set(Mode::Pass);
    assert_eq!(get(&server, &old).status, 200);
    assert!(lines(&server).starts_with(&all));
}

#[test]
fn one_entry_costs_a_part_and_what_was_read_lately_costs_nothing() {
    let Some(scene) = Scene::on_s3_with("1MiB", 4000) else {
        return;
    };
    let (rig, proxy) = (&scene.rig, &scene.proxy);
    let all = lines(&scene.server);
    scene.server.stop();
    let with_cache = |bytes| {
        let go = ["--segment-bytes", "1MiB", "--archive-local-bytes", "0"];
        rig.serve(&[&go[..], &["--archive-cache-bytes", bytes]].concat())
    };
    let server = with_cache("1MiB");
    wait_until("local copies go", &server, || {
        segments(&store_dir(rig)).len() <= 2
    });
    let cost = |server: &Server, path: &str| {
        wait_until("uploads rest", server, || {
            super::metric(server, "behind_segments") == 0
        });
        let before = proxy.down();
        assert_eq!(get(server, path).status, 200, "{path}");
        proxy.down() - before
    };
    let old = |n: usize| format!("/log/{}", ids(&all)[n]);
    let first = cost(&server, &old(100));
    assert!(
        first > 200_000 && first < 300_000,
        "{first} bytes for one entry"
    );
    assert_eq!(cost(&server, &old(100)), 0);
    assert_eq!(cost(&server, &old(101)), 0);
    // All of it passes through a cache that is smaller.
    assert!(cost(&server, "/logs?limit=1000") > 700_000);
    assert_eq!(lines(&server), all);
    let again = cost(&server, &old(100));
    assert!(again > 200_000, "{again} bytes: it was let go");
    // Counts and metrics are here.
    for path in ["/stats", "/report", ""] {
        assert_eq!(cost(&server, path), 0, "{path}");
    }
    server.stop();
    let server = with_cache("0");
    assert!(cost(&server, &old(100)) > 200_000 && cost(&server, &old(100)) > 200_000);
}

#[test]
fn what_is_missing_or_damaged_in_the_archive_is_told_and_heals() {
    let rig = Rig::in_folder();
    let (server, all) = gone(&rig);
    let all_ids = ids(&all);
    let ask = |server: &Server, n: usize| get(server, &format!("/log/{}", all_ids[n]));
    let files = rig.archived_files();
    let put = |file: &Path, bytes: &[u8]| {
        fs::remove_file(file).unwrap();
        fs::write(file, bytes).unwrap();
    };
    let good = fs::read(&files[1]).unwrap();
    let listed = get(&server, "/segments?limit=1000").json();
    let first = listed["segments"][1]["firstLogId"].as_str().unwrap();
    let in_second = all_ids.iter().position(|id| id == first).unwrap();
    fs::remove_file(&files[1]).unwrap();
    // Beyond the cache, which may have it.
    server.stop();
    let server = rig.serve(&GO);
    let answer = ask(&server, in_second);
    assert_eq!((answer.status, &*code(&answer)), (500, "log_damaged"));
    assert_eq!(ask(&server, 1).status, 200);
    server.wait_until_said("is missing in the archive, or isn't what was uploaded");
    fs::write(&files[1], &good).unwrap();
    assert_eq!(ask(&server, in_second).status, 200);
    server.stop();

    // One byte of one entry.
    let mut flipped = good.clone();
    let at = 30_000;
    flipped[at] ^= 1;
    put(&files[1], &flipped);
    let server = rig.serve(&GO);
    let bad: Vec<usize> = (0..all_ids.len())
        .filter(|n| ask(&server, *n).status != 200)
        .collect();
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!(code(&ask(&server, bad[0])), "log_damaged");
    server.wait_until_said("bytes in the archive aren't what was uploaded");
    put(&files[1], &good);
    assert_eq!(
        ask(&server, bad[0]).status,
        200,
        "what is damaged isn't kept"
    );
    server.stop();

    // Shorter, and another one.
    for wrong in [&good[..20_000], &fs::read(&files[2]).unwrap()] {
        put(&files[1], wrong);
        let server = rig.serve(&GO);
        let answer = get(&server, &format!("/log/{}", all_ids[in_second + 40]));
        assert_eq!((answer.status, &*code(&answer)), (500, "log_damaged"));
        server.stop();
    }
    put(&files[1], &good);

    // All of it away is no damage.
    let folder = PathBuf::from(rig.url.strip_prefix("file://").unwrap());
    let aside = folder.with_extension("aside");
    let server = rig.serve(&GO);
    // Its first look may send what is missing there, and so make a folder that has something.
    wait_until("the first look at the archive is over", &server, || {
        metric(&server, "local_bytes") > 0
    });
    fs::rename(&folder, &aside).unwrap();
    let old = format!("/log/{}", all_ids[0]);
    let answer = get(&server, &old);
    assert_eq!(
        (answer.status, &*code(&answer)),
        (503, "archive_unavailable")
    );
    server.wait_until_said("is the archive's address right, and there?");
    // The server may have begun a new one there.
    wait_until("it is back", &server, || {
        let _none = fs::remove_dir_all(&folder);
        fs::rename(&aside, &folder).is_ok()
    });
    assert_eq!(get(&server, &old).status, 200);
    server.stop();

    // Without an archive: no entry is called missing.
    let server = Server::start_by(
        &mut rig.command(),
        &rig.store(),
        &["--segment-bytes", SMALL],
    );
    let answer = get(&server, &old);
    assert_eq!(
        (answer.status, &*code(&answer)),
        (503, "archive_unavailable")
    );
    server.wait_until_said("start it with --archive");
    for path in ["/stats", "/logs?limit=5&order=desc", ""] {
        assert_eq!(get(&server, path).status, 200, "{path}");
    }
    crate::send(&server, 5000, 10, 100, |_| 'A');
}

#[test]
fn kills_while_local_copies_go_cost_nothing() {
    let rig = Rig::in_folder();
    let mut server = rig.serve(&["--segment-bytes", SMALL]);
    let mut sent = 0;
    for round in 0..6_u64 {
        load(&server, sent);
        sent += crate::ENTRIES;
        let all = lines(&server);
        assert_eq!(all.lines().count(), sent);
        server.kill();
        let going = rig.serve(&GO);
        // Somewhere in the middle of uploads and of letting go.
        let before = outlines(&store_dir(&rig)).len();
        let wanted = before + (round as usize % 3);
        wait_until("some go", &going, || {
            outlines(&store_dir(&rig)).len() > wanted
        });
        going.kill();
        server = rig.serve(&["--segment-bytes", SMALL]);
        assert_eq!(lines(&server), all, "round {round}");
    }
    assert!(!outlines(&store_dir(&rig)).is_empty());
}

#[test]
fn a_deleted_experiment_and_one_made_again_have_their_own() {
    let rig = Rig::in_folder();
    let (server, all) = gone(&rig);
    let old = format!("/log/{}", ids(&all)[0]);
    assert_eq!(get(&server, &old).status, 200);
    let archived = rig.archived_files().len();
    let gone = server.ask("DELETE", "/experiment/demo?confirm=demo", "");
    assert_eq!(gone.status, 200, "{gone:?}");
    assert_eq!(get(&server, &old).status, 404);
    assert_eq!(
        rig.archived_files().len(),
        archived,
        "nothing is deleted there"
    );
    server.define("demo");
    assert_eq!(get(&server, &old).status, 404);
    load(&server, 0);
    wait_until_let_go(&server);
    let new = lines(&server);
    assert_eq!(new.lines().count(), crate::ENTRIES);
    assert!(ids(&new).iter().all(|id| !all.contains(id.as_str())));
    assert_eq!(get(&server, &old).status, 404);
}

#[test]
fn retention_drops_for_good_what_is_in_the_archive_alone() {
    let rig = Rig::in_folder();
    let (server, all) = gone(&rig);
    let definition = r#"{"variants":["A","B"],"retention":{"maxBytes":200000}}"#;
    assert_eq!(
        server.ask("PUT", "/experiment/demo", definition).status,
        200
    );
    let dir = store_dir(&rig);
    wait_until("they are dropped", &server, || outlines(&dir).len() <= 3);
    let old = format!("/log/{}", ids(&all)[0]);
    assert_eq!(get(&server, &old).status, 404);
    let left = lines(&server);
    assert!(
        all.ends_with(&left) && left.lines().count() < 400,
        "{}",
        left.lines().count()
    );
    let dropped = get(&server, "").json()["dropped"]["entries"]
        .as_u64()
        .unwrap();
    assert_eq!(dropped as usize, crate::ENTRIES - left.lines().count());
    assert!(
        rig.out(&["replay", &rig.url])
            .starts_with(all.lines().next().unwrap())
    );
}

#[test]
fn a_backup_has_the_outlines_and_reads_in_the_same_archive() {
    let rig = Rig::in_folder();
    let (server, all) = gone(&rig);
    let beside = rig.dir.path().join("beside");
    let settled = rig.dir.path().join("settled");
    let backup = |to: &Path| {
        let mut command = rig.command();
        command.args(["backup", "--data", arg(&rig.store()), arg(to)]);
        command.args(["--server", &server.url(), "--api-key", &server.key]);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("are in the archive alone, and this backup reads them there"));
    };
    backup(&beside);
    let url = server.url();
    server.stop();
    let output = rig.run(&["backup", "--data", arg(&rig.store()), arg(&settled)]);
    assert!(output.status.success(), "{output:?} {url}");
    for copy in [beside, settled] {
        let args = [&["--archive", &*rig.url][..], &GO].concat();
        let server = Server::start_by(&mut rig.command(), &copy, &args);
        let mut server = server;
        server.key = fs::read_to_string(rig.store().join("admin.key"))
            .unwrap()
            .trim()
            .into();
        assert_eq!(lines(&server), all);
    }
}
