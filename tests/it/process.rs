//! The binary from the outside: how it starts, and what it says when it can't.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::server::{EXAMPLE, Server, arg, run, trialog};

#[test]
fn an_empty_folder_becomes_a_store_that_takes_the_example() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let server = Server::start(&store, &[]);
    let id = server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    assert!(id.starts_with("log_") && id.len() == 30, "{id}");
    let mode = fs::metadata(store.join("admin.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "others can read the key");
    server.kill();
    let replayed = run(&["replay", arg(&store)]);
    assert!(replayed.status.success());
    let line = String::from_utf8(replayed.stdout).unwrap();
    assert!(line.contains(&id), "{line}");
    let sent = EXAMPLE.strip_prefix('{').unwrap();
    assert!(line.ends_with(&format!("\",{sent}\n")), "{line}");
}

#[test]
fn the_line_it_prints_works_when_pasted() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: there is no curl here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // A name that a shell would take apart, and relative to a folder that the paster isn't in.
    let name = "it's a $HOME `store`";
    let mut command = trialog();
    command.current_dir(dir.path());
    let server = Server::start_in(&mut command, dir.path(), Path::new(name), &[]);
    let line = server.wait_until_printed("curl ");
    let pasted = Command::new("sh")
        .arg("-c")
        .arg(&line)
        .current_dir("/")
        .output()
        .unwrap();
    assert!(pasted.status.success(), "{pasted:?}");
    let answer: serde_json::Value = serde_json::from_slice(&pasted.stdout).expect("JSON");
    assert_eq!(answer["success"], true, "{pasted:?}");
    let id = answer["logId"].as_str().expect("a logId");
    let entry = server.ask("GET", &format!("/experiment/demo/log/{id}"), "");
    assert_eq!(entry.json()["variantKey"], "A");
    assert!(!line.contains(&server.key), "the key itself is not shown");
}

/// All files below a folder, with what they hold.
fn snapshot(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = arg(&path).to_owned();
        match path.is_dir() {
            true => {
                files.extend(snapshot(&path));
                files.insert(name, Vec::new());
            }
            false => {
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// `serve` as it is told on a command line, on a free port.
fn serve(dir: &Path) -> Command {
    let mut command = trialog();
    command.args(["serve", "--listen", "127.0.0.1:0", "--data", arg(dir)]);
    command
}

/// Fails unless a command failed with one sentence on stderr, which it gives back.
fn sentence(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("trialog: "), "{said}");
    said
}

/// Fails unless a start fails with one sentence that has these words, and changes nothing.
fn refuses(command: &mut Command, dir: &Path, words: &str) {
    let before = snapshot(dir);
    let output = command.env("RUST_BACKTRACE", "1").output().unwrap();
    let said = sentence(&output);
    assert!(said.contains(words), "{said}");
    assert!(snapshot(dir) == before, "something changed: {said}");
}

#[test]
fn a_second_server_on_a_store_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let server = Server::start(&store, &[]);
    let words = format!(
        "{} is in use by another trialog (process {}): stop that one first",
        store.display(),
        server.pid()
    );
    refuses(&mut serve(&store), dir.path(), &words);
    // Repair would write there, too.
    let output = run(&["verify", "--repair", arg(&store)]);
    let words = format!(
        "a server has {} open: stop it before a repair",
        store.display()
    );
    assert!(sentence(&output).contains(&words), "{output:?}");
    server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    server.kill();
    // A lock is no file that a killed server leaves behind.
    Server::start(&store, &[])
        .ask("POST", "/experiment/demo/log", EXAMPLE)
        .log_id();
}

#[test]
fn what_is_not_a_store_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("home")).unwrap();
    fs::write(path("home/letter.txt"), "dear").unwrap();
    fs::write(path("file"), "no folder").unwrap();
    let words = "home is not a trialog store and not empty: name an empty folder";
    refuses(&mut serve(&path("home")), dir.path(), words);
    refuses(&mut serve(&path("file")), dir.path(), "Not a directory");
    refuses(
        &mut serve(&path("none/store")),
        dir.path(),
        "No such file or directory",
    );
    for command in ["replay", "verify"] {
        let output = run(&[command, arg(&path("home"))]);
        assert!(sentence(&output).contains("home is neither a trialog store, nor"));
        let output = run(&[command, arg(&path("none"))]);
        assert!(sentence(&output).contains("No such file or directory"));
    }
    for name in ["file", "home/letter.txt"] {
        for command in ["replay", "verify", "inspect"] {
            let output = run(&[command, arg(&path(name))]);
            assert_eq!(
                output.status.code(),
                Some(1),
                "{command} {name}: {output:?}"
            );
            assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
        }
    }
}

#[test]
fn a_store_of_a_later_program_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let (status, _) = Server::start(&store, &[]).stop();
    assert!(status.success());
    let format = fs::read_to_string(store.join("FORMAT")).unwrap();
    let later = format.replace("\"format\": 1", "\"format\": 2");
    assert_ne!(format, later);
    let words = "has store format 2, this program knows 1: use a newer trialog";
    fs::write(store.join("FORMAT"), later).unwrap();
    refuses(&mut serve(&store), dir.path(), words);
    for command in ["replay", "verify"] {
        assert!(sentence(&run(&[command, arg(&store)])).contains(words));
    }
    fs::write(store.join("FORMAT"), "{").unwrap();
    refuses(&mut serve(&store), dir.path(), "FORMAT is damaged");
    fs::write(store.join("FORMAT"), format).unwrap();
    fs::write(store.join("keys.json"), "{").unwrap();
    let words = "keys.json can't be read";
    let output = serve(&store)
        .arg("--log-level")
        .arg("off")
        .output()
        .unwrap();
    assert!(sentence(&output).contains(words), "{output:?}");
}

#[test]
fn a_read_only_folder_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    // Mode bits don't bind root: so the binary runs as nobody, from where nobody may read it.
    let binary = dir.path().join("trialog");
    // By another process: a copy that is open here for writing, in a child of another test too,
    // can't be run.
    let copied = Command::new("cp")
        .args([env!("CARGO_BIN_EXE_trialog"), arg(&binary)])
        .status();
    assert!(copied.unwrap().success());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o555)).unwrap();
    let read_only = || {
        let mut command = Command::new(&binary);
        command.env_clear();
        command.args(["serve", "--listen", "127.0.0.1:0", "--data", arg(&store)]);
        if rustix::process::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        command
    };
    refuses(
        &mut read_only(),
        &store,
        "store/LOCK failed: Permission denied",
    );
    fs::set_permissions(&store, fs::Permissions::from_mode(0o000)).unwrap();
    let said = sentence(&read_only().output().unwrap());
    assert!(
        said.contains("store/FORMAT failed: Permission denied"),
        "{said}"
    );
    fs::set_permissions(&store, fs::Permissions::from_mode(0o755)).unwrap();
    // A store that is another user's.
    if rustix::process::geteuid().is_root() {
        let (status, _) = Server::start(&store, &[]).stop();
        assert!(status.success());
        refuses(
            &mut read_only(),
            &store,
            "store/FORMAT failed: Permission denied",
        );
    }
}

#[test]
fn a_taken_port_leaves_no_store_behind() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("first"), &[]);
    let address = server.address.to_string();
    let mut command = trialog();
    command.args([
        "serve",
        "--listen",
        &address,
        "--data",
        arg(&dir.path().join("second")),
    ]);
    let words = format!("can't listen on {address}: Address already in use");
    refuses(&mut command, dir.path(), &words);
}

#[test]
fn a_first_key_that_is_none_leaves_no_store_behind() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(513);
    for key in [
        "short",
        "thirty-two characters with spaces",
        "",
        "ääääääääääääääääääääää",
        &long,
    ] {
        let mut command = serve(&dir.path().join("store"));
        command.env("TRIALOG_BOOTSTRAP_KEY", key);
        let words = "TRIALOG_BOOTSTRAP_KEY must be 32 to 512 visible ASCII characters";
        refuses(&mut command, dir.path(), words);
    }
}

#[test]
fn wrong_usage_is_told_apart_from_failing() {
    let here = ["--server", "http://127.0.0.1:1", "--api-key", "k"];
    for args in [
        vec![],
        vec!["sevre"],
        vec!["serve", "--lisen", "127.0.0.1:0"],
        vec!["serve", "--listen", "nowhere"],
        vec!["serve", "--durability", "maybe"],
        vec!["serve", "--segment-bytes", "1"],
        vec!["serve", "--max-body", "many"],
        vec!["serve", "--log-level", "loud"],
        vec!["serve", "extra"],
        vec!["experiment"],
        vec!["experiment", "create"],
        vec!["experiment", "create", "UP"],
        vec!["experiment", "show", "../x"],
        vec!["experiment", "delete", "demo"],
        vec!["experiment", "list", "--server", "ftp://127.0.0.1"],
        vec!["experiment", "list", "--server", "127.0.0.1:7171"],
        vec!["key", "create", "--name", "t"],
        vec!["key", "create", "--name", "t", "--scope", "write"],
        vec![
            "key",
            "create",
            "--name",
            "t",
            "--scope",
            "read",
            "--expires-at",
            "soon",
        ],
        vec!["key", "revoke"],
        vec!["replay"],
        vec!["replay", ".", "--since", "yesterday"],
        vec!["replay", ".", "--after", "log_x"],
        vec!["replay", ".", "--experiment", "UP"],
        vec![
            "replay",
            ".",
            "--since",
            "2026-01-02T00:00:00Z",
            "--until",
            "2026-01-01T00:00:00Z",
        ],
        vec!["verify"],
        vec!["verify", "--fix", "."],
        vec!["inspect"],
        vec!["inspect", "a", "b"],
    ] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{args:?}"
        );
    }
    let output = trialog()
        .arg("serve")
        .env("TRIALOG_MAX_BODY", "many")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    // What is told well and can't be done is no wrong usage.
    let words = "can't reach 127.0.0.1:1: is `trialog serve` running there?";
    assert!(sentence(&run(&[&["experiment", "list"], &here[..]].concat())).contains(words));
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for command in [
        "",
        "serve",
        "experiment",
        "experiment create",
        "experiment list",
        "experiment show",
        "experiment delete",
        "key",
        "key create",
        "key list",
        "key revoke",
        "replay",
        "report",
        "tail",
        "verify",
        "inspect",
        "bench",
    ] {
        let mut args: Vec<_> = command.split_whitespace().collect();
        args.push("--help");
        let output = run(&args);
        assert!(output.status.success(), "{args:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        let example = ["Example:\n", "Examples:\n"].map(|title| said.split_once(title));
        let (_, example) = example
            .into_iter()
            .flatten()
            .next()
            .unwrap_or_else(|| panic!("{said}"));
        assert!(
            example
                .trim_start()
                .starts_with(&format!("trialog {command}")),
            "{said}"
        );
    }
    let output = run(&["--version"]);
    assert_eq!(
        output.stdout,
        format!("trialog {}\n", env!("CARGO_PKG_VERSION")).as_bytes()
    );
}
