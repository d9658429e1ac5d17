//! A fresh Debian machine with systemd, in a container: a file system that is forgotten, and a network
//! that has itself alone.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::server::arg;

/// What is installed beside a minimal Debian, since a machine has no way to a mirror.
const PACKAGES: &str = "ca-certificates,curl,dbus,openssl,prometheus,systemd,systemd-sysv";

/// A slow machine boots in some seconds.
const BOOT_MAX: Duration = Duration::from_secs(120);

/// Machines share a control group where systemd isn't what runs here: so there is one at a time.
static ONE: Mutex<()> = Mutex::new(());

/// A machine that runs. Gone when it is dropped, with all that was done to it.
pub struct Machine {
    container: Child,
    /// The process that is its systemd.
    init: String,
    /// A folder that is `/srv/host` there.
    pub shared: TempDir,
    _one: MutexGuard<'static, ()>,
}

impl Machine {
    /// Boots one; if that can't be done here, why.
    pub fn boot() -> Result<Self, String> {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        if !rustix::process::geteuid().is_root() {
            return Err("containers need root".into());
        }
        let system = system()?;
        let shared = tempfile::tempdir().unwrap();
        let told = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(told.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(BOOT_MAX)).unwrap();
        let console = fs::File::create(shared.path().join("console")).unwrap();
        let mut command = Command::new("systemd-nspawn");
        command.args(["--quiet", "--register=no", "--boot", "--notify-ready=yes"]);
        command.args(["--private-network", "--volatile=overlay", "--console=pipe"]);
        if !Path::new("/run/systemd/system").exists() {
            command.arg("--keep-unit");
        }
        command.arg(format!("--bind={}:/srv/host", arg(shared.path())));
        command.args(["--directory", arg(&system)]);
        command.env("NOTIFY_SOCKET", told.path().join("notify"));
        command
            .stdin(Stdio::null())
            .stderr(console.try_clone().unwrap());
        let container = command.stdout(console).spawn();
        let container = container.map_err(|error| format!("no systemd-nspawn: {error}"))?;
        let mut machine = Self {
            container,
            init: String::new(),
            shared,
            _one: one,
        };
        machine.wait_until_up(&socket)?;
        Ok(machine)
    }

    fn wait_until_up(&mut self, socket: &UnixDatagram) -> Result<(), String> {
        let mut buffer = [0; 4096];
        loop {
            let Ok(len) = socket.recv(&mut buffer) else {
                let console = fs::read_to_string(self.shared.path().join("console"));
                return Err(format!("the container doesn't boot: {console:?}"));
            };
            let told = String::from_utf8_lossy(&buffer[..len]);
            for line in told.lines() {
                if let Some(pid) = line.strip_prefix("X_NSPAWN_LEADER_PID=") {
                    pid.clone_into(&mut self.init);
                }
                if line == "READY=1" {
                    return Ok(());
                }
            }
        }
    }

    /// Runs these lines there, by bash as root in root's home, up to the first that fails.
    pub fn run(&self, lines: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init, "--all", "--root", "--wd", "--"]);
        command.args(["bash", "-e", "-o", "pipefail", "-c"]);
        command.arg(format!("cd; {lines}")).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", "/root").stdin(Stdio::null());
        command.output().expect("nsenter is where mount is")
    }

    /// As [`Self::run`]; what they print, without the last line end. Fails when they do.
    pub fn get(&self, lines: &str) -> String {
        let output = self.run(lines);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{lines}\n{printed}\n{said}");
        printed.trim_end().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // All of it is in its namespaces, and ends with the first process of these, which the container's
        // own end would leave behind.
        let init = self.init.parse().ok().and_then(Pid::from_raw);
        if let Some(init) = init {
            let _gone = kill_process(init, Signal::KILL);
        }
        let _gone = self.container.kill();
        let _gone = self.container.wait();
    }
}

/// The system that machines boot, of the same release as this one, since the binary is linked with its
/// libc. Made once for each target folder.
fn system() -> Result<PathBuf, String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = |line: &str| line.strip_prefix("VERSION_CODENAME=").map(str::to_owned);
    let codename = match release.lines().find_map(codename) {
        Some(codename) if release.lines().any(|line| line == "ID=debian") => codename,
        _ => return Err("this is no Debian".into()),
    };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("debian-{codename}"));
    // What it was made with stands beside it, and comes last.
    let made = dir.with_extension("packages");
    if fs::read_to_string(&made).is_ok_and(|packages| packages == PACKAGES) {
        return Ok(dir);
    }
    let _nothing = fs::remove_file(&made);
    let _nothing = fs::remove_dir_all(&dir);
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase"]);
    command.arg(format!("--include={PACKAGES}"));
    // Documentation and languages are half of the time; packages that are installed later have theirs.
    for left_out in ["doc", "locale", "man"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{left_out}/*"));
    }
    command.arg(r#"--customize-hook=rm "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap""#);
    // The installer of Debian writes it; without it, only some programs know what localhost is.
    command.arg(r#"--customize-hook=echo 127.0.0.1 localhost > "$1/etc/hosts""#);
    let output = command.args([&codename, arg(&dir)]).output();
    let output = output.map_err(|error| format!("no mmdebstrap: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("mmdebstrap made no system: {said}"));
    }
    fs::write(made, PACKAGES).unwrap();
    Ok(dir)
}
