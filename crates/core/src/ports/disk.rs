//! The port of the disk that uploads go to, where they go to a folder.

use async_trait::async_trait;

use crate::error::PortError;

/// How much room a disk has for this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Bytes in all.
    pub size_bytes: u64,
}

/// A disk that can fill up.
#[async_trait]
pub trait Disk: Send + Sync {
    /// How much room there is now.
    ///
    /// # Errors
    /// Only `Unavailable`.
    async fn room(&self) -> Result<Room, PortError>;
}
