//! A file that appears when it is whole: written beside its place, synced, renamed. When the command
//! fails or is interrupted, nothing of it is left, and what was there before stays.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::fs::{Disk, parent, real};

/// What is being written.
pub struct OutputFile {
    file: File,
    path: PathBuf,
    /// Where it is written; `None` when `path` is no regular file, but a device or a pipe.
    temporary: Option<PathBuf>,
}

impl OutputFile {
    /// Begins the file that will be at `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let cant = || format!("can't write {}", path.display());
        // What a link leads to is replaced, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let there = fs::metadata(&path).ok();
        if there.as_ref().is_some_and(|there| there.is_dir()) {
            bail!("{}: it is a folder", cant());
        }
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            let file = File::options().write(true).open(&path);
            return Ok(Self {
                file: file.with_context(cant)?,
                path,
                temporary: None,
            });
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", process::id()));
        let temporary = path.with_file_name(name);
        let creating = remove_when_interrupted(temporary.clone())?;
        let file = File::create(&temporary).with_context(cant)?;
        drop(creating);
        let output = Self {
            file,
            path,
            temporary: Some(temporary),
        };
        if let Some(there) = there {
            let set = output.file.set_permissions(there.permissions());
            set.with_context(cant)?;
        }
        Ok(output)
    }

    /// Where to write.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Puts the file, which is whole now, in its place.
    pub fn finish(mut self) -> Result<()> {
        let Some(temporary) = &self.temporary else {
            return Ok(());
        };
        let path = &self.path;
        self.file
            .sync_all()
            .and_then(|()| fs::rename(temporary, path))
            .with_context(|| format!("can't write {}", path.display()))?;
        self.temporary = None;
        let synced = real::RealDisk.sync_dir(&parent(&self.path));
        synced.with_context(|| format!("can't sync the folder of {}", self.path.display()))
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // The error that is told is the one that made it half-written.
            let _half_written = fs::remove_file(temporary);
        }
    }
}

/// From here on a signal that ends the process removes the file first, as soon as what is returned has
/// been dropped: so the file can't come into being behind its removal.
fn remove_when_interrupted(temporary: PathBuf) -> Result<MutexGuard<'static, ()>> {
    static CREATING: Mutex<()> = Mutex::new(());
    let lock = || CREATING.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("starting threads failed")?;
    let entered = runtime.enter();
    // A file that may not grow is then an error of the write, and not the end.
    let _ignored = signal(SignalKind::from_raw(real::FILE_SIZE_SIGNAL))?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(entered);
    let creating = lock();
    thread::spawn(move || {
        let by = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 2,
                _ = terminate.recv() => 15,
                _ = hangup.recv() => 1,
            }
        });
        let _creating = lock();
        let _half_written = fs::remove_file(temporary);
        process::exit(128 + by);
    });
    Ok(creating)
}
