//! A small disk of its own for a test: a tmpfs, which only root may mount.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use tempfile::TempDir;

use super::need;

/// A mounted file system; dropping it unmounts it.
pub(crate) struct Disk(TempDir);

impl Disk {
    /// A disk of so many bytes; `None`, and said so, where the test may not mount one.
    pub(crate) fn new(size: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = CString::new(format!("size={size}")).unwrap();
        match mount("none", dir.path(), "tmpfs", MountFlags::empty(), options.as_c_str()) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                need::skip(&format!("a small disk cannot be mounted ({error}); root can"));
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Nothing can be written from now on.
    pub(crate) fn make_read_only(&self) {
        mount_remount(self.path(), MountFlags::RDONLY, "").unwrap();
    }

    /// Fills it with a file, to be removed.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).unwrap();
        // In small steps to the last page.
        while file.write_all(&[1; 4096]).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(self.path(), UnmountFlags::DETACH).ok();
    }
}
