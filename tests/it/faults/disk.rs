//! File systems of their own: an ext4 on a loop device, whose power can be cut and which can be
//! full, and a small tmpfs.

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

/// A folder on which something can be mounted. Unmounted when it is dropped.
struct MountPoint {
    path: PathBuf,
    is_mounted: bool,
}

impl MountPoint {
    fn new(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        let is_mounted = false;
        Self { path, is_mounted }
    }

    fn mount(&mut self, args: &[&str], what: &Path) -> Result<(), String> {
        let mounted = Command::new("mount")
            .args(args)
            .arg(what)
            .arg(&self.path)
            .output();
        let mounted = mounted.map_err(|error| error.to_string())?;
        if !mounted.status.success() {
            return Err(String::from_utf8_lossy(&mounted.stderr).into_owned());
        }
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) {
        let unmounted = Command::new("umount").arg(&self.path).output().unwrap();
        assert!(unmounted.status.success(), "{unmounted:?}");
        self.is_mounted = false;
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily: when a test has failed, a process that is about to be killed may be on it.
            let lazily = Command::new("umount").arg("-l").arg(&self.path).status();
            if !lazily.is_ok_and(|status| status.success()) {
                super::report(&format!("{} stays mounted", self.path.display()));
            }
        }
    }
}

/// A tmpfs of a fixed size.
pub struct Tmpfs {
    mount_point: MountPoint,
    _dir: TempDir,
}

impl Tmpfs {
    /// One of this size; `None`, and said so, where there can't be one.
    pub fn mounted(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount_point = MountPoint::new(dir.path().join("mnt"));
        let size = format!("size={bytes}");
        match mount_point.mount(&["-t", "tmpfs", "-o", &size], Path::new("tmpfs")) {
            Ok(()) => Some(Self {
                mount_point,
                _dir: dir,
            }),
            Err(said) => {
                not_run(&format!("no tmpfs: {said}"));
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point.path
    }
}

/// An ext4 in an image. Unmounted and removed when it is dropped.
pub struct Ext4 {
    image: PathBuf,
    mount_point: MountPoint,
    /// Last, so that it goes last.
    _dir: TempDir,
}

impl Ext4 {
    /// One of this size, mounted; `None`, and said so, where there can't be one.
    pub fn mounted(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        Self::mounted_in(dir, image, bytes, "has_journal")
    }

    /// As [`Self::mounted`], with its image at `image` and the features that mkfs shall give it.
    pub fn mounted_at(image: PathBuf, bytes: u64, features: &str) -> Option<Self> {
        Self::mounted_in(tempfile::tempdir().unwrap(), image, bytes, features)
    }

    fn mounted_in(dir: TempDir, image: PathBuf, bytes: u64, features: &str) -> Option<Self> {
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let mut mkfs = Command::new("mkfs.ext4");
        let Ok(made) = mkfs.args(["-q", "-F", "-O", features]).arg(&image).output() else {
            not_run("there is no mkfs.ext4 (e2fsprogs)");
            return None;
        };
        assert!(made.status.success(), "{made:?}");
        let mut ext4 = Self {
            image,
            mount_point: MountPoint::new(dir.path().join("mnt")),
            _dir: dir,
        };
        match ext4.try_mount() {
            Ok(()) => Some(ext4),
            // No root, or in a container without loop devices.
            Err(said) => {
                not_run(&format!("no ext4 on a loop device: {said}"));
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point.path
    }

    /// Mounts it again; its own journal is replayed by that.
    pub fn mount(&mut self) {
        self.try_mount().unwrap();
    }

    /// Unmounts it. Nobody may have a file of it open.
    pub fn unmount(&mut self) {
        self.mount_point.unmount();
    }

    /// Has e2fsck put in order what isn't mounted: an ext4 without a journal needs that after
    /// writes of its own have failed.
    pub fn check(&self) {
        let checked = Command::new("e2fsck")
            .arg("-fy")
            .arg(&self.image)
            .output()
            .unwrap();
        // 1 and 2 say that something was corrected.
        assert!(
            checked.status.code().is_some_and(|code| code < 4),
            "{checked:?}"
        );
    }

    /// Mounts it to be read only.
    pub fn make_read_only(&self) {
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", "remount,ro"]).arg(self.path()).status();
        assert!(status.unwrap().success());
    }

    /// Takes the blocks of zeros out of its image: what is written to them needs room anew.
    pub fn dig_holes(&self) {
        let synced = Command::new("sync").arg("-f").arg(self.path()).status();
        assert!(synced.unwrap().success());
        let dug = Command::new("fallocate")
            .args(["-d", arg(&self.image)])
            .status();
        assert!(dug.unwrap().success());
    }

    /// Who cuts its power when told.
    pub fn cutter(&self) -> Cutter {
        let mut child = Command::new("python3")
            .args(["-c", CUT])
            .arg(self.path())
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
        let args = ["-t", "ext4", "-o", "loop"];
        self.mount_point.mount(&args, &self.image)
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

/// A file that takes up room: as much of it as there is, or `bytes`.
pub struct Ballast(PathBuf);

impl Ballast {
    /// Takes up all the room that the file system of `dir` has, but for `spare` bytes.
    pub fn leave(spare: u64, dir: &Path) -> Self {
        let path = dir.join("ballast");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[0xA5; 4096]).is_ok() {}
        // What is still to be written finds its room now or never.
        let _full = file.sync_all();
        let len = file.metadata().unwrap().len();
        file.set_len(len.saturating_sub(spare)).unwrap();
        file.sync_all().unwrap();
        Self(path)
    }

    /// Gives the room back.
    pub fn remove(self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}
