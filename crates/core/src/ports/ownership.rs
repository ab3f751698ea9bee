//! The port through which a job store says whose blobs are whose: several job stores may keep their blobs in one place, and
//! a job store may come back older than its blobs.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::PortError;
use crate::ids::StoreId;
use crate::time::Timestamp;

/// Who a job store is, where it keeps blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Made with the job store, and part of the name of each of its blobs.
    pub id: StoreId,
    /// A number that only rises, of which the marker in the blob store holds a copy; 0 until there is a marker. A marker
    /// that holds a higher one was written by a later state of this job store.
    pub mark: u64,
}

/// What a marker told about the job store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkOutcome {
    /// This is its first marker: the job store is new, or of a version before there were markers.
    First,
    /// All is well.
    Renewed,
    /// The marker was written by a later state of the job store, which has come back older, or empty.
    WentBack,
}

/// A marker that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// What the one before told.
    pub outcome: MarkOutcome,
    /// Who the job store was then, with the mark that was written.
    pub identity: Identity,
    /// When this one was written, by the blob store's clock.
    pub at: Timestamp,
}

/// Marks a blob store as a job store's own.
#[async_trait]
pub trait BlobMarker: Send + Sync {
    /// Writes the marker, or renews it. A job store that went back is forbidden to sweep for `unswept` before the marker says
    /// so no more: a node that dies in between leaves the marker to tell the next one.
    ///
    /// # Errors
    /// `Unavailable` when there should be a marker and is none; else what either store answers.
    async fn mark(&self, unswept: Duration) -> Result<Marked, PortError>;
}

/// The owner of blobs: a job store.
#[async_trait]
pub trait BlobOwner: Send + Sync {
    /// Who the job store is: another one than before where its data were lost or replaced.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn identity(&self) -> Result<Identity, PortError>;

    /// Raises the mark by one, or to one more than `above` where that is higher, and returns it.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn raise_mark(&self, above: u64) -> Result<u64, PortError>;

    /// Makes `node` the one that sweeps, for `turn` from now. `false` while it is another's turn, and while sweeps are
    /// forbidden.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn take_sweep(&self, node: &str, turn: Duration) -> Result<bool, PortError>;

    /// Forbids sweeps for so long from now.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn forbid_sweeps(&self, time: Duration) -> Result<(), PortError>;
}
