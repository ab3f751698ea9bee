//! The databases hold digests of keys, tokens of providers and what people said: only their owner may read them.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use verbatim_core::PortError;

/// Read and write, for the owner.
const FILE_MODE: u32 = 0o600;
/// The same for a folder.
const FOLDER_MODE: u32 = 0o700;

/// Makes the data folder unless it is there. One that is there stays as its owner made it.
///
/// # Errors
/// `OutOfSpace` or `Unavailable`, as the disk says.
pub fn make_data_folder(folder: &Path) -> Result<(), PortError> {
    let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder);
    made.map_err(|error| {
        PortError::from_io(format!("cannot make the data folder {}", folder.display()), error)
    })
}

/// Makes the file of a database, empty, before SQLite would: the log and its index get the mode that the file has. Takes
/// what an earlier version made away from everybody else.
pub(super) fn make_database(path: &Path) -> Result<(), PortError> {
    let failed = |error| PortError::from_io(format!("cannot make {}", path.display()), error);
    OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(path).map_err(failed)?;
    for file in [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")] {
        if let Err(error) = restrict(&file) {
            tracing::warn!(%error, file = %file.display(), "others than its owner can read a database");
        }
    }
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn restrict(file: &Path) -> io::Result<()> {
    match std::fs::metadata(file) {
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            std::fs::set_permissions(file, Permissions::from_mode(FILE_MODE))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
