//! The Debian package: what lintian says of it, and a life of it on a machine with systemd.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::faults::not_run;
use crate::machine::Machine;
use crate::server::{arg, run};

const CONFIG: &str = include_str!("../../deploy/trialog.toml");

/// All files of the machine but those of the kernel, logs, and what programs that are no part of this write.
const ALL_FILES: &str = "find / -xdev -path /proc -prune -o -path /sys -prune -o -path /dev -prune \
    -o -path /run -prune -o -path /tmp -prune -o -path /var/tmp -prune -o -path /var/log -prune \
    -o -path /var/cache -prune -o -path /var/lib/dpkg -prune -o -path /var/lib/apt -prune \
    -o -path /var/lib/systemd -prune -o -path /var/lib/prometheus -prune -o -path /srv/host -prune -o -print";

/// The package of the binary under test, and one of it that counts as newer.
pub struct Packages {
    _dir: TempDir,
    pub first: PathBuf,
    pub next: PathBuf,
}

/// Makes both, once; if that can't be done here, why.
pub fn packages() -> Result<&'static Packages, String> {
    static PACKAGES: OnceLock<Result<Packages, String>> = OnceLock::new();
    PACKAGES
        .get_or_init(make_packages)
        .as_ref()
        .map_err(Clone::clone)
}

fn make_packages() -> Result<Packages, String> {
    let cargo_deb = Command::new("cargo").args(["deb", "--version"]).output();
    if !cargo_deb.is_ok_and(|output| output.status.success()) {
        return Err("there is no cargo-deb".into());
    }
    let dir = tempfile::tempdir().unwrap();
    let first = make_package(&dir.path().join("first"), &[]);
    let version = format!("--deb-version={}-1+next", env!("CARGO_PKG_VERSION"));
    let next = make_package(&dir.path().join("next"), &[&version, "--fast"]);
    Ok(Packages {
        _dir: dir,
        first,
        next,
    })
}

fn make_package(dir: &Path, options: &[&str]) -> PathBuf {
    fs::create_dir(dir).unwrap();
    let folder = Path::new(env!("CARGO_BIN_EXE_trialog")).parent().unwrap();
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/deb.sh"));
    if folder.ends_with("debug") {
        command.args(["--profile", "dev"]);
    }
    command.env("CARGO_TARGET_DIR", folder.parent().unwrap());
    let output = command.args(["--output", arg(dir)]).args(options).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let made = String::from_utf8(output.stdout).unwrap();
    PathBuf::from(made.trim())
}

#[test]
fn lintian_has_nothing_to_say() {
    let packages = match packages() {
        Ok(packages) => packages,
        Err(reason) => return not_run(&reason),
    };
    let mut command = Command::new("lintian");
    command.args(["--allow-root", "--fail-on", "error,warning"]);
    let Ok(output) = command.arg(&packages.first).output() else {
        return not_run("there is no lintian here");
    };
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

/// Every crate that cargo says is linked, and a text of each licence that some of them are under alone.
#[test]
fn it_has_the_licences_of_what_is_linked() {
    let packages = match packages() {
        Ok(packages) => packages,
        Err(reason) => return not_run(&reason),
    };
    let dir = tempfile::tempdir().unwrap();
    let unpacked = Command::new("dpkg-deb")
        .arg("-x")
        .arg(&packages.first)
        .arg(dir.path())
        .output();
    let Ok(unpacked) = unpacked else {
        return not_run("there is no dpkg-deb here");
    };
    assert!(unpacked.status.success(), "{unpacked:?}");
    let file = dir.path().join("usr/share/doc/trialog/third-party.txt.gz");
    let mut text = String::new();
    let file = fs::File::open(file).unwrap();
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .unwrap();
    let mut tree = Command::new("cargo");
    tree.args([
        "tree",
        "--locked",
        "--edges=normal,no-proc-macro",
        "--prefix=none",
    ]);
    let tree = tree
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{tree:?}");
    let tree = String::from_utf8(tree.stdout).unwrap();
    let crates: BTreeSet<_> = tree
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(" v"))
        .collect();
    assert!(crates.len() > 80, "{crates:?}");
    for (name, version) in crates {
        let version = version.split(' ').next().unwrap();
        let line = format!("\n{name} {version}: ");
        assert!(name == "trialog" || text.contains(&line), "{line}");
    }
    for words in [
        "Apache License",
        "Permission is hereby granted, free of charge",
        "Redistribution and use in source and binary forms",
        "Permission to use, copy, modify, and/or distribute",
    ] {
        assert!(text.contains(words), "{words}");
    }
}

#[test]
fn its_settings_are_ours_and_those_not_in_force_are_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let values = |text: &str| {
        let path = dir.path().join("trialog.toml");
        fs::write(&path, text).unwrap();
        let output = run(&["serve", "--print-config", "--config", arg(&path)]);
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8(output.stdout).unwrap();
        let value = |line: &str| line.split(" # ").next().unwrap().to_owned();
        printed.lines().map(value).collect::<Vec<_>>()
    };
    let as_it_is = values(CONFIG);
    assert!(as_it_is.contains(&r#"data = "/var/lib/trialog""#.to_owned()));
    let is_setting = |line: &str| {
        let name = line.split(" = ").next().unwrap();
        line.contains(" = ")
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let with_all = CONFIG.lines().map(|line| match line.strip_prefix("# ") {
        Some(setting) if is_setting(setting) => setting,
        _ => line,
    });
    let with_all: Vec<&str> = with_all.collect();
    assert!(with_all.iter().filter(|line| is_setting(line)).count() > 10);
    let mut expected = as_it_is;
    // These have no defaults.
    for line in &mut expected {
        if let Some(name) = line
            .strip_prefix("# tls_")
            .and_then(|rest| rest.split(' ').next())
            && ["cert", "key"].contains(&name)
        {
            *line = format!(r#"tls_{name} = "/etc/trialog/{name}.pem""#);
        }
    }
    assert_eq!(values(&with_all.join("\n")), expected);
}

#[test]
fn it_installs_upgrades_and_leaves_nothing_but_entries() {
    let (packages, machine) = match packages().and_then(|made| Ok((made, Machine::boot()?))) {
        Ok(both) => both,
        Err(reason) => return not_run(&reason),
    };
    for (name, package) in [("first", &packages.first), ("next", &packages.next)] {
        fs::copy(package, machine.shared.path().join(format!("{name}.deb"))).unwrap();
    }
    let files = || {
        machine
            .get(ALL_FILES)
            .lines()
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    let before = files();
    let install = |name: &str| machine.get(&format!("apt-get install -qy /srv/host/{name}.deb"));
    let main_pid = "systemctl show --property=MainPID --value trialog";

    install("first");
    let unit = "trialog.service";
    assert_eq!(
        machine.get(&format!("systemctl is-active {unit}")),
        "active"
    );
    assert_eq!(
        machine.get(&format!("systemctl is-enabled {unit}")),
        "enabled"
    );
    let verified = machine.run(&format!(
        "systemd-analyze verify --man=no /usr/lib/systemd/system/{unit}"
    ));
    assert!(
        verified.status.success() && verified.stderr.is_empty(),
        "{verified:?}"
    );
    // 0 is safe, 10 is not.
    machine.get(&format!("systemd-analyze security --threshold=20 {unit}"));
    let first = machine.get(main_pid);
    assert_eq!(
        machine.get(&format!("stat -c %U:%G /proc/{first}")),
        "trialog:trialog"
    );
    assert_eq!(
        machine.get("stat -c '%U %a' /var/lib/trialog /var/lib/trialog/admin.key"),
        "trialog 700\ntrialog 600"
    );
    machine.get("test -s /usr/share/man/man1/trialog-serve.1.gz");
    machine.get(". /usr/share/bash-completion/completions/trialog; complete -p trialog");

    let ask = r#"curl -fsS -H "x-api-key: $(cat /var/lib/trialog/admin.key)" -H 'content-type: application/json' http://127.0.0.1:7171/experiment/demo"#;
    let sent = machine.get(&format!(r#"{ask}/log -d '{{"variantKey":"A"}}'"#));
    let sent: serde_json::Value = serde_json::from_str(&sent).unwrap();
    let id = sent["logId"].as_str().unwrap();
    // A setting of the operator's, which an upgrade keeps.
    machine.get("echo 'max_body = 2000' >> /etc/trialog/trialog.toml");
    install("next");
    let version = machine.get("dpkg-query -W -f '${Version} ${Status}' trialog");
    let expected = format!("{}-1+next install ok installed", env!("CARGO_PKG_VERSION"));
    assert_eq!(version, expected);
    assert_eq!(
        machine.get(&format!("systemctl is-active {unit}")),
        "active"
    );
    assert_ne!(machine.get(main_pid), first, "it was started anew");
    let back = machine.get(&format!("{ask}/log/{id}"));
    assert!(back.contains(r#""variantKey":"A""#), "{back}");
    let long = format!(
        r#"{ask}/log -d '{{"variantKey":"A","x":"{}"}}'"#,
        "x".repeat(2000)
    );
    let refused = machine.run(&long);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("413"),
        "{refused:?}"
    );

    machine.get("apt-get remove -qy trialog");
    let gone = machine.run(&format!("systemctl is-active {unit}"));
    assert!(!gone.status.success(), "{gone:?}");
    assert!(!machine.run(ask).status.success(), "somebody listens");
    machine.get("test -f /etc/trialog/trialog.toml && test ! -e /usr/bin/trialog");
    let purged = machine.run("apt-get purge -qy trialog");
    let said = String::from_utf8_lossy(&purged.stdout) + String::from_utf8_lossy(&purged.stderr);
    assert!(purged.status.success(), "{said}");
    assert!(
        said.contains("the entries in /var/lib/trialog stay"),
        "{said}"
    );
    machine.get("test -s /var/lib/trialog/keys.json && rm -r /var/lib/trialog; userdel trialog");
    let after = files();
    let differing: Vec<_> = before.symmetric_difference(&after).collect();
    assert_eq!(differing, Vec::<&String>::new());
    machine.get("! grep trialog /etc/passwd /etc/group || exit 1");
    machine.get("systemctl reset-failed; systemctl is-system-running");
}
