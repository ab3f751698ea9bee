//! Deletes blobs that no job needs any more. Nodes share them: each takes a batch, which is its own for a while.

use std::time::Duration;

use verbatim_core::ports::blobs::BlobKey;
use verbatim_core::ports::jobs::{GarbageRequest, MAX_BLOBS_PER_CALL};
use verbatim_core::{ErrorKind, PortError};

use super::Maintenance;

/// How long a batch is this node's own, and how long it may take.
const HOLD: Duration = Duration::from_secs(60);

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deleted {
    /// Blobs that are gone.
    pub gone: usize,
    /// Blobs that could not be deleted, and are tried again later.
    pub left: usize,
}

impl Maintenance {
    pub(super) async fn keep_deleting(&self) {
        loop {
            let done = self.note("delete", self.delete_due().await).unwrap_or_default();
            // A whole batch that is gone may have more behind it; one that could not be deleted is no reason to hurry.
            if done.left > 0 || done.gone < MAX_BLOBS_PER_CALL {
                tokio::time::sleep(self.about(self.config.interval)).await;
            }
        }
    }

    /// Takes one batch of blobs that are due and deletes them.
    ///
    /// # Errors
    /// What the job store answered. A blob that cannot be deleted is none: it is counted, and its turn comes again.
    pub async fn delete_due(&self) -> Result<Deleted, PortError> {
        let request =
            GarbageRequest { most: MAX_BLOBS_PER_CALL, grace: self.config.delete_grace, hold: HOLD };
        let batch = self.store.take_garbage(request).await?;
        let (gone, left) = self.delete(batch).await;
        self.store.blobs_deleted(&gone).await?;
        Ok(Deleted { gone: gone.len(), left: left.len() })
    }

    /// Deletes these blobs, and says which are gone and which are left. Counts and logs.
    pub(super) async fn delete(&self, batch: Vec<BlobKey>) -> (Vec<BlobKey>, Vec<BlobKey>) {
        if batch.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let outcomes =
            tokio::time::timeout(HOLD, self.blobs.delete_many(&batch)).await.unwrap_or_else(|_| {
                let silent = || PortError::new(ErrorKind::Unavailable, "the blob store does not answer");
                batch.iter().map(|_| Err(silent())).collect()
            });
        let (mut gone, mut left, mut reason) = (Vec::new(), Vec::new(), None);
        for (key, outcome) in batch.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => gone.push(key),
                Err(error) => {
                    left.push(key);
                    reason = Some(error);
                }
            }
        }
        self.metrics.count_deletions(gone.len(), left.len());
        if let (Some(error), Some(blob)) = (reason, left.last()) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(left = left.len(), %blob, error, "blobs could not be deleted; trying again later");
        }
        (gone, left)
    }
}
