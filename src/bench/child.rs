//! A server as a child process of this same binary. It ends with us, however we end: its stdin does.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A process that serves, or is about to. Killed when it is dropped.
pub struct Served {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Served {
    /// Starts a command of this binary, free of settings from our own environment.
    pub fn spawn(args: &[OsString]) -> Result<Self> {
        let binary = std::env::current_exe().context("can't tell which binary this is")?;
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TRIALOG_") {
                command.env_remove(name);
            }
        }
        // In a group of its own: an interrupt from the terminal is for us to act upon.
        command.args(args).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("can't start a server")?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin })
    }

    /// Waits until it listens, and says where.
    pub fn listening(&mut self) -> Result<SocketAddr> {
        let stdout = self.child.stdout.take();
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.trim().parse();
        address.context("the server didn't start")
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Has it end in good order.
    pub fn stop(mut self) -> Result<()> {
        self.stdin = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
