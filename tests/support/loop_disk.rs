//! A file system on a disk whose bytes a test can reach below it: ext4 on a loop device. What the kernel has cached
//! of a file and what the disk holds of it can so be made to differ, as after a failed flush. Needs root.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system. Unmounted on drop.
#[derive(Debug)]
pub struct LoopDisk {
    image: PathBuf,
    at: PathBuf,
}

impl LoopDisk {
    /// Makes one of `megabytes` in the directory `dir`; `None` where this machine does not let us.
    pub fn mount(dir: &Path, megabytes: u64) -> Option<Self> {
        let (image, at) = (dir.join("disk.img"), dir.join("disk"));
        std::fs::create_dir_all(&at).expect("the mount point can be made");
        let file = std::fs::File::create(&image).expect("the image can be made");
        file.set_len(megabytes << 20).expect("the image can be made");
        let run = |program: &str, args: &[&str]| {
            Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
        };
        let plain = |path: &Path| path.to_str().expect("a plain path").to_owned();
        let made = run("mkfs.ext4", &["-q", &plain(&image)]);
        (made && run("mount", &["-o", "loop", &plain(&image), &plain(&at)])).then_some(Self { image, at })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Replaces every `old` on the disk by `new`, which is as long, below the file system. Answers how many.
    pub fn replace(&self, old: &[u8], new: &[u8]) -> usize {
        assert_eq!(old.len(), new.len(), "nothing moves");
        assert!(
            Command::new("sync").arg("-f").arg(&self.at).status().is_ok_and(|status| status.success()),
            "sync is installed"
        );
        let bytes = std::fs::read(&self.image).expect("the image can be read");
        let file = std::fs::File::options().write(true).open(&self.image).expect("the image can be written");
        let found: Vec<_> = bytes.windows(old.len()).enumerate().filter(|(_, w)| *w == old).collect();
        for (at, _) in &found {
            file.write_all_at(new, *at as u64).expect("the image can be written");
        }
        found.len()
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // Lazily: nothing of the test may be left in use, and a failure must not hide the test's own.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).output();
    }
}
