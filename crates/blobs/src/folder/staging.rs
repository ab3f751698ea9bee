//! Where blobs lie while they are being written: a folder per process, locked by it, so that the next process to open
//! the store can tell what was abandoned from what another process is writing.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use tempfile::{NamedTempFile, TempDir};

const PREFIX: &str = "staging-";
const OWNER: &str = "owner.lock";

/// This process's own staging folder.
#[derive(Debug)]
pub(super) struct Staging {
    dir: TempDir,
    /// Locked for as long as this process lives.
    _owner: File,
}

impl Staging {
    /// Removes the staging folders of processes that are gone and makes one for this process.
    pub(super) fn open(tmp: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(tmp)?;
        // One process at a time, so that none sees another's folder before its lock is taken.
        let gate = File::create(tmp.join("open.lock"))?;
        gate.lock()?;
        for entry in std::fs::read_dir(tmp)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_abandoned(&entry.path())? {
                tracing::info!(folder = %entry.path().display(), "removing blobs that a process left half-written");
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(tmp)?;
        let owner = File::create(dir.path().join(OWNER))?;
        owner.lock()?;
        Ok(Self { dir, _owner: owner })
    }

    /// A file that goes away when it is dropped.
    pub(super) fn new_file(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new().prefix("blob-").tempfile_in(self.dir.path())
    }

    /// A file without a name, gone when it is closed.
    pub(super) fn nameless_file(&self) -> io::Result<File> {
        tempfile::tempfile_in(self.dir.path())
    }
}

fn is_abandoned(folder: &Path) -> io::Result<bool> {
    match File::open(folder.join(OWNER)) {
        Ok(owner) => match owner.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        },
        // Its process died between making the folder and its lock.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}
