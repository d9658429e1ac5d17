//! How a server that another process has started behaves: it tells its address, and ends with it.

use std::io::{self, Read};
use std::net::SocketAddr;

use anyhow::Result;

use super::output;

/// Tells the parent where we listen: a line on stdout.
pub fn tell(address: SocketAddr) -> Result<()> {
    Ok(output::data(address)?)
}

/// Calls `end` when stdin is at its end: the parent closed it, or is no more.
pub fn when_parent_ends(end: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut unread = [0; 64];
        while matches!(stdin.read(&mut unread), Ok(read) if read > 0) {}
        end();
    });
}
