//! Searches the blob store for blobs that no job knows: uploads that were never submitted, and results whose worker could not
//! delete them. Only the job store's own are looked at; one node does it at a time; and never while the job store may be older
//! than its blobs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use verbatim_core::PortError;
use verbatim_core::ports::blobs::BlobKey;
use verbatim_core::ports::jobs::{BlobFate, MAX_BLOBS_PER_CALL};
use verbatim_core::ports::ownership::{BlobMarker, BlobOwner, Identity, MarkOutcome, Marked};

use super::Maintenance;
use crate::config::Sweep;

/// How often the node whose turn it is renews the marker, if it does not sweep more often: what the job store forgets within
/// that time is not noticed.
const MARK: Duration = Duration::from_secs(300);

/// What it takes to sweep.
pub struct Sweeper {
    /// How often, and what.
    pub config: Sweep,
    /// Whose blobs these are; knows whose turn it is.
    pub owner: Arc<dyn BlobOwner>,
    /// Tells whether the job store went back.
    pub marker: Arc<dyn BlobMarker>,
    /// Names this node among those that sweep.
    pub node: String,
}

impl Maintenance {
    /// Beside the ticks, so that a bucket of millions of objects delays no job.
    pub(super) async fn keep_sweeping(&self) {
        let Some(sweeper) = &self.sweeper else { return };
        let mut swept: Option<Instant> = None;
        loop {
            let marked = self.note("mark", self.mark_in_turn(sweeper).await).flatten();
            let due = swept.is_none_or(|swept| swept.elapsed() >= sweeper.config.interval);
            if let Some(marked) = marked.filter(|_| due) {
                swept = Some(Instant::now());
                self.note("sweep", self.sweep_once(sweeper, &marked).await);
            }
            tokio::time::sleep(self.about(sweeper.config.interval.min(MARK))).await;
        }
    }

    /// Renews the marker if it is this node's turn to sweep. Returns it, with the time by the blob store's clock, by which
    /// blobs have their ages; `None` when there must be no sweep.
    ///
    /// # Errors
    /// What either store answered.
    pub async fn mark_in_turn(&self, sweeper: &Sweeper) -> Result<Option<Marked>, PortError> {
        if !self.is_our_turn(sweeper).await? {
            return Ok(None);
        }
        let marked = sweeper.marker.mark(sweeper.config.orphan_age).await?;
        // What is named after a store that is new was written by it.
        if marked.outcome != MarkOutcome::WentBack {
            return Ok(Some(marked));
        }
        self.metrics.job_store_went_back.inc();
        let secs = sweeper.config.orphan_age.as_secs();
        tracing::error!(
            secs,
            "the job store has come back older than its audio and results, or empty: nothing is swept for so long"
        );
        Ok(None)
    }

    /// Takes the turn, or keeps it.
    async fn is_our_turn(&self, sweeper: &Sweeper) -> Result<bool, PortError> {
        // Longer than a node pauses that has it.
        sweeper.owner.take_sweep(&sweeper.node, sweeper.config.interval.min(MARK) * 2).await
    }

    /// Deletes blobs of at least the configured age that nothing refers to, as long as it is this node's turn and the job
    /// store is the one that wrote `marked`, no older than then. Returns how many.
    ///
    /// # Errors
    /// What either store answered; what was done until then stays done. A blob that cannot be deleted is no error: the next
    /// sweep finds it.
    pub async fn sweep_once(&self, sweeper: &Sweeper, marked: &Marked) -> Result<usize, PortError> {
        let mut deleted = 0;
        for prefix in self.blobs.own_prefixes() {
            let mut after: Option<BlobKey> = None;
            loop {
                let page = self.blobs.list(&prefix, after.as_ref(), MAX_BLOBS_PER_CALL).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.key.clone());
                let orphan_age = sweeper.config.orphan_age;
                let old = page.into_iter().filter(|blob| marked.at.since(blob.modified_at) >= orphan_age);
                let orphans = self.orphans(old.map(|blob| blob.key).collect()).await?;
                if !self.may_delete(sweeper, &marked.identity).await? {
                    return Ok(deleted);
                }
                deleted += self.delete(orphans).await.0.len();
            }
        }
        if deleted > 0 {
            tracing::info!(deleted, "blobs that nothing referred to were deleted");
        }
        Ok(deleted)
    }

    /// Whether what the job store just said of blobs can be acted on. A sweep takes long enough for the job store to be
    /// replaced or put back meanwhile, and such a one knows nothing of blobs that are needed. First ask which blobs are needed,
    /// then who the job store is, last whose turn it is. A store that was put back between the first two shows in its id or
    /// mark; a node that raises the mark of such a store has forbidden sweeps before.
    async fn may_delete(&self, sweeper: &Sweeper, begun_for: &Identity) -> Result<bool, PortError> {
        let Identity { id, mark } = sweeper.owner.identity().await?;
        if id != begun_for.id || mark < begun_for.mark {
            tracing::error!(
                store.id = %id,
                store.id_before = %begun_for.id,
                "the job store was replaced or put back during a sweep, which ends here"
            );
            return Ok(false);
        }
        self.is_our_turn(sweeper).await
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
