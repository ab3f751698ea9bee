//! Audio that is gone although the job store needs it, and a share that is not mounted.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{World, config};
use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio::time::Instant;
use verbatim_core::failure::FailureKind;
use verbatim_core::job::{JobState, Lease};
use verbatim_core::ports::blobs::{BlobKey, BlobMeta, BlobStore, BlobWriter};
use verbatim_core::{CancellationToken, ErrorKind, PortError};
use verbatim_engines::FakeEngine;
use verbatim_telemetry::metrics::JobOutcome;
use verbatim_worker_lib::{ShutdownSignals, Step, Worker, WorkerExit, WorkerPorts};

#[tokio::test(start_paused = true)]
async fn a_job_whose_audio_is_gone_takes_what_an_earlier_attempt_stored() -> Result<()> {
    let world = World::new()?;
    let done = world.submit(5).await?;
    let worker = world.worker(FakeEngine::new(0.0), config(1))?;
    assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Completed));
    let lease = world.leases.job(&done).lease;
    let first = world.results().await?;
    let transcript = world.transcript(&first[0]).await?;
    world.blobs.delete(&lease.blob).await?;
    // The store has come back from before that: it gives the job again.
    world.leases.queue(Lease { attempt: 0, ..lease });
    assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Completed));
    let completion = world.leases.job(&done).completions.pop().context("it completed")?;
    assert!(!first.contains(&completion.result), "it is published under the name of its own lease");
    assert_eq!(world.transcript(&completion.result).await?, transcript);
    assert_eq!((completion.duration_ms, &completion.model), (transcript.duration_ms, &transcript.model));
    assert_eq!(world.metric("verbatim_transcripts_adopted_total")?, 1.0);
    Ok(())
}

/// Sees nothing of what is there until it is found.
struct Unmounted {
    inner: Arc<dyn BlobStore>,
    lost: watch::Sender<bool>,
    /// It will be seen at the next look.
    away: bool,
}

#[async_trait]
impl BlobStore for Unmounted {
    async fn put_stream(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, PortError> {
        self.inner.put_stream(key).await
    }

    async fn get_stream(
        &self,
        key: &BlobKey,
    ) -> Result<BoxStream<'static, Result<Bytes, PortError>>, PortError> {
        self.inner.get_stream(key).await
    }

    async fn open_local(&self, key: &BlobKey) -> Result<Option<std::fs::File>, PortError> {
        if self.away {
            self.lost.send_replace(true);
        }
        if self.is_lost() {
            return Err(PortError::new(ErrorKind::Unavailable, "the share is not mounted"));
        }
        self.inner.open_local(key).await
    }

    async fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, PortError> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), PortError> {
        self.inner.delete(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, PortError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn presign(&self, key: &BlobKey, ttl: Duration) -> Result<Option<String>, PortError> {
        self.inner.presign(key, ttl).await
    }

    async fn ping(&self) -> Result<(), PortError> {
        self.inner.ping().await
    }

    fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    async fn found(&self) {
        let _ = self.lost.subscribe().wait_for(|lost| !lost).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_its_share_gives_the_job_to_another_and_claims_nothing_until_it_is_back()
-> Result<()> {
    let world = World::new()?;
    let id = world.submit(1).await?;
    let blobs =
        Arc::new(Unmounted { inner: world.blobs.clone(), lost: watch::Sender::new(false), away: false });
    let ports = WorkerPorts { blobs: blobs.clone(), ..world.ports() };
    let worker = Worker::new(ports, world.pipeline(FakeEngine::new(0.0))?, config(1));
    let stop = CancellationToken::new();
    let signals = ShutdownSignals { drain: stop.clone(), release: stop.clone() };
    blobs.lost.send_replace(true);
    assert_eq!(worker.run_once().await?, Step::Idle, "nothing is claimed");
    let watching = async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(world.leases.change(|state| state.claims.len()), 0, "claims within ten minutes");
        blobs.lost.send_replace(false);
        world.leases.until(|state| state.all_are(JobState::Completed)).await;
        stop.cancel();
    };
    let (exit, ()) = tokio::join!(worker.run(signals), watching);
    assert_eq!(exit?, WorkerExit::Shutdown);
    assert!(world.leases.job(&id).failures.is_empty());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_was_claimed_where_the_share_is_away_goes_to_another_worker_at_once() -> Result<()> {
    let world = World::new()?;
    let id = world.submit(1).await?;
    let begun = Instant::now();
    // Lost, and not yet noticed when the job is claimed.
    let blobs =
        Arc::new(Unmounted { inner: world.blobs.clone(), lost: watch::Sender::new(false), away: true });
    let ports = WorkerPorts { blobs: blobs.clone(), ..world.ports() };
    let worker = Worker::new(ports, world.pipeline(FakeEngine::new(0.0))?, config(1));
    assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Retried));
    assert!(begun.elapsed() < Duration::from_secs(10), "it waited for {:?}", begun.elapsed());
    assert_eq!(world.leases.job(&id).failures[0].kind, FailureKind::StorageUnavailable);
    let other = world.worker(FakeEngine::new(0.0), config(1))?;
    assert_eq!(other.run_once().await?, Step::Ended(JobOutcome::Completed));
    Ok(())
}
