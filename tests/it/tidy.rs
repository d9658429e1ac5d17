//! What must hold of all sources, checked by reading them.

use std::fs;
use std::path::{Path, PathBuf};

/// No file is longer than this.
const LINES_MAX: usize = 600;

/// Which of our modules each may name, itself aside. This is the map in `src/lib.rs`.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("stats", &["model"]),
    ("fs", &[]),
    ("percent", &[]),
    ("entry_json", &["model"]),
    ("json_file", &[]),
    ("log", &["fs", "json_file", "model"]),
    ("metrics", &["model"]),
    ("journal", &["fs", "log", "metrics", "model"]),
    (
        "experiment",
        &[
            "fs",
            "journal",
            "json_file",
            "log",
            "metrics",
            "model",
            "stats",
        ],
    ),
    // Behind a feature: uploads beside a store, and a disk to read by.
    (
        "archive",
        &["experiment", "fs", "json_file", "log", "model"],
    ),
    // Behind a feature: orders what a store on several nodes is asked for.
    (
        "replica",
        &["auth", "experiment", "json_file", "log", "metrics", "model"],
    ),
    (
        "offline",
        &[
            // Behind a feature.
            "archive",
            "entry_json",
            "experiment",
            "fs",
            "journal",
            "json_file",
            "log",
            "model",
            "stats",
        ],
    ),
    // Figures in, HTML out.
    ("dashboard", &["entry_json", "model", "percent", "stats"]),
    ("auth", &["entry_json", "fs", "json_file", "model"]),
    (
        "http",
        &[
            "auth",
            "dashboard",
            "entry_json",
            "experiment",
            "metrics",
            "model",
            "percent",
            // Behind a feature.
            "replica",
            "stats",
        ],
    ),
    // A client, and a reader of files: what it measures and checks is none of its own.
    ("bench", &["entry_json", "fs", "model", "offline"]),
];

/// What may be named only in files whose path begins so.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("bincode::", &["log/record.rs"]),
    ("std::fs", &["fs/", "cli/", "bench/", "metrics/process.rs"]),
    ("memmap2::", &["fs/"]),
    ("rustix::", &["fs/", "bench/alarm.rs", "metrics/process.rs"]),
    (
        "tokio::",
        &[
            "experiment/",
            "http/",
            "cli/",
            "archive/",
            "replica/",
            "bench/noop.rs",
            "bench/peers/",
        ],
    ),
    ("hyper::", &["http/", "auth/", "cli/", "bench/noop.rs"]),
    ("mio::", &["bench/"]),
    ("hdrhistogram::", &["bench/meter.rs"]),
    ("redis::", &["bench/peers/redis_streams.rs"]),
    (
        "async_nats::",
        &[
            "bench/peers/jetstream.rs",
            "replica/jetstream.rs",
            "replica/jetstream/",
            "replica/keys.rs",
            "replica/nats_post.rs",
        ],
    ),
    ("tokio_postgres::", &["bench/peers/postgres.rs"]),
    ("object_store::", &["archive/"]),
    ("matchit::", &["http/"]),
    ("clap::", &["cli/", "main.rs"]),
    ("toml::", &["cli/settings"]),
    (
        "rustls::",
        &[
            "http/tls.rs",
            "cli/client_tls.rs",
            "bench/wire.rs",
            "archive/store.rs",
        ],
    ),
    ("maud::", &["dashboard/", "http/dashboard/"]),
    ("hmac::", &["auth/session.rs"]),
    ("statrs::", &["stats/"]),
    ("num_bigint::", &["stats/"]),
    (" ::csv::", &["offline/export/csv.rs"]),
    (" ::parquet::", &["offline/export/parquet"]),
    ("allow(unsafe_code)", &["fs/real.rs"]),
];

struct Source {
    /// Below the project's folder.
    path: String,
    text: String,
}

impl Source {
    /// Its lines of code, numbered from 1, without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| {
            let is_comment = line.trim_start().starts_with("//");
            (at + 1, if is_comment { "" } else { line })
        })
    }

    /// Its path below `src`, if it is there.
    fn in_src(&self) -> Option<&str> {
        self.path.strip_prefix("src/")
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for dir in ["src", "tests", "benches", "fuzz"] {
        collect(&root.join(dir), &mut paths);
    }
    assert!(paths.len() > 50, "the sources are found");
    let read = |path: PathBuf| Source {
        text: fs::read_to_string(&path).unwrap(),
        path: path
            .strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned(),
    };
    paths.into_iter().map(read).collect()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, paths);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            paths.push(path);
        }
    }
}

/// Fails with all that was found.
fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

/// The modules that a line of code names behind `crate::`.
fn named_modules(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn each_file_says_what_it_is_for_and_is_not_too_long() {
    let mut findings = Vec::new();
    for source in sources() {
        if !source.text.starts_with("//! ") {
            findings.push(format!("{} doesn't open with a `//!` line", source.path));
        }
        let line_count = source.text.lines().count();
        if line_count > LINES_MAX {
            findings.push(format!("{} has {line_count} lines", source.path));
        }
    }
    none(findings);
}

#[test]
fn nothing_is_left_undone_or_passed_over() {
    // Put together here, so that this file doesn't find itself.
    let marks = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!"));
    let ignored = ["#[", "ignore"].concat();
    let mut findings = Vec::new();
    for source in sources() {
        for (at, line) in source.code() {
            let has_mark = marks.iter().any(|mark| line.contains(mark.as_str()));
            if has_mark || line.contains(&ignored) {
                findings.push(format!("{}:{at}: {}", source.path, line.trim()));
            }
        }
    }
    none(findings);
}

#[test]
fn modules_name_only_what_lies_below_them() {
    let mut findings = Vec::new();
    for source in sources() {
        let Some(path) = source.in_src() else {
            continue;
        };
        let module = path.split(['/', '.']).next().unwrap();
        if ["cli", "lib", "main"].contains(&module) {
            continue;
        }
        let Some((_, may)) = MAY_NAME.iter().find(|(name, _)| *name == module) else {
            findings.push(format!(
                "{path}: the module {module} has no row in MAY_NAME"
            ));
            continue;
        };
        for (at, line) in source.code() {
            for named in named_modules(line) {
                if named != module && !may.contains(&named) {
                    let line = line.trim();
                    findings.push(format!(
                        "{path}:{at}: {module} must not name {named}: {line}"
                    ));
                }
            }
        }
    }
    none(findings);
}

#[test]
fn what_is_foreign_is_named_only_where_it_belongs() {
    let mut findings = Vec::new();
    for source in sources() {
        let Some(path) = source.in_src() else {
            continue;
        };
        for (at, line) in source.code() {
            for (what, places) in ONLY_IN {
                let is_in_place = places.iter().any(|place| path.starts_with(place));
                if line.contains(what) && !is_in_place {
                    findings.push(format!(
                        "{path}:{at}: `{what}` must not be here: {}",
                        line.trim()
                    ));
                }
            }
        }
    }
    none(findings);
}
