//! How many jobs of one process are at which stage at once: decoding is bounded by the cores, so that a worker with
//! many slots (for engines far away) does not decode them all at the same time, and by the memory and the disk that decoded
//! audio takes.

use std::path::Path;
use std::thread::available_parallelism;
use std::time::Duration;

use verbatim_core::CancellationToken;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::places::{Cap, Place, Places, PlacesConfig, PlacesGauge, Sizing};
use verbatim_telemetry::limits::{free_disk, free_memory};

/// Memory that a decoder may take: the audio itself lies on disk, its tables and windows do not.
const DECODE_BYTES: u64 = 64 * 1024 * 1024;
/// Disk that decoded audio may take in the scratch folder: 70 minutes of it. Longer audio takes more.
const DECODED_BYTES: u64 = 256 * 1024 * 1024;
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
    decode: Places,
    transcribe: Places,
    store: Places,
}

impl Stages {
    /// With these limits, for this many slots. `gauge` says where a stage shows itself; `max_rss_bytes` is the memory that
    /// the process should stay below, 0 for what the machine has; `scratch` is the folder that decoded audio goes to.
    pub(crate) fn new(
        limits: StageLimits,
        slots: usize,
        max_rss_bytes: u64,
        scratch: &Path,
        gauge: impl Fn(&'static str) -> Box<dyn PlacesGauge>,
    ) -> Self {
        let or = |limit: usize, default: usize| if limit == 0 { default.max(1) } else { limit };
        let cores = available_parallelism().map_or(1, usize::from);
        let decode = or(limits.decode, cores);
        let memory = (max_rss_bytes > 0).then_some(max_rss_bytes);
        let memory = Cap { free: Box::new(move || free_memory(memory)), per_place: DECODE_BYTES };
        let scratch = scratch.to_owned();
        let disk = Cap { free: Box::new(move || free_disk(&scratch)), per_place: DECODED_BYTES };
        let places = |sizing, caps, name| {
            Places::new(PlacesConfig { sizing, max_waiting: usize::MAX }, caps, gauge(name))
        };
        Self {
            decode: places(Sizing::between(decode.div_ceil(2), decode), vec![memory, disk], "decode"),
            transcribe: places(Sizing::fixed(or(limits.transcribe, slots)), Vec::new(), "transcribe"),
            store: places(Sizing::fixed(or(limits.store, slots)), Vec::new(), "store"),
        }
    }

    /// A place to decode.
    ///
    /// # Errors
    /// `Cancelled` when `cancel` fires first.
    pub(crate) async fn decode(&self, cancel: &CancellationToken) -> Result<Place, JobFailure> {
        enter(&self.decode, cancel).await
    }

    /// A place with the engine.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub(crate) async fn transcribe(&self, cancel: &CancellationToken) -> Result<Place, JobFailure> {
        enter(&self.transcribe, cancel).await
    }

    /// A place to store a result.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub(crate) async fn store(&self, cancel: &CancellationToken) -> Result<Place, JobFailure> {
        enter(&self.store, cancel).await
    }
}

async fn enter(places: &Places, cancel: &CancellationToken) -> Result<Place, JobFailure> {
    let cancelled = || JobFailure::new(FailureKind::Cancelled, "the work was stopped");
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(cancelled()),
        place = places.take(PATIENCE) => place.map_err(|_| cancelled()),
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

    #[tokio::test(start_paused = true)]
    async fn no_more_decode_at_once_than_may_and_all_get_their_turn() {
        let stages = stages(StageLimits { decode: 2, ..StageLimits::default() }, 50);
        let (inside, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs = (0..20).map(|_| {
            let (stages, inside, peak) = (stages.clone(), inside.clone(), peak.clone());
            tokio::spawn(async move {
                let place = stages.decode(&CancellationToken::new()).await.unwrap();
                peak.fetch_max(inside.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
                inside.fetch_sub(1, Ordering::Relaxed);
                drop(place);
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
        let _place = stages.transcribe(&cancel).await.unwrap();
        let waits = stages.transcribe(&cancel);
        let (refused, ()) = tokio::join!(waits, async { cancel.cancel() });
        assert_eq!(refused.unwrap_err().kind, FailureKind::Cancelled);
        assert!(stages.store(&CancellationToken::new()).await.is_ok());
    }
}
