//! A real S3 server as a child process: what the variable `TRIALOG_TEST_S3` names (`s3rver`, of npm).

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

pub const BUCKET: &str = "trialog";

/// Killed when it is dropped.
pub struct S3 {
    child: Child,
    pub address: SocketAddr,
    dir: TempDir,
}

impl Drop for S3 {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl S3 {
    /// Starts one with an empty bucket, if there is one here.
    pub fn start() -> Option<Self> {
        let Some(program) = std::env::var_os("TRIALOG_TEST_S3") else {
            not_run("TRIALOG_TEST_S3 names no s3rver");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args(["-a", "127.0.0.1", "-p", "0", "--configure-bucket", BUCKET]);
        command.arg("-d").arg(dir.path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("S3rver listening on ")?.parse().ok())
            .expect("it listens");
        // It logs each request.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Some(Self {
            child,
            address,
            dir,
        })
    }

    /// The address of the object that it keeps in a file.
    pub fn address_of(&self, file: &Path) -> String {
        let below = file
            .strip_prefix(self.dir.path())
            .unwrap()
            .to_str()
            .unwrap();
        format!("s3://{}", below.strip_suffix("._S3rver_object").unwrap())
    }

    /// The files in which it keeps the segments' bytes, in order.
    pub fn segments(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut dirs = vec![self.dir.path().join(BUCKET)];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => dirs.push(path),
                    false if path.to_str().unwrap().ends_with(".segment._S3rver_object") => {
                        found.push(path);
                    }
                    false => {}
                }
            }
        }
        found.sort();
        found
    }
}

/// Says that a test could not run here, which is a failure where all must run.
pub fn not_run(why: &str) {
    let must = std::env::var_os("TRIALOG_TEST_ALL").is_some_and(|all| all != "0");
    assert!(!must, "TRIALOG_TEST_ALL is set, and this can't run: {why}");
    // Not by `eprintln!`, which the test runner keeps to itself.
    let words = format!("NOT RUN: {why}\n");
    std::io::stderr().write_all(words.as_bytes()).unwrap();
}
