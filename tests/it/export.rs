//! `trialog replay --format csv|parquet`, read by the programs that people have, and what is left of
//! an output file that can't be written.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::faults::disk::Tmpfs;
use crate::faults::{not_run, report};
use crate::server::{EXAMPLE, Server, arg, run, trialog};

const FORMATS: [&str; 3] = ["jsonl", "csv", "parquet"];
const CHECK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/export/check.py");
/// Entries unlike the example: nested, absent, odd and inexact members, line breaks, escapes.
const ODD: [&str; 9] = [
    r#"{"variantKey":"B"}"#,
    "{\"variantKey\":\"A\",\n\"input\":{\r\n\"query\":\"a, \\\"b\\\"\\nc; =1+1\"},\n\"output\":null}",
    r#"{"variantKey":"B","metrics":{"ms":0.10,"judge":{"score":1e-3,"sure":true}}}"#,
    r#"{"variantKey":"A","metrics":{"ms":123456789012345678901234567890,"note":"text","huge":1e400}}"#,
    r#"{"variantKey":"A","metrics":{"judge":{"score":0.30000000000000004},"ms":9007199254740993}}"#,
    r#"{"variantKey":"A","n":[1,{"a":null}],"say \"é\"":"x","metrics":{}}"#,
    r#"{"variantKey":"B","metrics":{"ms":-1.5,"note":null,"list":[1]},"context":{"deep":{"é":"\u0000"}}}"#,
    r#"{"variantKey":"A","metrics":{"with, comma \"and\" quotes":7,"ms":1}}"#,
    r#"{"variantKey":"A","metrics":{"false":false,"ms":2.5e3}}"#,
];

/// A killed server's store with `rounds` of those entries in two experiments.
fn store(dir: &Path, rounds: usize) -> PathBuf {
    let store = dir.join("s");
    let server = Server::start(&store, &["--segment-bytes", "4096"]);
    server.define("other");
    let post = |slug: &str, body: &str| {
        server
            .ask("POST", &format!("/experiment/{slug}/log"), body)
            .log_id();
    };
    for _ in 0..rounds {
        post("demo", EXAMPLE);
        for (n, body) in ODD.iter().enumerate() {
            post(["demo", "other"][n % 2], body);
        }
    }
    server.kill();
    store
}

fn export(store: &Path, format: &str, args: &[&str]) -> PathBuf {
    let file = store.with_extension(format);
    let all = ["replay", arg(store), "--format", format, "-o", arg(&file)];
    let output = run(&[&all[..], args].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
    file
}

#[test]
fn duckdb_pandas_and_polars_read_what_was_logged() {
    let Some(packages) = std::env::var_os("TRIALOG_TEST_PYTHONPATH") else {
        return not_run("no TRIALOG_TEST_PYTHONPATH with duckdb, pandas, polars and pyarrow");
    };
    if packages.is_empty() {
        return report("NOT RUN: duckdb, pandas, polars and pyarrow are not to be had here");
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 4);
    for selection in [&[][..], &["--variant", "A"]] {
        let [lines, csv, parquet] = FORMATS.map(|format| export(&store, format, selection));
        let mut check = Command::new("python3");
        check.arg(CHECK).args([lines, csv, parquet]);
        let output = check.env("PYTHONPATH", &packages).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.matches(" agrees on ").count(), 5, "{said}");
    }
}

#[test]
fn a_table_is_selected_like_lines() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 2);
    let lines = run(&["replay", arg(&store), "--experiment", "demo"]).stdout;
    let lines = String::from_utf8(lines).unwrap();
    let fourth: serde_json::Value = serde_json::from_str(lines.lines().nth(3).unwrap()).unwrap();
    let id = fourth["logId"].as_str().unwrap();
    let selections: [&[&str]; 6] = [
        &["--experiment", "demo"],
        &["--experiment", "other", "--variant", "B"],
        &["--experiment", "demo", "--after", id],
        &["--since", "2999-01-01T00:00:00Z"],
        &["--until", "2999-01-01T00:00:00Z"],
        &["--variant", "none"],
    ];
    for selection in selections {
        let printed = |format| {
            let output = run(&[&["replay", arg(&store), "--format", format], selection].concat());
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            output.stdout
        };
        let ids = |text: Vec<u8>| -> Vec<String> {
            let text = String::from_utf8(text).unwrap();
            text.match_indices("log_0")
                .map(|(at, _)| text[at..at + 30].to_owned())
                .collect()
        };
        let (lines, csv, parquet) = (printed("jsonl"), printed("csv"), printed("parquet"));
        assert!(
            csv.starts_with(b"log_id,experiment,received_at,variant_key,input,output,context,")
        );
        assert_eq!(ids(csv), ids(lines), "{selection:?}");
        assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
    }
}

#[test]
fn more_metrics_than_a_report_has_are_told_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &[]);
    let metrics: Vec<_> = (0..300).map(|n| format!("\"m{n}\":{n}")).collect();
    let body = format!(
        r#"{{"variantKey":"A","metrics":{{{}}}}}"#,
        metrics.join(",")
    );
    server.ask("POST", "/experiment/demo/log", &body).log_id();
    server.kill();
    let output = run(&["replay", arg(&store), "--format", "csv"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("only the first 256 metrics") && said.lines().count() == 1,
        "{said}"
    );
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        table.lines().next().unwrap().split(',').count(),
        7 + 256 + 2
    );
    assert!(table.contains(r#"""m299"":299"#), "{table}");
}

/// Fails unless an export to `file` failed for want of room, and left what was there.
fn left_as_it_was(output: &std::process::Output, file: &Path, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let begin = format!("trialog: can't write {}: ", file.display());
    assert!(said.starts_with(&begin) && said.contains(words), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(fs::read(file).unwrap(), b"before");
    assert_eq!(
        fs::read_dir(file.parent().unwrap()).unwrap().count(),
        1,
        "nothing else"
    );
}

#[test]
fn an_output_file_that_may_not_grow_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 20);
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let file = out.join("entries");
    fs::write(&file, "before").unwrap();
    for format in FORMATS {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -f 4 && exec \"$0\" \"$@\""]);
        limited.arg(trialog().get_program());
        let args = ["replay", arg(&store), "--format", format, "-o", arg(&file)];
        let output = limited.args(args).output().unwrap();
        left_as_it_was(&output, &file, "File too large");
    }
}

#[test]
fn a_disk_that_fills_while_exporting_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Tmpfs::mounted(8 << 10) else {
        return;
    };
    let store = store(dir.path(), 20);
    let file = small.path().join("entries");
    fs::write(&file, "before").unwrap();
    for format in FORMATS {
        let output = run(&["replay", arg(&store), "--format", format, "-o", arg(&file)]);
        left_as_it_was(&output, &file, "No space left");
    }
}

#[test]
fn an_output_that_is_no_file_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1);
    let null = dir.path().join("null");
    std::os::unix::fs::symlink("/dev/null", &null).unwrap();
    let written = run(&["replay", arg(&store), "-o", arg(&null)]);
    assert_eq!(written.status.code(), Some(0), "{written:?}");
    assert!(fs::read("/dev/null").unwrap().is_empty());
    let folder = run(&["replay", arg(&store), "-o", arg(dir.path())]);
    assert_eq!(folder.status.code(), Some(1));
    let said = String::from_utf8(folder.stderr).unwrap();
    assert!(
        said.contains("can't write") && said.contains("it is a folder"),
        "{said}"
    );
}

/// A store that takes a while to export.
fn large_store(dir: &Path) -> PathBuf {
    let store = dir.join("s");
    let server = Server::start(&store, &[]);
    let key = ("x-api-key", server.key.as_str());
    let line = |n: usize| {
        let text = format!(
            "{:x}",
            (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060)
        )
        .repeat(16);
        format!(
            r#"{{"variantKey":"A","metrics":{{"ms":{n},"score":0.{n}}},"input":{{"p":"{text}"}}}}"#
        )
    };
    for batch in 0..30 {
        let lines: Vec<_> = (0..5000).map(|n| line(batch * 5000 + n)).collect();
        let body = format!("[{}]", lines.join(","));
        let mut client = server.connect();
        let answer = client.send("POST", "/experiment/demo/logs", &[key], body.as_bytes());
        assert_eq!(answer.unwrap().status, 200);
    }
    assert!(server.stop().0.success());
    store
}

#[test]
fn an_interrupted_export_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = large_store(dir.path());
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let file = out.join("entries");
    for (format, signal) in FORMATS.into_iter().zip([
        rustix::process::Signal::INT,
        rustix::process::Signal::TERM,
        rustix::process::Signal::INT,
    ]) {
        // One that was quicker than we are is tried again.
        let interrupted = (0..20).any(|_| {
            fs::write(&file, "before").unwrap();
            let mut command = trialog();
            command.args(["replay", arg(&store), "--format", format, "-o", arg(&file)]);
            let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
            let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
            while fs::read_dir(&out).unwrap().count() < 2 && child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            let _ended = rustix::process::kill_process(pid, signal);
            let status = child.wait().unwrap();
            assert_eq!(status.signal(), None, "{format}: it clears away first");
            if status.success() {
                return false;
            }
            assert_eq!(status.code(), Some(128 + signal.as_raw()), "{format}");
            assert_eq!(fs::read(&file).unwrap(), b"before", "{format}");
            assert_eq!(
                fs::read_dir(&out).unwrap().count(),
                1,
                "{format}: nothing else"
            );
            true
        });
        assert!(interrupted, "{format}");
    }
}

#[test]
fn a_terminal_is_shown_how_far_it_is_and_a_pipe_nothing() {
    if Command::new("script").arg("--version").output().is_err() {
        return not_run("there is no `script`, which makes a terminal");
    }
    let dir = tempfile::tempdir().unwrap();
    let store = large_store(dir.path());
    let (file, program) = (dir.path().join("out"), trialog());
    let program = program.get_program().to_str().unwrap();
    // What a terminal shows when this is typed.
    let shown = |rest: &str| {
        let typed = format!("{program} replay {} --format parquet {rest}", arg(&store));
        let mut script = Command::new("script");
        script
            .args(["-qec", &typed, "/dev/null"])
            .stdin(Stdio::null());
        let output = script.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let to_file = shown(&format!("-o {}", arg(&file)));
    assert!(
        to_file.contains("looking for metrics [") || to_file.contains("writing ["),
        "{to_file:?}"
    );
    assert!(
        to_file.contains(" % of ") && to_file.ends_with("\r\x1b[K"),
        "{to_file:?}"
    );
    let whole = fs::metadata(&file).unwrap().len();
    // Behind a pipe somebody else may write to the terminal.
    assert_eq!(shown(&format!("| cat > {}", arg(&file))), "");
    assert_eq!(fs::metadata(&file).unwrap().len(), whole);
    assert_eq!(
        shown(&format!(
            "-o {} 2> {}",
            arg(&file),
            arg(&dir.path().join("err"))
        )),
        ""
    );
    assert_eq!(
        fs::read(dir.path().join("err")).unwrap(),
        b"",
        "no terminal, no line"
    );
}
