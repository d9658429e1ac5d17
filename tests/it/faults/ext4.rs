//! An ext4 of its own on a loop device: its power can be cut, and it can be full.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::not_run;
use crate::server::arg;

/// EXT4_IOC_SHUTDOWN without a flush of its log: from then on nothing reaches the disk. The file
/// system is opened first, so that the cut itself takes no time.
const CUT: &str = r#"
import fcntl, os, sys
root = os.open(sys.argv[1], os.O_RDONLY)
print("ready", flush=True)
if sys.stdin.readline():
    fcntl.ioctl(root, 0x8004587D, b"\x02\x00\x00\x00")
"#;

/// A file system in an image. Unmounted and removed when it is dropped.
pub struct Ext4 {
    image: PathBuf,
    mount_point: PathBuf,
    is_mounted: bool,
    /// Last, so that it goes last.
    _dir: TempDir,
}

impl Ext4 {
    /// One of this size, mounted; `None`, and said so, where there can't be one.
    pub fn mounted(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        Self::mounted_from(dir, image, bytes)
    }

    /// As [`Self::mounted`], with its image at a path of the caller's.
    pub fn mounted_from(dir: TempDir, image: PathBuf, bytes: u64) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            not_run("a loop device needs root");
            return None;
        }
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", arg(&image)])
            .output();
        let Ok(made) = made else {
            not_run("there is no mkfs.ext4 (e2fsprogs)");
            return None;
        };
        assert!(made.status.success(), "{made:?}");
        let mount_point = dir.path().join("mnt");
        std::fs::create_dir(&mount_point).unwrap();
        let mut ext4 = Self {
            image,
            mount_point,
            is_mounted: false,
            _dir: dir,
        };
        match ext4.try_mount() {
            Ok(()) => Some(ext4),
            // In a container without loop devices.
            Err(said) => {
                not_run(&format!("no loop device: {said}"));
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Mounts it again; its own journal is replayed by that.
    pub fn mount(&mut self) {
        self.try_mount().unwrap();
    }

    /// Unmounts it. Nobody may have a file of it open.
    pub fn unmount(&mut self) {
        let unmounted = Command::new("umount")
            .arg(&self.mount_point)
            .output()
            .unwrap();
        assert!(unmounted.status.success(), "{unmounted:?}");
        self.is_mounted = false;
    }

    /// Who cuts its power when told.
    pub fn cutter(&self) -> Cutter {
        let mut child = Command::new("python3")
            .args(["-c", CUT])
            .arg(&self.mount_point)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test needs python3");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Cutter(child)
    }

    fn try_mount(&mut self) -> Result<(), String> {
        // The device goes away by itself with the mount.
        let mounted = Command::new("mount")
            .args(["-t", "ext4", "-o", "loop"])
            .args([&self.image, &self.mount_point])
            .output()
            .map_err(|error| error.to_string())?;
        if !mounted.status.success() {
            return Err(String::from_utf8_lossy(&mounted.stderr).into_owned());
        }
        self.is_mounted = true;
        Ok(())
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily: when a test has failed, a process that is about to be killed may be on it.
            let lazily = Command::new("umount")
                .arg("-l")
                .arg(&self.mount_point)
                .status();
            if !lazily.is_ok_and(|status| status.success()) {
                not_run(&format!("{} stays mounted", self.mount_point.display()));
            }
        }
    }
}

/// Cuts the power of a file system when told. Gone when it is dropped, without a cut.
pub struct Cutter(Child);

impl Cutter {
    /// Now.
    pub fn cut(mut self) {
        let mut stdin = self.0.stdin.take().expect("piped");
        stdin.write_all(b"cut\n").unwrap();
        drop(stdin);
        assert!(self.0.wait().unwrap().success(), "the power is cut");
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        // Without a line, it ends.
        drop(self.0.stdin.take());
        let _reaped = self.0.wait();
    }
}
