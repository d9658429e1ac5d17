//! The server as an installed service: what it tells a service manager, on a real socket; its unit, its
//! completions and its manual pages.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use crate::faults::not_run;
use crate::server::{PATIENCE, Server, arg, run, trialog};

fn hear(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let len = socket.recv(&mut buffer).expect("it tells something");
    String::from_utf8(buffer[..len].to_vec()).unwrap()
}

#[test]
fn it_tells_that_it_is_ready_that_it_is_alive_and_that_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = trialog();
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "20000");
    let server = Server::start_by(&mut command, &dir.path().join("store"), &[]);
    assert_eq!(hear(&socket), "READY=1");
    assert_eq!(server.ask("GET", "/ready", "").status, 200);
    for _ in 0..3 {
        assert_eq!(hear(&socket), "WATCHDOG=1");
    }
    assert!(server.stop().0.success());
    let mut said = hear(&socket);
    while said == "WATCHDOG=1" {
        said = hear(&socket);
    }
    assert_eq!(said, "STOPPING=1");
}

#[test]
fn a_service_manager_that_has_gone_is_no_reason_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = trialog();
    command.env("NOTIFY_SOCKET", dir.path().join("nobody"));
    let server = Server::start_by(&mut command, &dir.path().join("store"), &[]);
    assert_eq!(server.ask("GET", "/ready", "").status, 200);
    assert!(server.stop().0.success());
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/trialog.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    // Its binary is where it is installed, not here.
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("trialog.service");
    let binary = env!("CARGO_BIN_EXE_trialog");
    assert!(text.contains("/usr/bin/trialog serve"));
    std::fs::write(&here, text.replace("/usr/bin/trialog", binary)).unwrap();
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&here)
        .output();
    let Ok(verified) = verified else {
        return not_run("there is no systemd-analyze here");
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    let about_ours = said.lines().filter(|line| line.contains("trialog.service"));
    assert_eq!(about_ours.collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(verified.status.success(), "{said}");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let help = run(&["--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    // Longer descriptions go on in lines that are indented further.
    let commands = commands.filter_map(|line| line.strip_prefix("  "));
    let commands = commands.filter(|line| !line.starts_with(' '));
    let commands: Vec<&str> = commands.filter_map(|line| line.split(' ').next()).collect();
    assert!(commands.len() > 10, "{commands:?}");
    let bash = run(&["completions", "bash"]);
    let script = String::from_utf8(bash.stdout).unwrap();
    let dir = tempfile::tempdir().unwrap();
    assert!(run(&["man", arg(dir.path())]).status.success());
    for command in commands.iter().filter(|command| **command != "help") {
        assert!(
            script.contains(&format!("trialog__subcmd__{command})")),
            "{command}"
        );
        let page = dir.path().join(format!("trialog-{command}.1"));
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains("Example"), "{command}");
    }
    let nowhere = run(&["man", "/nonexistent"]);
    assert_eq!(nowhere.status.code(), Some(1), "{nowhere:?}");
    let page = std::fs::read_to_string(dir.path().join("trialog.1")).unwrap();
    assert!(page.contains("trialog"));
}
