//! A store of our own in a temporary folder, and a server for it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::api::Server;
use super::child::Served;
use super::wire::Address;

/// A folder for one run, removed when it is dropped.
pub struct Scratch {
    path: PathBuf,
    is_kept: bool,
}

impl Scratch {
    /// A new folder in `dir`.
    pub fn make(dir: &Path) -> Result<Self> {
        let name = format!("trialog-bench-{:016x}", fastrand::u64(..));
        let path = dir.join(name);
        std::fs::create_dir(&path)
            .with_context(|| format!("can't make a folder in {}", dir.display()))?;
        Ok(Self {
            path,
            is_kept: false,
        })
    }

    pub fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It stays, so that somebody can look at what went wrong. Says where it is.
    pub fn keep(&mut self) -> &Path {
        self.is_kept = true;
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.is_kept {
            // What is left is a folder with a telling name.
            let _removed = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Begins a server on the store, with more flags for `trialog serve`.
pub fn spawn(store: &Path, flags: &[OsString]) -> Result<Served> {
    let mut args: Vec<OsString> = ["serve", "--child", "--listen", "127.0.0.1:0"]
        .map(OsString::from)
        .into();
    args.extend(["--log-level", "warn", "--data"].map(OsString::from));
    args.push(store.into());
    args.extend_from_slice(flags);
    Served::spawn(&args)
}

/// Starts a server on the store and waits until it can be asked.
pub fn start(store: &Path, flags: &[OsString]) -> Result<(Served, Server)> {
    let mut served = spawn(store, flags)?;
    let address = served.listening()?;
    let key = std::fs::read_to_string(store.join("admin.key"));
    let key = key.context("can't read the new store's admin.key")?;
    let server = Server {
        address: Address::plain(address),
        host: address.to_string(),
        api_key: key.trim().to_owned(),
    };
    Ok((served, server))
}
