//! What both stores do with the names of blobs.

use verbatim_core::ports::BlobKey;
use verbatim_core::ports::jobs::MAX_BLOBS_PER_CALL;
use verbatim_core::{ErrorKind, PortError};

/// The names that this version can read. One that it cannot must not keep the others from being deleted; it stays listed.
pub(crate) fn readable(names: Vec<String>) -> Vec<BlobKey> {
    let read = |name: String| {
        BlobKey::parse(&name)
            .inspect_err(|error| tracing::error!(%error, "a blob to delete is left alone"))
            .ok()
    };
    names.into_iter().filter_map(read).collect()
}

/// Refuses calls of too many blobs.
pub(crate) fn check_size(blobs: usize) -> Result<(), PortError> {
    if blobs > MAX_BLOBS_PER_CALL {
        let message = format!("{blobs} blobs in one call; at most {MAX_BLOBS_PER_CALL} are allowed");
        return Err(PortError::new(ErrorKind::Invalid, message));
    }
    Ok(())
}
