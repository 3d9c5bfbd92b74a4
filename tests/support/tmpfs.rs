//! A disk that really gets full: a small tmpfs, made larger when a test wants that. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The source that the mount table shows starts with this and goes on with the process id, so that a
/// later run finds what a killed one left.
const PREFIX: &str = "termgate-trial-";

/// A mounted tmpfs. Unmounted on drop, at the latest by the next run.
#[derive(Debug)]
pub struct Tmpfs {
    at: PathBuf,
}

impl Tmpfs {
    /// Whether this machine lets us mount something.
    pub fn is_possible() -> bool {
        let is_root = rustix::process::geteuid().is_root();
        is_root && Command::new("mount").arg("--version").output().is_ok()
    }

    /// Mounts one of `size` (`"8m"`) at `dir`, which is made; unmounts those of runs that were killed.
    pub fn mount(dir: &Path, size: &str) -> Self {
        unmount_left_overs();
        std::fs::create_dir_all(dir).expect("the mount point can be made");
        let (source, at) = (format!("{PREFIX}{}", std::process::id()), plain(dir));
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=700"), &source, at]);
        Self { at: dir.to_path_buf() }
    }

    /// Changes its size; what it holds stays.
    pub fn resize(&self, size: &str) {
        run("mount", &["-o", &format!("remount,size={size}"), plain(&self.at)]);
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(plain(&self.at));
    }
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().expect("mount is installed");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Lazily: a process that still has a file open there keeps it, unseen, until it ends.
fn unmount(at: &str) {
    let _ = Command::new("umount").args(["--lazy", at]).output();
}

fn unmount_left_overs() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for mount in mounts.lines() {
        let mut words = mount.split(' ');
        let owner = words.next().and_then(|source| source.strip_prefix(PREFIX)?.parse::<u32>().ok());
        let gone = owner.is_some_and(|pid| !super::process::exists(pid));
        if let (true, Some(at)) = (gone, words.next()) {
            unmount(at);
        }
    }
}
