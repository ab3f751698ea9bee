//! How many jobs of one process are at which stage at once: decoding is bounded by the cores, so that a worker with
//! many slots (for engines far away) does not decode them all at the same time, and by the memory that decoders take.

use std::path::Path;
use std::thread::available_parallelism;
use std::time::Duration;

use verbatim_admission::{Headroom, Holder, Permit, Pool, PoolConfig, PoolGauge, Reserve, Sizing};
use verbatim_core::CancellationToken;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_telemetry::limits::{free_disk, free_memory};

use crate::scratch::ScratchFolder;

/// Memory that a decoder may take: the audio itself lies on disk, its tables and windows do not.
const DECODE_BYTES: u64 = 64 * 1024 * 1024;
/// A job that has a slot waits for its next stage for as long as it takes; its time limit ends it, if anything does.
const PATIENCE: Duration = Duration::MAX;

/// How many jobs may be at each stage at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StageLimits {
    /// Decoding, at most; 0 for the number of cores. Begins with half of it and follows the load and the free memory.
    pub decode: usize,
    /// In the hands of the engine; 0 for as many as the worker has slots.
    pub transcribe: usize,
    /// Having their result stored; 0 for as many as the worker has slots.
    pub store: usize,
}

/// The stages of a worker's jobs; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Stages {
    scratch: ScratchFolder,
    decode: Pool,
    transcribe: Pool,
    store: Pool,
}

impl Stages {
    /// With these limits, for this many slots. `gauge` says where a stage shows itself; `max_rss_bytes` is the memory that
    /// the process should stay below, 0 for what the machine has; `scratch` is the folder that decoded audio goes to.
    pub(crate) fn new(
        limits: StageLimits,
        slots: usize,
        max_rss_bytes: u64,
        scratch: &Path,
        gauge: impl Fn(&'static str) -> Box<dyn PoolGauge>,
    ) -> Self {
        let or = |limit: usize, default: usize| if limit == 0 { default.max(1) } else { limit };
        let cores = available_parallelism().map_or(1, usize::from);
        let decode = or(limits.decode, cores);
        let memory = (max_rss_bytes > 0).then_some(max_rss_bytes);
        let memory = Headroom::bytes(move || free_memory(memory), DECODE_BYTES);
        let folder = scratch.to_owned();
        let scratch = ScratchFolder::new(scratch, move || free_disk(&folder), gauge("scratch"));
        // Jobs leave these stages within a while by themselves: no reserve is needed for the next tenant.
        let pool = |sizing, headroom, name| {
            let config = PoolConfig { sizing, max_waiting: usize::MAX, reserve: Reserve::Nothing };
            Pool::new(config, headroom, gauge(name))
        };
        Self {
            scratch,
            decode: pool(Sizing::between(decode.div_ceil(2), decode), vec![memory], "decode"),
            transcribe: pool(Sizing::fixed(or(limits.transcribe, slots)), Vec::new(), "transcribe"),
            store: pool(Sizing::fixed(or(limits.store, slots)), Vec::new(), "store"),
        }
    }

    /// The folder for what is decoded.
    pub(crate) fn scratch(&self) -> &ScratchFolder {
        &self.scratch
    }

    /// A permit to decode, for the tenant `holder`.
    ///
    /// # Errors
    /// `Cancelled` when `cancel` fires first.
    pub(crate) async fn decode(
        &self,
        holder: &Holder,
        cancel: &CancellationToken,
    ) -> Result<Permit, JobFailure> {
        enter(&self.decode, holder, cancel).await
    }

    /// A permit to have the engine work.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub(crate) async fn transcribe(
        &self,
        holder: &Holder,
        cancel: &CancellationToken,
    ) -> Result<Permit, JobFailure> {
        enter(&self.transcribe, holder, cancel).await
    }

    /// A permit to store a result.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub(crate) async fn store(
        &self,
        holder: &Holder,
        cancel: &CancellationToken,
    ) -> Result<Permit, JobFailure> {
        enter(&self.store, holder, cancel).await
    }
}

async fn enter(pool: &Pool, holder: &Holder, cancel: &CancellationToken) -> Result<Permit, JobFailure> {
    let cancelled = || JobFailure::new(FailureKind::Cancelled, "the work was stopped");
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(cancelled()),
        permit = pool.acquire(holder, PATIENCE) => permit.map_err(|_| cancelled()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn stages(limits: StageLimits, slots: usize) -> Stages {
        Stages::new(limits, slots, 0, Path::new("/"), |_| Box::new(()))
    }

    fn holder() -> Holder {
        Holder::tenant("somebody")
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_decode_at_once_than_may_and_all_get_their_turn() {
        let stages = stages(StageLimits { decode: 2, ..StageLimits::default() }, 50);
        let (inside, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs = (0..20).map(|_| {
            let (stages, inside, peak) = (stages.clone(), inside.clone(), peak.clone());
            tokio::spawn(async move {
                let permit = stages.decode(&holder(), &CancellationToken::new()).await.unwrap();
                peak.fetch_max(inside.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
                inside.fetch_sub(1, Ordering::Relaxed);
                drop(permit);
            })
        });
        for job in jobs.collect::<Vec<_>>() {
            job.await.unwrap();
        }
        assert_eq!(peak.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_is_stopped_waits_no_longer() {
        let stages = stages(StageLimits::default(), 1);
        let cancel = CancellationToken::new();
        let (one, another) = (holder(), holder());
        let _permit = stages.transcribe(&one, &cancel).await.unwrap();
        let waits = stages.transcribe(&another, &cancel);
        let (refused, ()) = tokio::join!(waits, async { cancel.cancel() });
        assert_eq!(refused.unwrap_err().kind, FailureKind::Cancelled);
        assert!(stages.store(&one, &CancellationToken::new()).await.is_ok());
    }
}
