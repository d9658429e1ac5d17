//! Under load, the server is killed, or its power goes, at a certain call of a certain thread: in
//! the middle of a commit, of writing out, of a checkpoint, of a seal.

use super::disk::Ext4;
use super::strace::Strace;
use crate::ledger::Ledger;
use crate::load::{SIZES, assert_some_are_read, assert_whole, make_store, under_load};
use crate::server::Server;

/// Threads, their calls, and at which of them.
const PLACES: [(&str, &str, &[u32]); 9] = [
    ("actors", "pwrite64", &[1, 60]),
    ("actors", "fdatasync", &[1, 60]),
    // Writing out, footers too, and both copies of the header of a lap that is used again.
    ("checkpoint", "pwrite64", &[1, 2, 5, 20, 60]),
    ("checkpoint", "openat", &[1, 9]),
    ("checkpoint", "fdatasync", &[1, 2, 3, 4]),
    ("checkpoint", "syncfs", &[1, 2]),
    ("checkpoint", "statfs", &[3]),
    ("seal", "pwrite64", &[1]),
    ("seal", "openat", &[1, 4]),
];

#[test]
fn killed_in_the_middle_of_anything_it_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    make_store(&store);
    let mut run = Run::new();
    for (thread, call, when) in places() {
        let server = Server::start(&store, &SIZES);
        let inject = format!("{call}:signal=KILL:when={when}");
        let Some(strace) = Strace::attach_to_thread(&server, thread, &inject) else {
            return;
        };
        under_load(server, &mut run.ledger, &mut run.random, |server, _| {
            server.wait();
        });
        drop(strace);
        assert_whole(&store, &mut run.ledger, &format!("{thread}: {inject}"));
    }
    run.end(&Server::start(&store, &SIZES));
}

#[test]
fn the_power_may_go_in_the_middle_of_anything() {
    let Some(mut disk) = Ext4::mounted(1 << 30) else {
        return;
    };
    let store = disk.path().join("store");
    make_store(&store);
    let mut run = Run::new();
    for (thread, call, when) in places() {
        let server = Server::start(&store, &SIZES);
        let inject = format!("{call}:signal=STOP:when={when}");
        let Some(strace) = Strace::attach_to_thread(&server, thread, &inject) else {
            return;
        };
        let cutter = disk.cutter();
        under_load(server, &mut run.ledger, &mut run.random, |server, _| {
            server.wait_until_stopped();
            cutter.cut();
            server.kill();
        });
        drop(strace);
        disk.unmount();
        disk.mount();
        assert_whole(&store, &mut run.ledger, &format!("{thread}: {inject}"));
    }
    run.end(&Server::start(&store, &SIZES));
}

fn places() -> impl Iterator<Item = (&'static str, &'static str, u32)> {
    PLACES
        .iter()
        .flat_map(|(thread, call, when)| when.iter().map(move |when| (*thread, *call, *when)))
}

struct Run {
    ledger: Ledger,
    random: fastrand::Rng,
}

impl Run {
    fn new() -> Self {
        Self {
            ledger: Ledger::default(),
            random: fastrand::Rng::with_seed(1),
        }
    }

    fn end(&mut self, server: &Server) {
        assert_some_are_read(server, &self.ledger, &mut self.random);
    }
}
