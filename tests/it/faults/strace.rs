//! `strace`, attached to a running server: makes calls fail or take long, and says which were made.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use super::not_run;
use crate::server::{PATIENCE, Server, arg};

/// An attached `strace`. It ends with the server.
pub struct Strace {
    child: Child,
    log: PathBuf,
    _dir: TempDir,
}

/// A call that was traced.
#[derive(Debug)]
pub struct Call {
    pub name: String,
    /// The file that it was made on, as far as it had a descriptor.
    pub path: String,
    /// Whether its result was made up.
    pub is_injected: bool,
    /// The lines of the log in which it began and ended.
    pub began: usize,
    pub ended: usize,
}

impl Strace {
    /// Attaches to `server`. `inject` is what strace takes behind `-e inject=`; `paths` narrows
    /// that to calls on these files. `None`, and said so, where that can't be.
    pub fn attach(server: &Server, inject: &str, paths: &[PathBuf]) -> Option<Self> {
        let mut which = vec!["-f".into(), "-p".into(), server.pid().to_string()];
        for path in paths {
            which.extend(["-P".into(), arg(path).into()]);
        }
        Self::spawn(inject, &which)
    }

    /// As [`Self::attach`], to the one thread of this name. It ends with that thread.
    pub fn attach_to_thread(server: &Server, name: &str, inject: &str) -> Option<Self> {
        let since = Instant::now();
        // A thread that has just begun has yet to take its name.
        let id = loop {
            if let Some(id) = thread_id(server.pid(), name) {
                break id;
            }
            assert!(since.elapsed() < PATIENCE, "there is no thread {name}");
        };
        Self::spawn(inject, &["-p".into(), id])
    }

    fn spawn(inject: &str, which: &[String]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let (calls, _) = inject
            .split_once(':')
            .expect("calls and what to do with them");
        let mut command = Command::new("strace");
        command.args(["-y", "-o", arg(&log)]).args(which);
        // With paths, strace says nothing of other calls.
        let traced = format!("trace={calls},fdatasync,fsync,syncfs");
        command.args(["-e", &traced, "-e", &format!("inject={inject}")]);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let Ok(mut child) = command.spawn() else {
            not_run("there is no strace");
            return None;
        };
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut lines = stderr.lines().map_while(Result::ok);
        let first = lines.next().unwrap_or_default();
        if !first.contains("attached") {
            let _ended = child.wait();
            not_run(&format!("strace can't attach: {first}"));
            return None;
        }
        // It speaks of threads that come and go; somebody has to read that.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self {
            child,
            log,
            _dir: dir,
        })
    }

    /// Lets go of the server, which runs on.
    pub fn detach(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).expect("not zero");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    }

    /// Waits for its end, and gives back the calls in the order in which they began.
    pub fn calls(mut self) -> Vec<Call> {
        self.child.wait().expect("it is our child");
        parse(&std::fs::read_to_string(&self.log).unwrap())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _may_have_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn thread_id(pid: u32, name: &str) -> Option<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut ids = tasks.map(|task| task.unwrap().file_name().into_string().expect("a number"));
    ids.find(|id| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/task/{id}/comm"));
        comm.is_ok_and(|comm| comm.trim() == name)
    })
}

/// The lines of a log, such as `7 fdatasync(9</a/b>) = -1 EIO (Input/output error) (INJECTED)`.
/// A call that others came in between of has two: one that is `<unfinished ...>`, one in which it
/// is `resumed`.
fn parse(log: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut unfinished = HashMap::new();
    for (at, line) in log.lines().enumerate() {
        let (thread, said) = line.trim_start().split_once(' ').expect("who, and what");
        let said = said.trim_start();
        let is_injected = said.contains("(INJECTED)") || said.contains("(DELAYED)");
        if said.starts_with("<... ") {
            if let Some(place) = unfinished.remove(thread) {
                let call: &mut Call = &mut calls[place];
                call.is_injected = is_injected;
                call.ended = at;
            }
        } else if let Some((name, args)) = said.split_once('(') {
            let path = args
                .split_once('<')
                .and_then(|(_, path)| path.split_once('>'));
            if said.contains("<unfinished ...>") {
                unfinished.insert(thread, calls.len());
            }
            calls.push(Call {
                name: name.to_owned(),
                path: path.map_or_else(String::new, |(path, _)| path.to_owned()),
                is_injected,
                began: at,
                ended: at,
            });
        }
    }
    calls
}

#[test]
fn calls_are_taken_from_a_log() {
    let calls = parse(
        "7 fdatasync(9</a/b>) = -1 EIO (Input/output error) (INJECTED)\n\
         7  syncfs(3</a> <unfinished ...>\n\
         18 pwrite64(4</a/c>, \"\\1(\"..., 5, 0) = 5\n\
         7  <... syncfs resumed>) = -1 EIO (Input/output error) (INJECTED)\n",
    );
    let told = calls
        .iter()
        .map(|call| (&*call.name, &*call.path, call.is_injected));
    let expected = [
        ("fdatasync", "/a/b", true),
        ("syncfs", "/a", true),
        ("pwrite64", "/a/c", false),
    ];
    assert!(told.eq(expected), "{calls:?}");
}
