//! A backup's file, made under another name, flushed, read back and verified as a restore will do it, and
//! only then given its own (BK-4).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::{BackupError, Named};
use super::{Backup, Header, write};
use crate::registry::machine::Machine;

/// The registry's values may be secret.
const FILE_MODE: u32 = 0o600;

/// A backup's file while it is written. Unless it is finished, nothing of it stays.
#[derive(Debug)]
pub struct Draft {
    file: File,
    path: PathBuf,
    out: PathBuf,
    replace: bool,
}

impl Draft {
    /// Begins the file that shall be `out`; `replace` allows one that is there already to go.
    ///
    /// # Errors
    /// When `out` exists and must not be replaced, or its directory can't be written.
    pub fn create(out: &Path, replace: bool) -> Result<Self, BackupError> {
        let shown = Named(out.display().to_string());
        if out.symlink_metadata().is_ok() && !replace {
            return Err(BackupError::Exists { file: shown.0 });
        }
        let name = out.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.ok_or_else(|| shown.io("making it", ErrorKind::InvalidInput.into()))?;
        let path = out.with_file_name(format!(".{name}.{}.partial", std::process::id()));
        let options = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&path);
        let file = options.map_err(|e| shown.io("making it", e))?;
        Ok(Self { file, path, out: out.to_owned(), replace })
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.file.write_all(bytes).map_err(|e| self.named().io("writing it", e))
    }

    /// BK-4: flushes the file, reads it back and verifies it, and gives it its name.
    ///
    /// # Errors
    /// When it is no whole backup, its name was taken meanwhile, or the disk fails.
    pub fn finish(self) -> Result<Backup, BackupError> {
        self.file.sync_all().map_err(|e| self.named().io("flushing it", e))?;
        // Told by the name that was asked for: the other is gone when the message is read.
        let backup = Backup::read(&self.path).map_err(|e| e.renamed(&self.out))?;
        self.settle().map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => BackupError::Exists { file: self.named().0 },
            _ => self.named().io("naming it", e),
        })?;
        Ok(backup)
    }

    fn settle(&self) -> io::Result<()> {
        if self.replace {
            fs::rename(&self.path, &self.out)?;
        } else {
            // Unlike a rename, a link never replaces; the drop removes the first name. Where a file has one
            // name only, an empty one holds the place.
            fs::hard_link(&self.path, &self.out).or_else(|e| match e.kind() {
                ErrorKind::AlreadyExists => Err(e),
                _ => File::create_new(&self.out).and_then(|_| fs::rename(&self.path, &self.out)),
            })?;
        }
        let parent = self.out.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn named(&self) -> Named {
        Named(self.out.display().to_string())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a rename there is nothing left under this name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes the backup of `machine` to `out`; see [`Draft`].
///
/// # Errors
/// As [`Draft::create`], [`Draft::push`] and [`Draft::finish`].
pub fn save(out: &Path, replace: bool, header: &Header, machine: &Machine) -> Result<Backup, BackupError> {
    let mut draft = Draft::create(out, replace)?;
    write(header, machine, |piece| draft.push(&piece))?;
    draft.finish()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::tests::{saved, state, taken};
    use super::*;

    fn names(dir: &TempDir) -> Vec<String> {
        let names = fs::read_dir(dir.path()).unwrap();
        names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    /// BK-4.
    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let (dir, machine) = (TempDir::new().unwrap(), state(5));
        let path = dir.path().join("a.backup");
        let header = Header::describe(&machine, taken());
        let mut draft = Draft::create(&path, false).unwrap();
        let Ok(()) = write::<std::convert::Infallible>(&header, &machine, |piece| {
            draft.push(&piece[..piece.len() - 1]).unwrap();
            Ok(())
        });
        assert!(!path.exists());
        let error = draft.finish().unwrap_err();
        assert!(matches!(error, BackupError::Short { .. }), "{error}");
        assert!(error.to_string().contains("a.backup ends"), "{error}");
        assert_eq!(names(&dir), Vec::<String>::new(), "nothing of it stays");
    }

    /// BK-4.
    #[test]
    fn an_earlier_backup_is_replaced_only_by_force() {
        let (dir, machine) = (TempDir::new().unwrap(), state(5));
        let (path, header) = saved(&dir, &machine);
        let before = fs::read(&path).unwrap();
        assert!(matches!(Draft::create(&path, false), Err(BackupError::Exists { .. })));
        // One that appears while another is written.
        fs::remove_file(&path).unwrap();
        let mut draft = Draft::create(&path, false).unwrap();
        write(&header, &machine, |piece| draft.push(&piece)).unwrap();
        fs::write(&path, "somebody else's").unwrap();
        assert!(matches!(draft.finish(), Err(BackupError::Exists { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
        save(&path, true, &header, &machine).unwrap();
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(names(&dir), ["a.backup"]);
    }
}
