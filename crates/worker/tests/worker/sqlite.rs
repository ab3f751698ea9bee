//! The worker on the embedded store, as one process has them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::engines::{OddEngine, PANIC, WAIT};
use crate::support::{PATIENCE, World, config, noise_wav};
use anyhow::{Context, Result};
use bytes::Bytes;
use futures::TryStreamExt;
use verbatim_core::CancellationToken;
use verbatim_core::audio::{AudioFormat, AudioInfo};
use verbatim_core::dedupe::DedupeKey;
use verbatim_core::event::{EventKind, JobEvent};
use verbatim_core::failure::FailureKind;
use verbatim_core::ids::{JobId, SubmissionId, TenantId};
use verbatim_core::job::{NewSubmission, Submission, SubmissionStatus, TenantCaps};
use verbatim_core::options::{ENGINE_AUTO, Priority, TranscribeOptions};
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::blobs::{BlobKey, put_bytes};
use verbatim_core::ports::{JobClient, SpeechEngine};
use verbatim_core::provider::SlotLimits;
use verbatim_engines::FakeEngine;
use verbatim_engines::pool::{PoolConfig, PoolPorts, Provider, ProviderPool};
use verbatim_queue::conformance::{SeededIds, VirtualClock};
use verbatim_queue::{SqliteConfig, SqliteStore};
use verbatim_telemetry::metrics::JobOutcome;
use verbatim_worker_lib::{
    Deleted, Maintenance, MaintenanceConfig, ShutdownSignals, Step, Worker, WorkerConfig, WorkerPorts,
};

/// A store that lets time pass only when it is told to.
struct Embedded {
    world: World,
    store: Arc<SqliteStore>,
    clock: Arc<VirtualClock>,
    ids: Arc<SeededIds>,
}

fn open(folder: &Path, clock: &Arc<VirtualClock>, ids: &Arc<SeededIds>) -> Result<Arc<SqliteStore>> {
    let config = SqliteConfig {
        folder: folder.join("data"),
        policy: StorePolicy::default(),
        clock: clock.clone(),
        ids: ids.clone(),
    };
    Ok(Arc::new(SqliteStore::open(config)?))
}

impl Embedded {
    fn new() -> Result<Self> {
        let (world, clock, ids) = (World::new()?, Arc::default(), Arc::new(SeededIds::starting_at(1)));
        let store = open(world.dir.path(), &clock, &ids)?;
        Ok(Self { world, store, clock, ids })
    }

    /// The same folder after a restart.
    fn restarted(self) -> Result<Self> {
        let Self { world, store, clock, ids } = self;
        drop(store);
        let store = open(world.dir.path(), &clock, &ids)?;
        Ok(Self { world, store, clock, ids })
    }

    fn worker(&self, engine: &OddEngine, config: WorkerConfig) -> Result<Worker> {
        self.worker_with(engine.clone(), config)
    }

    fn worker_with(&self, engine: impl SpeechEngine + 'static, config: WorkerConfig) -> Result<Worker> {
        let ports = WorkerPorts {
            leases: self.store.clone(),
            blobs: self.world.blobs.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            metrics: self.world.metrics.clone(),
        };
        Ok(Worker::new(ports, self.world.pipeline(engine)?, config))
    }

    fn maintenance(&self) -> Maintenance {
        Maintenance {
            store: self.store.clone(),
            blobs: self.world.blobs.clone(),
            clock: self.clock.clone(),
            metrics: self.world.metrics.clone(),
            ids: self.world.ids.clone(),
            config: MaintenanceConfig::default(),
            sweeper: None,
        }
    }

    /// A provider pool whose only engine is local, is of this kind, and takes no time.
    fn pool(&self, kind: &str) -> Result<ProviderPool> {
        let provider = Provider {
            name: kind.to_owned(),
            kind: kind.to_owned(),
            engine: Arc::new(FakeEngine::new(0.0)),
            priority: 1,
            weight: 1,
            local: true,
            limits: SlotLimits { max_concurrency: 1, rate: None },
            price_per_hour: None,
            daily_budget: None,
            timeout_base: PATIENCE,
            timeout_per_audio: 1.0,
        };
        let ports = PoolPorts {
            shared: self.store.clone(),
            ledger: None,
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            metrics: self.world.metrics.clone(),
        };
        Ok(ProviderPool::new(vec![provider], ports, PoolConfig::default())?)
    }

    /// Submits `secs` seconds of noise.
    async fn submit(&self, secs: u32, prompt: Option<&str>) -> Result<SubmissionId> {
        self.submit_for(ENGINE_AUTO, secs, prompt).await
    }

    /// The same for an engine of this kind.
    async fn submit_for(&self, engine: &str, secs: u32, prompt: Option<&str>) -> Result<SubmissionId> {
        let audio = noise_wav(secs);
        let job_id = JobId::generate(self.ids.as_ref());
        let blob = BlobKey::for_upload(&job_id);
        put_bytes(self.world.blobs.as_ref(), &blob, Bytes::from(audio.clone())).await?;
        let submission = NewSubmission {
            id: SubmissionId::generate(self.ids.as_ref()),
            job_id,
            tenant: TenantId::default(),
            options: TranscribeOptions {
                vad: false,
                engine: engine.to_owned(),
                prompt: prompt.map(str::to_owned),
                ..TranscribeOptions::for_model("fake")
            },
            dedupe_key: DedupeKey::from_stored(blob.as_str()),
            audio: AudioInfo {
                sha256: blob.to_string(),
                bytes: audio.len() as u64,
                format: AudioFormat::Wav,
                duration_ms: None,
                findings: Default::default(),
            },
            blob,
            priority: Priority::Normal,
            deadline: None,
            estimated_secs: 1,
            caps: TenantCaps::default(),
            metadata: BTreeMap::new(),
            idempotency: None,
            trace: None,
        };
        Ok(self.store.submit(submission).await?.submission.id)
    }

    async fn get(&self, id: &SubmissionId) -> Result<Submission> {
        self.store.get(&TenantId::default(), id).await?.context("the submission is lost")
    }

    /// The whole story, once the job has ended.
    async fn story(&self, id: &SubmissionId) -> Result<Vec<EventKind>> {
        let events = self.store.events(&TenantId::default(), id, None).await?.context("no events")?;
        let events: Vec<JobEvent> = events.try_collect().await?;
        Ok(events.into_iter().map(|event| event.kind).collect())
    }
}

#[tokio::test]
async fn a_job_ends_with_its_transcript_and_its_audio_goes() -> Result<()> {
    let here = Embedded::new()?;
    let id = here.submit(25, None).await?;
    let worker = here.worker(&OddEngine::default(), config(1))?;
    assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Completed));

    let submission = here.get(&id).await?;
    assert_eq!((submission.status, submission.engine.as_str()), (SubmissionStatus::Completed, "fake"));
    let transcript = here.world.transcript(&submission.result.context("no result")?).await?;
    let story = here.story(&id).await?;
    let told = story.iter().filter_map(|kind| match kind {
        EventKind::Transcribed { attempt: 1, count, .. } => Some(*count as usize),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [transcript.segments.len()]);
    assert!(matches!(story.last(), Some(EventKind::Completed)));

    assert_eq!(here.maintenance().delete_due().await?, Deleted::default(), "what was needed a moment ago");
    here.clock.advance(MaintenanceConfig::default().delete_grace);
    assert_eq!(here.maintenance().delete_due().await?, Deleted { gone: 1, left: 0 });
    assert_eq!(here.world.blobs.list("audio/", None, 9).await?, []);
    assert_eq!(here.world.results().await?.len(), 1);
    Ok(())
}

/// The jobs of each kind stand before those of the other, and the worker that can do least asks most.
#[tokio::test]
async fn two_kinds_of_workers_share_a_queue_and_each_job_begins_with_its_first_claim() -> Result<()> {
    let here = Embedded::new()?;
    let mut tickets = Vec::new();
    for number in 0..40 {
        tickets.push(here.submit_for(["one", "two"][number % 2], 1, None).await?);
    }
    let nobody = here.submit_for("three", 1, None).await?;
    let workers =
        [here.worker_with(here.pool("one")?, config(2))?, here.worker_with(here.pool("two")?, config(1))?];
    let signals = ShutdownSignals { drain: CancellationToken::new(), release: CancellationToken::new() };
    let ending = async {
        for ticket in &tickets {
            here.story(ticket).await?;
        }
        signals.drain.cancel();
        anyhow::Ok(())
    };
    let [one, two] = &workers;
    let (one, two, ended) = tokio::join!(one.run(signals.clone()), two.run(signals.clone()), ending);
    one?;
    two?;
    ended?;
    for ticket in &tickets {
        let done = here.get(ticket).await?;
        let result = done.result.context("it has a result")?;
        // The name of a result begins with the fence of its lease: the number of the claim.
        assert!(result.as_str().contains("/1-"), "{} was claimed more than once", result.as_str());
    }
    let waits = here.get(&nobody).await?;
    assert_eq!(waits.status, SubmissionStatus::Queued);
    assert_eq!(waits.waiting_for.as_deref(), Some("a worker with engine three and model fake"));
    Ok(())
}

#[tokio::test]
async fn a_panic_is_retried_into_a_dead_letter_and_its_siblings_end_well() -> Result<()> {
    let here = Embedded::new()?;
    let bad = here.submit(1, Some(PANIC)).await?;
    let good = [here.submit(2, None).await?, here.submit(3, None).await?];
    let worker = here.worker(&OddEngine::default(), config(2))?;
    let mut steps = Vec::new();
    while steps.len() < 7 {
        match worker.run_once().await? {
            Step::Idle => {
                here.clock.advance(Duration::from_secs(300));
                here.maintenance().tick().await?;
            }
            step => steps.push(step),
        }
    }
    let count = |outcome| steps.iter().filter(|step| **step == Step::Ended(outcome)).count();
    assert_eq!(
        (count(JobOutcome::Completed), count(JobOutcome::Retried), count(JobOutcome::Failed)),
        (2, 4, 1)
    );
    let bad = here.get(&bad).await?;
    assert_eq!((bad.status, bad.attempt), (SubmissionStatus::Failed, 5));
    assert_eq!(bad.failure.map(|failure| failure.kind), Some(FailureKind::Panicked));
    for id in good {
        assert_eq!(here.get(&id).await?.status, SubmissionStatus::Completed);
    }
    Ok(())
}

#[tokio::test]
async fn cancelling_a_running_job_stops_it() -> Result<()> {
    let here = Embedded::new()?;
    let id = here.submit(1, Some(WAIT)).await?;
    let engine = OddEngine::default();
    let worker = here.worker(&engine, WorkerConfig { lease: Duration::from_millis(300), ..config(1) })?;
    let cancel = async {
        engine.until(|gate| gate.arrived == 1).await;
        here.store.cancel(&TenantId::default(), &id).await
    };
    let (step, cancelled) = tokio::join!(worker.run_once(), cancel);
    cancelled?.context("the submission is lost")?;
    assert_eq!(step?, Step::Ended(JobOutcome::Cancelled));
    assert_eq!(here.get(&id).await?.status, SubmissionStatus::Cancelled);
    assert_eq!(here.world.results().await?, []);
    Ok(())
}

#[tokio::test]
async fn a_zombie_publishes_nothing_and_the_second_worker_does() -> Result<()> {
    let here = Embedded::new()?;
    let id = here.submit(1, Some(WAIT)).await?;
    let (engine, second_engine) = (OddEngine::default(), OddEngine::default());
    second_engine.open();
    const AGES: Duration = Duration::from_secs(3600);
    // So long a lease that the zombie does not learn of its fate by renewing.
    let zombie = here.worker(&engine, WorkerConfig { lease: AGES, renew: AGES, ..config(1) })?;
    let second = here.worker(&second_engine, config(1))?;
    let takeover = async {
        engine.until(|gate| gate.arrived == 1).await;
        here.clock.advance(Duration::from_secs(3601));
        here.maintenance().tick().await?;
        let mut step = second.run_once().await?;
        while step == Step::Idle {
            here.clock.advance(Duration::from_secs(300));
            here.maintenance().tick().await?;
            step = second.run_once().await?;
        }
        engine.open();
        anyhow::Ok(step)
    };
    let (first, second) = tokio::join!(zombie.run_once(), takeover);
    assert_eq!((first?, second?), (Step::Ended(JobOutcome::Stale), Step::Ended(JobOutcome::Completed)));
    let submission = here.get(&id).await?;
    assert_eq!(here.world.results().await?, [submission.result.context("no result")?]);
    Ok(())
}

#[tokio::test]
async fn what_a_drained_worker_gives_back_is_done_after_the_restart() -> Result<()> {
    let here = Embedded::new()?;
    let id = here.submit(1, Some(WAIT)).await?;
    let engine = OddEngine::default();
    let worker = here.worker(&engine, WorkerConfig { grace: Duration::ZERO, ..config(2) })?;
    let signals = ShutdownSignals::default();
    let drain = async {
        engine.until(|gate| gate.arrived == 1).await;
        signals.drain.cancel();
    };
    let (exit, ()) = tokio::join!(worker.run(signals.clone()), drain);
    exit?;
    drop(worker);
    assert_eq!((here.get(&id).await?.status, here.get(&id).await?.attempt), (SubmissionStatus::Queued, 0));

    let here = here.restarted()?;
    engine.open();
    let worker = here.worker(&engine, config(1))?;
    assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Completed));
    let submission = here.get(&id).await?;
    assert_eq!((submission.status, submission.attempt), (SubmissionStatus::Completed, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_worker_takes_jobs_as_they_come() -> Result<()> {
    let here = Embedded::new()?;
    let worker = Arc::new(here.worker(&OddEngine::default(), config(4))?);
    let signals = ShutdownSignals::default();
    let running = tokio::spawn({
        let (worker, signals) = (worker.clone(), signals.clone());
        async move { worker.run(signals).await }
    });
    for secs in 1..=12 {
        let id = here.submit(secs, None).await?;
        assert!(matches!(here.story(&id).await?.last(), Some(EventKind::Completed)));
    }
    signals.drain.cancel();
    running.await??;
    assert_eq!(here.world.results().await?.len(), 12);
    Ok(())
}
