//! The archive: uploads by a real server process to a real S3 server or a folder, through a proxy that breaks
//! them, and offline commands that read there. Needs the feature `archive`; where no S3 server is installed,
//! those tests say `NOT RUN`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "archive/azurite.rs"]
mod azurite;
#[path = "it/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "archive/copies.rs"]
mod copies;
#[path = "archive/elsewhere.rs"]
mod elsewhere;
#[path = "archive/google.rs"]
mod google;
#[path = "archive/proxy.rs"]
mod proxy;
#[path = "archive/ranges.rs"]
mod ranges;
#[path = "archive/read_through.rs"]
mod read_through;
#[path = "archive/s3.rs"]
mod s3;
#[path = "it/server.rs"]
#[allow(dead_code)]
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use proxy::{Mode, Proxy};
use s3::{BUCKET, S3};
use server::{PATIENCE, Server, arg, trialog};

const SMALL: &str = "64KiB";
/// Of that length, some 8 segments.
const ENTRIES: usize = 800;

/// A store, and where its archive is.
struct Rig {
    dir: tempfile::TempDir,
    /// The archive's address.
    url: String,
    /// What tells clients where its server is, and who they are.
    environment: Vec<(&'static str, String)>,
}

impl Rig {
    fn on_s3(proxy: &Proxy) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            url: format!("s3://{BUCKET}/some/where"),
            environment: vec![
                ("AWS_ENDPOINT_URL", format!("http://{}", proxy.address)),
                ("AWS_ALLOW_HTTP", "true".into()),
                ("AWS_REGION", "us-east-1".into()),
                ("AWS_ACCESS_KEY_ID", "S3RVER".into()),
                ("AWS_SECRET_ACCESS_KEY", "S3RVER".into()),
            ],
        }
    }

    /// On what a test has started, as that says.
    fn on(url: &str, environment: &[(&'static str, String)]) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            url: url.to_owned(),
            environment: environment.to_vec(),
        }
    }

    fn in_folder() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("archive");
        fs::create_dir(&folder).unwrap();
        Self {
            url: format!("file://{}", arg(&folder)),
            environment: Vec::new(),
            dir,
        }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// The binary, in an environment that has the credentials.
    fn command(&self) -> Command {
        let mut command = trialog();
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["AWS_", "AZURE_", "GOOGLE_"]
                .iter()
                .any(|begin| text.starts_with(begin))
            {
                command.env_remove(&name);
            }
        }
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command
    }

    fn serve(&self, more: &[&str]) -> Server {
        let args = ["--archive", &self.url, "--retention-interval", "1"];
        let args = [&args, more].concat();
        Server::start_by(&mut self.command(), &self.store(), &args)
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).output().unwrap()
    }

    /// What a command prints, which must go well.
    fn out(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The folder of the only log in an archive that is a folder.
    fn log_dir(&self) -> PathBuf {
        let mut dir = PathBuf::from(self.url.strip_prefix("file://").unwrap());
        for _ in 0..3 {
            dir = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
        }
        dir
    }

    fn archived_files(&self) -> Vec<PathBuf> {
        segments(&self.log_dir())
    }
}

/// A store on S3 whose sealed segments are archived, with its server.
struct Scene {
    server: Server,
    rig: Rig,
    proxy: Proxy,
    s3: S3,
}

impl Scene {
    fn on_s3() -> Option<Self> {
        Self::on_s3_with(SMALL, ENTRIES)
    }

    fn on_s3_with(segment_bytes: &str, entry_count: usize) -> Option<Self> {
        let s3 = S3::start()?;
        let proxy = Proxy::start(s3.address, Mode::Pass);
        let rig = Rig::on_s3(&proxy);
        let server = rig.serve(&["--segment-bytes", segment_bytes]);
        send(&server, 0, entry_count, 1000, alternating);
        wait_until_archived(&server);
        Some(Self {
            server,
            rig,
            proxy,
            s3,
        })
    }
}

/// The segments' files in a folder, in order.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = all
        .filter(|path| path.extension().is_some_and(|end| end == "segment"))
        .collect();
    segments.sort();
    segments
}

/// Sends entries numbered from `first` on, of which `variant` says the variants.
fn send(server: &Server, first: usize, count: usize, len: usize, variant: fn(usize) -> char) {
    let pad = "x".repeat(len);
    for batch in (first..first + count).collect::<Vec<_>>().chunks(50) {
        let lines = batch.iter().map(|n| {
            let variant = variant(*n);
            format!(r#"{{"variantKey":"{variant}","input":{{"n":{n},"pad":"{pad}"}},"metrics":{{"m":{n}}}}}"#)
        });
        let body = lines.collect::<Vec<_>>().join("\n");
        let headers = [
            ("x-api-key", &*server.key),
            ("content-type", "application/x-ndjson"),
        ];
        let mut client = server.connect();
        let answer = client.send("POST", "/experiment/demo/logs", &headers, body.as_bytes());
        assert_eq!(answer.as_ref().unwrap().status, 200, "{answer:?}");
    }
}

fn alternating(n: usize) -> char {
    if n.is_multiple_of(2) { 'A' } else { 'B' }
}

fn load(server: &Server, first: usize) {
    send(server, first, ENTRIES, 1000, alternating);
}

fn metric(server: &Server, name: &str) -> u64 {
    let body = server.ask("GET", "/metrics", "").body;
    let text = String::from_utf8(body).unwrap();
    let name = format!("trialog_archive_{name} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("{name}: {text}"))
        .parse()
        .unwrap()
}

fn wait_until(what: &str, server: &Server, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}: {}", server.said());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Waits until all segments but the last are in the archive, as the mark beside them says.
fn wait_until_archived(server: &Server) {
    let dir = server.dir.join("experiments/demo");
    wait_until("all is archived", server, || {
        let mark = fs::read_to_string(dir.join("archived.json")).unwrap_or_default();
        let local = segments(&dir);
        let (_, closed) = local.split_last().unwrap();
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        closed.iter().all(|path| mark.contains(&name(path)))
            && metric(server, "behind_segments") == 0
    });
}

/// Fails unless the archive gives back, byte for byte, what the store does, but for its last segment.
fn assert_same(rig: &Rig, entries_min: usize) {
    let local = rig.out(&["replay", arg(&rig.store())]);
    let archived = rig.out(&["replay", &rig.url]);
    assert!(
        archived.lines().count() >= entries_min,
        "{}",
        archived.lines().count()
    );
    assert!(
        local.starts_with(&archived),
        "the archive has other entries"
    );
    let verified = rig.run(&["verify", &rig.url]);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn what_is_sealed_is_in_the_archive_and_reads_as_the_files_do() {
    let Some(scene) = Scene::on_s3() else { return };
    let Scene {
        server,
        rig,
        proxy,
        s3,
    } = scene;
    assert!(metric(&server, "segments_total") >= 5 && metric(&server, "failures_total") == 0);
    assert_same(&rig, 300);
    let address = s3.address_of(&s3.segments()[1]);
    let inspected = rig.out(&["inspect", &address]);
    assert!(
        inspected.contains("segment         number 1,"),
        "{inspected}"
    );
    let alone = rig.out(&["replay", &address]);
    assert!(rig.out(&["replay", &rig.url]).contains(&alone) && !alone.is_empty());

    // What is there isn't sent again, nor read.
    let (status, _) = server.stop();
    assert!(status.success());
    let (up, down) = (proxy.up(), proxy.down());
    let server = rig.serve(&["--segment-bytes", SMALL]);
    wait_until("it looks", &server, || proxy.up() > up);
    wait_until_archived(&server);
    assert_eq!(metric(&server, "segments_total"), 0);
    let (up, down) = (proxy.up() - up, proxy.down() - down);
    assert!(up < 20_000 && down < 20_000, "{up} bytes up, {down} down");
}

#[test]
fn an_upload_that_is_cut_off_is_sent_again() {
    let Some(s3) = S3::start() else { return };
    let proxy = Proxy::start(s3.address, Mode::CutAfter(30_000));
    let rig = Rig::on_s3(&proxy);
    let server = rig.serve(&["--segment-bytes", SMALL]);
    load(&server, 0);
    let said = server.wait_until_said("nothing can be archived now");
    assert!(
        said.contains("uploading s3://trialog/some/where/"),
        "{said}"
    );
    wait_until("two failures", &server, || {
        metric(&server, "failures_total") >= 2
    });
    // A server that keeps half of one has a broken object, which is replaced.
    assert_eq!(metric(&server, "segments_total"), 0);
    assert!(metric(&server, "behind_segments") >= 5 && metric(&server, "behind_bytes") > 300_000);
    proxy.set(Mode::Pass);
    wait_until_archived(&server);
    server.wait_until_said("the archive can be reached again");
    assert_eq!(
        server.said().matches("nothing can be archived now").count(),
        1
    );
    assert_same(&rig, 300);
}

#[test]
fn a_long_segment_goes_by_parts_and_a_kill_in_the_middle_costs_nothing() {
    let Some(s3) = S3::start() else { return };
    let proxy = Proxy::start(s3.address, Mode::StallAfter(10 << 20));
    let rig = Rig::on_s3(&proxy);
    let server = rig.serve(&["--segment-bytes", "20MiB"]);
    send(&server, 0, 300, 100_000, alternating);
    // The first part is there, and the second is on its way.
    wait_until("it is on its way", &server, || proxy.up() > 10 << 20);
    server.kill();
    assert_eq!(s3.segments(), Vec::<PathBuf>::new());
    proxy.set(Mode::Pass);
    let server = rig.serve(&["--segment-bytes", "20MiB"]);
    wait_until_archived(&server);
    assert_eq!(metric(&server, "segments_total"), 1);
    assert_same(&rig, 180);
    // Killed behind the upload, and before that was written down: it is read, and not sent again.
    server.kill();
    fs::remove_file(rig.store().join("experiments/demo/archived.json")).unwrap();
    let up = proxy.up();
    let server = rig.serve(&["--segment-bytes", "20MiB"]);
    wait_until_archived(&server);
    assert_eq!(metric(&server, "segments_total"), 0);
    assert!(proxy.up() - up < 100_000);
}

#[test]
fn a_server_that_is_away_or_full_loses_nothing_and_holds_nobody_up() {
    let Some(s3) = S3::start() else { return };
    let proxy = Proxy::start(s3.address, Mode::Away);
    let rig = Rig::on_s3(&proxy);
    let server = rig.serve(&["--segment-bytes", SMALL]);
    load(&server, 0);
    server.wait_until_said("nothing can be archived now");
    proxy.set(Mode::Pass);
    wait_until_archived(&server);
    for answer in ["503 Slow Down", "507 Insufficient Storage", "403 Forbidden"] {
        let failures = metric(&server, "failures_total");
        proxy.set(Mode::Answer(answer));
        load(&server, 1000);
        wait_until(answer, &server, || {
            metric(&server, "failures_total") > failures
        });
        let (code, _) = answer.split_once(' ').unwrap();
        server.wait_until_said(code);
        proxy.set(Mode::Pass);
        wait_until_archived(&server);
    }
    assert_same(&rig, 4 * 300);
}

#[test]
fn what_is_wrong_or_missing_is_told_and_replaced() {
    let rig = Rig::in_folder();
    let server = rig.serve(&["--segment-bytes", SMALL]);
    load(&server, 0);
    wait_until_archived(&server);
    server.stop();
    let whole = rig.out(&["replay", &rig.url]);
    let files = rig.archived_files();
    // As a copy of the folder reads, without knowing of archives.
    assert_eq!(rig.out(&["replay", arg(&rig.log_dir())]), whole);
    for format in ["table", "json"] {
        let local = rig.out(&["report", "--format", format, arg(&rig.log_dir())]);
        assert_eq!(rig.out(&["report", "--format", format, &rig.url]), local);
        let by_unit = ["report", "--unit", "input.n", "--format", format];
        let local = rig.out(&[&by_unit, &[arg(&rig.log_dir())][..]].concat());
        assert_eq!(rig.out(&[&by_unit, &[&*rig.url][..]].concat()), local);
    }

    let good = files
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect::<Vec<_>>();
    let mut flipped = good[1].clone();
    flipped[20_000] ^= 4;
    fs::remove_file(&files[1]).unwrap();
    fs::write(&files[1], &flipped).unwrap();
    fs::remove_file(&files[2]).unwrap();
    fs::write(&files[3], &good[3][..30_000]).unwrap();
    fs::remove_file(&files[0]).unwrap();
    let verified = rig.run(&["verify", &rig.url]);
    let said = String::from_utf8(verified.stdout).unwrap();
    assert_eq!(verified.status.code(), Some(1), "{said}");
    for words in [
        "1 segments in front of it are missing",
        "entry log_",
        "shorter than",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(said.matches("are missing").count(), 2, "{said}");
    let replayed = rig.run(&["replay", &rig.url]);
    assert_eq!(replayed.status.code(), Some(1), "{replayed:?}");

    let server = rig.serve(&["--segment-bytes", SMALL]);
    wait_until_archived(&server);
    wait_until("they are sent again", &server, || {
        metric(&server, "segments_total") == 4
    });
    assert_eq!(rig.out(&["replay", &rig.url]), whole);
    assert_same(&rig, 300);

    // Another whole segment under that name may be the only copy of what is in it.
    server.stop();
    fs::remove_file(&files[1]).unwrap();
    fs::write(&files[1], &good[2]).unwrap();
    let server = rig.serve(&["--segment-bytes", SMALL]);
    let said = server.wait_until_said("is another whole segment than the local one");
    assert!(
        said.contains(files[1].file_name().unwrap().to_str().unwrap()),
        "{said}"
    );
    assert_eq!(fs::read(&files[1]).unwrap(), good[2]);

    // What is damaged here is not archived.
    server.stop();
    fs::remove_file(&files[1]).unwrap();
    let local = &segments(&rig.store().join("experiments/demo"))[1];
    fs::write(local, &flipped).unwrap();
    let server = rig.serve(&["--segment-bytes", SMALL]);
    server.wait_until_said("is damaged, and isn't archived");
    assert!(!files[1].exists());
}

#[test]
fn an_object_that_rots_is_told_by_its_checksum() {
    let Some(Scene { rig, s3, .. }) = &Scene::on_s3() else {
        return;
    };
    let path = &s3.segments()[2];
    let mut bytes = fs::read(path).unwrap();
    bytes[30_000] ^= 1;
    fs::write(path, bytes).unwrap();
    let output = rig.run(&["verify", &rig.url]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("s3://trialog/some/where/") && said.contains("is lost"),
        "{said}"
    );
    for args in [&["replay"][..], &["replay", "--variant", "A"]] {
        assert_eq!(
            rig.run(&[args, &[&rig.url]].concat()).status.code(),
            Some(1),
            "{args:?}"
        );
    }
}

#[test]
fn what_is_asked_for_in_vain_is_told_with_what_to_do() {
    let Some(s3) = S3::start() else { return };
    let proxy = Proxy::start(s3.address, Mode::Pass);
    let rig = Rig::on_s3(&proxy);
    let refused = |command: &mut Command, words: &[&str]| {
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        for words in words {
            assert!(said.contains(words), "{words}: {said}");
        }
    };
    let verify = |url: &str| {
        let mut command = rig.command();
        command.args(["verify", url]);
        command
    };
    refused(
        &mut verify("s3://nobucket/x"),
        &["s3://nobucket/x", "there is no such bucket: make it"],
    );
    refused(
        &mut verify("s3://trialog/x"),
        &["nothing is archived at s3://trialog/x"],
    );
    refused(
        &mut verify("memory:///x"),
        &["is no archive's address: give s3://"],
    );
    let bad_key = "403 Forbidden";
    refused(
        verify(&rig.url).env("AWS_ACCESS_KEY_ID", "other"),
        &[bad_key],
    );
    let mut repair = verify(&rig.url);
    let words = "an archive is only read: copy what is to be repaired";
    // A server, so that something is there.
    let server = rig.serve(&["--segment-bytes", SMALL]);
    load(&server, 0);
    wait_until_archived(&server);
    refused(repair.arg("--repair"), &[words]);
    proxy.set(Mode::Answer("403 Forbidden"));
    refused(
        &mut verify(&rig.url),
        &["listing s3://trialog/some/where failed", bad_key],
    );
}

#[test]
fn retention_drops_only_what_is_archived() {
    let rig = Rig::in_folder();
    let folder = PathBuf::from(rig.url.strip_prefix("file://").unwrap());
    // A file in its place: nothing can be put there.
    fs::remove_dir(&folder).unwrap();
    fs::write(&folder, "").unwrap();
    let server = rig.serve(&["--segment-bytes", SMALL]);
    let definition = r#"{"variants":["A","B"],"retention":{"maxBytes":100000}}"#;
    assert_eq!(
        server.ask("PUT", "/experiment/demo", definition).status,
        200
    );
    load(&server, 0);
    server.wait_until_said("stay until they were seen whole in the archive");
    let dir = rig.store().join("experiments/demo");
    let before = segments(&dir);
    assert!(before.len() > 5 && !dir.join("dropped.json").exists());
    let local = rig.out(&["replay", arg(&rig.store())]);

    fs::remove_file(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    wait_until("what is archived is dropped", &server, || {
        segments(&dir).len() <= 2
    });
    let archived = rig.out(&["replay", &rig.url]);
    assert!(local.starts_with(&archived) && archived.lines().count() >= 300);
    assert!(rig.run(&["verify", &rig.url]).status.success());
    // The last segments of all, and a deleted experiment's objects stay.
    let count = rig.archived_files().len();
    assert_eq!(
        server
            .ask("DELETE", "/experiment/demo?confirm=demo", "")
            .status,
        200
    );
    assert_eq!(rig.archived_files().len(), count);
    assert_eq!(rig.out(&["replay", &rig.url]), archived);
}
