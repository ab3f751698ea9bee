//! Searches the blob store for blobs that no job knows: uploads that were never submitted, and results whose worker could not
//! delete them.

use std::time::Duration;

use verbatim_core::PortError;
use verbatim_core::ports::blobs::{AUDIO_PREFIX, BlobKey, RESULTS_PREFIX};
use verbatim_core::ports::jobs::{BlobFate, MAX_BLOBS_PER_CALL};

use super::Maintenance;

impl Maintenance {
    /// Beside the ticks, so that a bucket of millions of objects delays no job.
    pub(super) async fn keep_sweeping(&self) {
        let Some(sweep) = self.config.sweep else { return };
        tokio::time::sleep(sweep.first_within.mul_f64(self.ids.fraction())).await;
        loop {
            self.note("sweep", self.sweep_once(sweep.orphan_age).await);
            tokio::time::sleep(self.about(sweep.interval)).await;
        }
    }

    /// Deletes blobs of at least this age that nothing refers to. Returns how many.
    ///
    /// # Errors
    /// What either store answered; what was done until then stays done. A blob that cannot be deleted is no error: the next
    /// sweep finds it.
    pub async fn sweep_once(&self, orphan_age: Duration) -> Result<usize, PortError> {
        let mut deleted = 0;
        for prefix in [AUDIO_PREFIX, RESULTS_PREFIX] {
            let mut after: Option<BlobKey> = None;
            loop {
                let page = self.blobs.list(prefix, after.as_ref(), MAX_BLOBS_PER_CALL).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.key.clone());
                let now = self.clock.now();
                let old = page.into_iter().filter(|blob| now.since(blob.modified_at) >= orphan_age);
                let orphans = self.orphans(old.map(|blob| blob.key).collect()).await?;
                deleted += self.delete(orphans).await.0.len();
            }
        }
        if deleted > 0 {
            tracing::info!(deleted, "blobs that nothing referred to were deleted");
        }
        Ok(deleted)
    }

    /// Those of these blobs that the store knows nothing of.
    async fn orphans(&self, keys: Vec<BlobKey>) -> Result<Vec<BlobKey>, PortError> {
        if keys.is_empty() {
            return Ok(keys);
        }
        let fates = self.store.fates(&keys).await?;
        let unknown = |(key, fate)| (fate == BlobFate::Unknown).then_some(key);
        Ok(keys.into_iter().zip(fates).filter_map(unknown).collect())
    }
}
