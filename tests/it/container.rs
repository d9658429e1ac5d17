//! The Dockerfile, step by step, by a real builder of images that needs no daemon and no registry.
//!
//! The images that it names can't be had everywhere. In their places stand ones of this machine's own
//! files: a base with libc and a shell, and one beside it whose `cargo` gives the binary under test. So what
//! isn't shown is that the crate builds on the image that the Dockerfile names.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;
use crate::faults::not_run;
use crate::server::{EXAMPLE, arg};

const BINARY: &str = env!("CARGO_BIN_EXE_trialog");
/// The user in the Dockerfile.
const USER: u32 = 65532;
/// What the Dockerfile asks of cargo, and what comes of it.
const CARGO: &str = r#"#!/bin/sh
set -e
[ "$*" = "build --release --locked --bin trialog" ]
test -s Cargo.lock && test -s Cargo.toml && test -s src/main.rs
mkdir -p target/release
cp /prebuilt target/release/trialog
"#;

/// A place for images.
struct Images {
    dir: tempfile::TempDir,
}

impl Images {
    fn buildah(&self, args: &[&str]) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let mut command = Command::new("buildah");
        command.args(["--root", arg(&at("images")), "--runroot", arg(&at("run"))]);
        command.args(["--storage-driver", "vfs"]).args(args);
        command.env("BUILDAH_ISOLATION", "chroot");
        command.env("TMPDIR", self.dir.path()).stdin(Stdio::null());
        command
    }

    fn get(&self, args: &[&str]) -> String {
        let output = self.buildah(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// An image of another one and these files.
    fn make(&self, name: &str, from: &str, files: &Path) {
        let container = self.get(&["from", "--pull-never", from]);
        self.get(&["add", "--quiet", &container, arg(files), "/"]);
        self.get(&["commit", "--quiet", "--rm", &container, name]);
    }

    /// Begins what a container of the image runs, as its user, with this in its environment.
    fn run(&self, container: &str, environment: &[&str]) -> Command {
        let mut args = vec!["run"];
        args.extend(environment.iter().flat_map(|one| ["--env", one]));
        args.extend([container, "--", "/usr/bin/trialog", "serve"]);
        self.buildah(&args)
    }
}

/// The libraries of a program, as the linker finds them.
fn libraries(program: &str) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let words = printed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    words.map(PathBuf::from).collect()
}

fn copy_into(root: &Path, file: &Path, name: &Path) {
    let to = root.join(name.strip_prefix("/").unwrap());
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(file, to).unwrap();
}

/// The files of a system that has little more than the C library.
fn base(root: &Path) {
    for (program, name) in [
        ("/bin/sh", "/bin/sh"),
        ("/bin/mkdir", "/bin/mkdir"),
        ("/bin/cp", "/bin/cp"),
        ("/usr/bin/test", "/usr/bin/test"),
    ] {
        copy_into(root, Path::new(program), Path::new(name));
    }
    for program in ["/bin/sh", "/bin/mkdir", "/bin/cp", BINARY] {
        for library in libraries(program) {
            copy_into(root, &library, &library);
        }
    }
    fs::create_dir(root.join("tmp")).unwrap();
}

/// The process below this one that has none below it, whichever threads began them.
fn innermost(pid: u32) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children = children.collect::<String>();
    let last = children.split_whitespace().last();
    last.map_or(pid, |child| innermost(child.parse().unwrap()))
}

/// Waits until the server says where it listens.
fn address(child: &mut Child) -> std::net::SocketAddr {
    let lines = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(lines).map_while(Result::ok);
    let line = lines.find(|line| line.contains("listening"));
    let line = line.expect("it listens");
    // What it says later goes nowhere, and holds it up no more than that.
    std::thread::spawn(move || lines.for_each(drop));
    let (_, behind) = line.split_once("address=").unwrap();
    behind.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_image_is_what_the_dockerfile_says() {
    let found = Command::new("buildah").arg("--version").output();
    if !rustix::process::geteuid().is_root() || found.is_err() {
        return not_run("there is no buildah, or no root for it");
    }
    let images = Images {
        dir: tempfile::tempdir().unwrap(),
    };
    let (root, tools) = (
        images.dir.path().join("root"),
        images.dir.path().join("tools"),
    );
    base(&root);
    images.make("base", "scratch", &root);
    fs::create_dir_all(tools.join("bin")).unwrap();
    fs::write(tools.join("bin/cargo"), CARGO).unwrap();
    fs::set_permissions(tools.join("bin/cargo"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(BINARY, tools.join("prebuilt")).unwrap();
    images.make("build", "localhost/base", &tools);
    images.get(&[
        "build",
        "--quiet",
        "--pull=never",
        "--build-arg=BUILD=localhost/build",
        "--build-arg=BASE=localhost/base",
        "--tag=trialog",
        env!("CARGO_MANIFEST_DIR"),
    ]);
    let inspected = images.get(&["inspect", "--type=image", "localhost/trialog"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    let config = &inspected["OCIv1"]["config"];
    assert_eq!(config["User"], "65532:65532", "{config}");
    assert_eq!(config["Entrypoint"][0], "/usr/bin/trialog", "{config}");
    assert_eq!(config["Cmd"][0], "serve", "{config}");
    assert!(config["Volumes"]["/data"].is_object(), "{config}");

    let container = images.get(&["from", "--pull-never", "localhost/trialog"]);
    let Output { status, stderr, .. } = images.run(&container, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(!status.success() && said.contains("without TLS"), "{said}");
    let here = ["TRIALOG_INSECURE=true", "TRIALOG_LISTEN=127.0.0.1:0"];
    let mut child = images.run(&container, &here);
    let mut child = child
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let address = address(&mut child);
    let data = PathBuf::from(images.get(&["mount", &container])).join("data");
    // The volume is of the container's run: its files are where the process sees them.
    let inside = innermost(child.id());
    let seen = PathBuf::from(format!("/proc/{inside}/root")).join("data");
    let key_file = [seen, data].map(|dir| dir.join("admin.key"));
    let key_file = key_file.iter().find(|path| path.exists()).expect("a key");
    assert_eq!(fs::metadata(key_file).unwrap().uid(), USER);
    let key = fs::read_to_string(key_file).unwrap();
    let mut client = Client::connect(address).unwrap();
    let headers = [("x-api-key", key.trim())];
    let answer = client.send("POST", "/experiment/demo/log", &headers, EXAMPLE.as_bytes());
    answer.unwrap().log_id();
    // As `docker stop` ends it.
    kill_process(Pid::from_raw(inside as i32).unwrap(), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    images.get(&["rm", "--all"]);
}
