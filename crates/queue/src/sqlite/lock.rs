//! The lock on the data folder: one server at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use verbatim_core::{ErrorKind, PortError};

/// The name of the file that is locked.
pub(super) const LOCK: &str = "lock";

/// Holds the folder until dropped; the system lets go when the process dies.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the folder.
    ///
    /// # Errors
    /// `Conflict` when another server holds it; what the file system says otherwise.
    pub fn take(folder: &Path) -> Result<Self, PortError> {
        let path = folder.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| PortError::from_io(format!("cannot open {}", path.display()), error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(PortError::new(
                ErrorKind::Conflict,
                format!(
                    "another server is running on the data folder {}: stop it, or choose another --data-dir",
                    folder.display()
                ),
            )),
            Err(TryLockError::Error(error)) => {
                Err(PortError::from_io(format!("cannot lock {}", path.display()), error))
            }
        }
    }
}
