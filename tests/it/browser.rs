//! The dashboard in a real Chromium: `tests/browser/dashboard.mjs` says what is done in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::faults::{not_run, report};
use crate::real_entries;
use crate::server::{Server, arg};

const BROWSERS: [&str; 3] = [
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
];

#[test]
fn somebody_does_all_that_the_dashboard_is_for() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let Some(chromium) = BROWSERS.into_iter().find(|path| Path::new(path).exists()) else {
        return not_run("there is no chromium");
    };
    if let Err(why) = install(&scripts) {
        return not_run(&why);
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let lines = real_entries::lines().unwrap_or_else(|| {
        report("the real entries aren't in ../shared, nor in TRIALOG_TEST_SHARED: made ones are logged");
        made_lines()
    });
    let entries = dir.path().join("entries.jsonl");
    fs::write(&entries, lines.join("\n")).unwrap();
    let mut command = Command::new("node");
    command
        .arg(scripts.join("dashboard.mjs"))
        .env("TRIALOG_URL", server.url())
        .env("TRIALOG_KEY", &server.key)
        .env("TRIALOG_ENTRIES", arg(&entries))
        .env("TRIALOG_PROFILE", arg(&dir.path().join("profile")))
        .env("TRIALOG_CHROMIUM", chromium)
        .stdin(Stdio::null());
    if let Some(folder) = std::env::var_os("TRIALOG_TEST_SCREENSHOTS") {
        let folder = PathBuf::from(folder);
        command.env("TRIALOG_SCREENSHOTS", fs::canonicalize(folder).unwrap());
    }
    let done = command.output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// Has npm bring what the script needs, as the lock file has it, unless it is there.
fn install(scripts: &Path) -> Result<(), String> {
    let node = Command::new("node").arg("--version").output();
    let node = node.map_err(|_| "there is no node".to_owned())?;
    let version = String::from_utf8_lossy(&node.stdout).into_owned();
    let major = version.trim_start_matches('v').split('.').next();
    if major
        .and_then(|major| major.parse().ok())
        .is_none_or(|major: u32| major < 18)
    {
        return Err(format!("node {} is too old: 18 is needed", version.trim()));
    }
    let has = |package: &str| scripts.join("node_modules").join(package).exists();
    if has("playwright-core") && has("axe-core") {
        return Ok(());
    }
    let npm = Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
        .current_dir(scripts)
        .output();
    let npm = npm.map_err(|_| "there is no npm".to_owned())?;
    match npm.status.success() {
        true => Ok(()),
        false => Err(format!(
            "npm ci failed: {}",
            String::from_utf8_lossy(&npm.stderr)
        )),
    }
}

/// Two variants' answers to the same inputs.
fn made_lines() -> Vec<String> {
    let line = |n: usize| {
        let (variant, input) = (n % 4, n / 4);
        let entry = json!({
            "variantKey": format!("variant-{variant}"), "input": {"query": format!("question {input}")},
            "output": {"response": format!("answer {n}")},
            "metrics": {"length": 100 + 20 * variant + input % 17, "win_rate": (n * 37) % 101},
        });
        entry.to_string()
    };
    (0..1200).map(line).collect()
}
