//! The disk that a folder lies on.

use std::path::PathBuf;

use async_trait::async_trait;
use verbatim_core::PortError;
use verbatim_core::ports::{Disk, Room};

use super::blocking;

/// The disk under a folder. Asked anew every time: another disk may be mounted there by then.
#[derive(Debug, Clone)]
pub struct FolderDisk {
    folder: PathBuf,
}

impl FolderDisk {
    /// The disk that this folder lies on.
    pub fn under(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

#[async_trait]
impl Disk for FolderDisk {
    async fn room(&self) -> Result<Room, PortError> {
        let folder = self.folder.clone();
        let message = format!("cannot tell how much room there is in {}", folder.display());
        blocking(&message, move || {
            let found = rustix::fs::statvfs(&folder)?;
            // What only the administrator may still use does not count as free.
            Ok(Room {
                free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
                size_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            })
        })
        .await
    }
}
