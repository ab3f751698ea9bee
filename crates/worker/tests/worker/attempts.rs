//! Single attempts, stepped: what is published, what is reported, and what is left behind.

use std::time::Duration;

use crate::support::engines::{
    ELSEWHERE, HANG, LATE, LATE_BY, LIE, OddEngine, PANIC, QUIET, SPOIL, TAKE_OVER, WAIT,
};
use crate::support::{World, config};
use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use verbatim_core::event::Stage;
use verbatim_core::failure::FailureKind;
use verbatim_core::job::{JobState, Lease, Report};
use verbatim_core::ports::blobs::{BlobKey, BlobMeta, BlobStore, BlobWriter, put_bytes};
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::transcript::Segment;
use verbatim_core::{ErrorKind, PortError};
use verbatim_engines::FakeEngine;
use verbatim_telemetry::metrics::JobOutcome;
use verbatim_worker_lib::{Step, TimeLimit, WorkerConfig};

fn prompt(text: &str) -> impl FnOnce(&mut Lease) {
    let text = text.to_owned();
    move |lease| lease.options.prompt = Some(text)
}

#[tokio::test(start_paused = true)]
async fn a_job_ends_with_its_transcript_published_and_its_segments_reported() -> Result<()> {
    let world = World::new()?;
    let id = world.submit(35).await?;
    let worker = world.worker(FakeEngine::new(0.1), config(1))?;
    assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Completed));
    assert_eq!(worker.run_once().await?, Step::Idle);

    let job = world.leases.job(&id);
    assert_eq!(job.state, JobState::Completed);
    let completion = job.completions.first().context("completed")?;
    assert_eq!((completion.duration_ms, completion.engine.as_str()), (35_000, "fake"));
    assert_eq!(world.results().await?, std::slice::from_ref(&completion.result));
    assert_eq!(completion.result, BlobKey::for_result(&job.lease.token));
    let transcript = world.transcript(&completion.result).await?;
    assert_eq!(transcript.segments.len(), 4);

    let reported: Vec<Segment> = job.reports.iter().flat_map(|report| report.segments.clone()).collect();
    assert_eq!(reported, transcript.segments);
    let progress: Vec<f32> =
        job.reports.iter().filter_map(|report| report.progress.map(|(done, _)| done)).collect();
    assert!(
        progress.len() > 2 && progress.is_sorted() && progress.iter().all(|done| *done < 1.0),
        "{progress:?}"
    );
    let last = job.reports.iter().rev().find_map(|report| report.progress);
    assert_eq!(last.map(|(_, stage)| stage), Some(Stage::Storing));

    assert_eq!(world.metric("verbatim_job_attempts_total{outcome=\"completed\"}")?, 1.0);
    assert_eq!(world.metric("verbatim_audio_seconds_total{engine=\"fake\"}")?, 35.0);
    assert_eq!(world.metric("verbatim_queue_duration_seconds_sum")?, 1000.0);
    assert_eq!(world.metric("verbatim_leases_held")?, 0.0);
    assert_eq!(std::fs::read_dir(world.scratch())?.count(), 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_resumed_job_reports_the_segments_of_the_checkpoint_first() -> Result<()> {
    let world = World::new()?;
    let whole = world.submit(100).await?;
    let worker = world.worker(FakeEngine::new(0.1), config(1))?;
    worker.run_once().await?;
    let first = world.leases.job(&whole);
    let checkpoint: Checkpoint =
        first.reports.iter().find_map(|report| report.checkpoint.clone()).context("no checkpoint")?;
    assert_eq!(checkpoint.segments.len(), 6);

    let usable = checkpoint.clone();
    let resumed = world.submit_with(100, |lease| lease.checkpoint = Some(usable)).await?;
    let foreign = Checkpoint { revision: "another engine".to_owned(), ..checkpoint };
    let restarted = world.submit_with(100, |lease| lease.checkpoint = Some(foreign)).await?;
    worker.run_once().await?;
    worker.run_once().await?;
    for id in [resumed, restarted] {
        let job = world.leases.job(&id);
        let reported: Vec<Segment> = job.reports.iter().flat_map(|report| report.segments.clone()).collect();
        let completion = job.completions.first().context("completed")?;
        assert_eq!(reported, world.transcript(&completion.result).await?.segments);
        assert_eq!(reported.len(), 10);
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_fails_leaves_its_last_checkpoint_behind() -> Result<()> {
    let world = World::new()?;
    let id = world.submit_with(100, prompt(SPOIL)).await?;
    let worker = world.worker(OddEngine::default(), config(1))?;
    assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Retried));
    let reports = world.leases.job(&id).reports;
    let last = reports.iter().rev().find_map(|report| report.checkpoint.clone()).context("no checkpoint")?;
    assert_eq!(last.segments.len(), 6, "what was done just before the failure is not lost");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_segments_of_an_engine_that_reports_nothing_are_reported_at_the_end() -> Result<()> {
    let world = World::new()?;
    let id = world.submit_with(25, prompt(QUIET)).await?;
    world.worker(OddEngine::default(), config(1))?.run_once().await?;
    let job = world.leases.job(&id);
    let reported: Vec<u32> =
        job.reports.iter().flat_map(|report| &report.segments).map(|segment| segment.index).collect();
    assert_eq!((job.state, reported), (JobState::Completed, vec![0, 1, 2]));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_completion_says_what_watchers_were_not_told() -> Result<()> {
    let world = World::new()?;
    let worker = world.worker(OddEngine::default(), config(1))?;
    for (how, retold) in [(TAKE_OVER, true), (QUIET, false)] {
        let id = world.submit_with(25, prompt(how)).await?;
        worker.run_once().await?;
        let job = world.leases.job(&id);
        let completion = job.completions.first().context("completed")?;
        let transcript = world.transcript(&completion.result).await?;
        assert_eq!((completion.segments as usize, completion.retold), (transcript.segments.len(), retold));
    }
    Ok(())
}

/// A store that refuses reports for a while gets every segment once it takes them again, in order.
#[tokio::test(start_paused = true)]
async fn segments_that_were_refused_are_reported_again() -> Result<()> {
    let world = World::new()?;
    world.leases.change(|state| state.reports_to_refuse = 3);
    let id = world.submit(100).await?;
    world.worker(FakeEngine::new(0.1), config(1))?.run_once().await?;
    let job = world.leases.job(&id);
    let completion = job.completions.first().context("completed")?;
    let reported: Vec<Segment> = job.reports.iter().flat_map(|report| report.segments.clone()).collect();
    assert_eq!(reported, world.transcript(&completion.result).await?.segments);
    assert!(!completion.retold && world.leases.state().reports_to_refuse == 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_that_is_tried_again_until_the_attempts_run_out() -> Result<()> {
    let world = World::new()?;
    let id = world.submit_with(1, prompt(PANIC)).await?;
    let worker = world.worker(OddEngine::default(), config(1))?;
    for _ in 0..4 {
        assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Retried));
    }
    assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Failed));
    let job = world.leases.job(&id);
    assert!(job.failures.iter().all(|failure| failure.kind == FailureKind::Panicked));
    assert_eq!(world.metric("verbatim_job_failures_total{kind=\"panicked\"}")?, 5.0);
    assert_eq!(world.results().await?, []);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn cancelling_stops_the_engine_and_ends_the_job() -> Result<()> {
    let world = World::new()?;
    let id = world.submit_with(1, prompt(WAIT)).await?;
    let engine = OddEngine::default();
    let worker = world.worker(engine.clone(), config(1))?;
    let cancel = async {
        engine.until(|gate| gate.arrived == 1).await;
        world.leases.change(|state| {
            state.jobs.values_mut().for_each(|job| job.cancel_requested = true);
        });
    };
    let (step, ()) = tokio::join!(worker.run_once(), cancel);
    assert_eq!(step?, Step::Ended(JobOutcome::Cancelled));
    assert_eq!(world.leases.job(&id).state, JobState::Cancelled);
    assert_eq!(engine.until(|_| true).await.cancelled, 1);
    assert_eq!(world.results().await?, []);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_lease_stops_and_publishes_nothing() -> Result<()> {
    let world = World::new()?;
    let id = world.submit_with(1, prompt(WAIT)).await?;
    let engine = OddEngine::default();
    let worker = world.worker(engine.clone(), config(1))?;
    let begun = tokio::time::Instant::now();
    let take_away = async {
        // When the engine is at work there is nothing more to report, and only the renewal can tell.
        let at_work =
            |report: &Report| report.progress.is_some_and(|(_, stage)| stage == Stage::Transcribing);
        world.leases.until(|state| state.jobs[&id].reports.iter().any(at_work)).await;
        world.leases.take_away(&id);
    };
    let (step, ()) = tokio::join!(worker.run_once(), take_away);
    assert_eq!(step?, Step::Ended(JobOutcome::Stale));
    // At the next renewal.
    assert!(begun.elapsed().as_secs() <= 2, "{:?}", begun.elapsed());
    let job = world.leases.job(&id);
    assert_eq!((job.state, job.failures.len(), job.releases), (JobState::Running, 0, 0));
    assert_eq!(engine.until(|_| true).await.cancelled, 1);
    assert_eq!(world.results().await?, []);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_zombie_that_comes_too_late_takes_its_result_away_again() -> Result<()> {
    let world = World::new()?;
    let id = world.submit(1).await?;
    // Nothing is reported in time, and so the store's refusal to publish is the first that the worker hears of it.
    let blobs = Meddling {
        on_finish: Box::new({
            let (leases, id) = (world.leases.clone(), id.clone());
            move || {
                leases.take_away(&id);
                Ok(())
            }
        }),
        ..Meddling::quiet(&world)
    };
    let world = World { blobs: std::sync::Arc::new(blobs), ..world };
    let worker = world.worker(FakeEngine::new(0.0), config(1))?;
    assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Stale));
    assert_eq!(world.results().await?, []);
    assert_eq!(world.leases.job(&id).completions, []);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_waited_for_with_the_finished_work_in_hand() -> Result<()> {
    let world = World::new()?;
    let id = world.submit_with(1, prompt(WAIT)).await?;
    let engine = OddEngine::default();
    let worker = world.worker(engine.clone(), config(1))?;
    let outage = async {
        engine.until(|gate| gate.arrived == 1).await;
        world.leases.change(|state| state.down = true);
        engine.open();
        // Longer than a lease.
        world.leases.until(|state| state.failed_calls > 20).await;
        world.leases.change(|state| state.down = false);
    };
    let (step, ()) = tokio::join!(worker.run_once(), outage);
    assert_eq!(step?, Step::Ended(JobOutcome::Completed));
    assert_eq!(world.leases.job(&id).completions.len(), 1);
    assert_eq!(engine.until(|_| true).await.arrived, 1);
    Ok(())
}

/// Reports that are refused for a long time are tried ever more rarely: the finish waits for none of these waits.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_full_takes_the_finish_without_the_reports() -> Result<()> {
    let world = World::new()?;
    let id = world.submit_with(1, prompt(WAIT)).await?;
    world.leases.change(|state| state.full = true);
    let engine = OddEngine::default();
    let worker = world.worker(engine.clone(), config(1))?;
    let working = async {
        engine.until(|gate| gate.arrived == 1).await;
        // Until the next try is ten seconds away.
        let tried = world.leases.until(|state| state.failed_calls >= 12).await;
        engine.open();
        (tried.failed_calls, tokio::time::Instant::now())
    };
    let (step, (tried, opened)) = tokio::join!(worker.run_once(), working);
    assert_eq!(step?, Step::Ended(JobOutcome::Completed));
    // A paused clock.
    assert!(opened.elapsed() < Duration::from_secs(1), "the finish waited for {:?}", opened.elapsed());
    let state = world.leases.until(|_| true).await;
    // Three tries each for the report in hand and the last one.
    assert!(state.failed_calls <= tried + 6, "{} reports more were tried", state.failed_calls - tried);
    assert!(state.jobs[&id].reports.is_empty());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_completion_whose_answer_was_lost_stands() -> Result<()> {
    let world = World::new()?;
    let id = world.submit_with(1, prompt(WAIT)).await?;
    let engine = OddEngine::default();
    let worker = world.worker(engine.clone(), config(1))?;
    let outage = async {
        engine.until(|gate| gate.arrived == 1).await;
        world.leases.change(|state| state.deaf = true);
        engine.open();
        world.leases.until(|state| state.all_are(JobState::Completed) && state.renewals > 2).await;
        world.leases.change(|state| state.deaf = false);
    };
    let (step, ()) = tokio::join!(worker.run_once(), outage);
    assert_eq!(step?, Step::Ended(JobOutcome::Completed));
    assert_eq!(world.results().await?, [world.leases.job(&id).completions[0].result.clone()]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_stored_is_a_failure_that_is_tried_again() -> Result<()> {
    let world = World::new()?;
    let id = world.submit(1).await?;
    let full = || Err(PortError::new(ErrorKind::OutOfSpace, "full"));
    let begun = tokio::time::Instant::now();
    let blobs = Meddling { on_finish: Box::new(full), ..Meddling::quiet(&world) };
    let world = World { blobs: std::sync::Arc::new(blobs), ..world };
    let worker = world.worker(FakeEngine::new(0.0), config(1))?;
    assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Retried));
    assert_eq!(world.leases.job(&id).failures[0].kind, FailureKind::StorageUnavailable);
    let waited = begun.elapsed().as_secs();
    assert!((120..=131).contains(&waited), "{waited}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn storage_that_is_down_for_a_while_costs_no_attempt() -> Result<()> {
    let world = World::new()?;
    let id = world.submit(1).await?;
    let down = tokio::time::Instant::now();
    let blobs = Meddling { on_finish: Box::new(outage(down)), ..Meddling::quiet(&world) };
    let world = World { blobs: std::sync::Arc::new(blobs), ..world };
    let worker = world.worker(FakeEngine::new(0.0), config(1))?;
    assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Completed));
    let job = world.leases.job(&id);
    assert_eq!((job.failures.len(), job.completions.len()), (0, 1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn audio_that_cannot_be_read_for_a_while_costs_no_attempt() -> Result<()> {
    let world = World::new()?;
    let id = world.submit(1).await?;
    let down = tokio::time::Instant::now();
    let blobs = Meddling { on_read: Box::new(outage(down)), ..Meddling::quiet(&world) };
    let world = World { blobs: std::sync::Arc::new(blobs), ..world };
    let worker = world.worker(FakeEngine::new(0.0), config(1))?;
    assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Completed));
    assert_eq!(world.leases.job(&id).failures.len(), 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_audio_is_told_and_what_is_missing_may_be_found_by_another() -> Result<()> {
    let world = World::new()?;
    let gone = world.submit(1).await?;
    let broken = world.submit(1).await?;
    world.blobs.delete(&world.leases.job(&gone).lease.blob).await?;
    let blob = world.leases.job(&broken).lease.blob;
    put_bytes(world.blobs.as_ref(), &blob, Bytes::from_static(b"no audio")).await?;
    let worker = world.worker(FakeEngine::new(0.0), config(1))?;
    let ends = [
        (gone, FailureKind::AudioMissing, JobOutcome::Retried),
        (broken, FailureKind::UnsupportedMedia, JobOutcome::Failed),
    ];
    for (id, kind, outcome) in ends {
        assert_eq!(worker.run_once().await?, Step::Ended(outcome));
        assert_eq!(world.leases.job(&id).failures[0].kind, kind);
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_is_timed_out_and_abandoned() -> Result<()> {
    let world = World::new()?;
    let id = world.submit_with(1, prompt(HANG)).await?;
    let time_limit = TimeLimit { base: Duration::from_secs(60), per_audio: 10.0 };
    let config = WorkerConfig { time_limit, ..config(1) };
    let begun = tokio::time::Instant::now();
    assert_eq!(
        world.worker(OddEngine::default(), config)?.run_once().await?,
        Step::Ended(JobOutcome::Retried)
    );
    let took = begun.elapsed().as_secs();
    // The limit for one second of audio, and the engine's time to notice.
    assert!((100..=101).contains(&took), "{took}");
    assert_eq!(world.leases.job(&id).failures[0].kind, FailureKind::TimedOut);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_only_other_workers_can_do_is_not_fetched() -> Result<()> {
    let world = World::new()?;
    let id = world.submit_with(1, prompt(ELSEWHERE)).await?;
    // Fetching it would tell.
    world.blobs.delete(&world.leases.job(&id).lease.blob).await?;
    world.worker(OddEngine::default(), config(1))?.run_once().await?;
    assert_eq!(world.leases.job(&id).failures[0].kind, FailureKind::EngineUnavailable);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn waiting_for_an_engine_is_not_working() -> Result<()> {
    let world = World::new()?;
    let id = world.submit_with(1, prompt(LATE)).await?;
    // Enough for the engine, not for the wait as well.
    let time_limit = TimeLimit { base: LATE_BY, per_audio: 1.0 };
    let worker = world.worker(OddEngine::default(), WorkerConfig { time_limit, ..config(1) })?;
    assert_eq!(worker.run_once().await?, Step::Ended(JobOutcome::Completed));
    assert!(world.leases.job(&id).failures.is_empty());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_says_cancelled_of_its_own_accord_does_not_cancel_the_job() -> Result<()> {
    let world = World::new()?;
    let id = world.submit_with(1, prompt(LIE)).await?;
    let step = world.worker(OddEngine::default(), config(1))?.run_once().await?;
    assert_eq!(step, Step::Ended(JobOutcome::Retried));
    assert_eq!(world.leases.job(&id).failures[0].kind, FailureKind::EngineFailed);
    Ok(())
}

type OnFinish = Box<dyn Fn() -> Result<(), PortError> + Send + Sync>;

/// A blob store in which something happens whenever a blob is finished or read.
struct Meddling {
    inner: std::sync::Arc<dyn BlobStore>,
    on_finish: OnFinish,
    on_read: OnFinish,
}

impl Meddling {
    /// One in which nothing happens yet.
    fn quiet(world: &World) -> Self {
        let inner = world.blobs.clone();
        Self { inner, on_finish: Box::new(|| Ok(())), on_read: Box::new(|| Ok(())) }
    }
}

/// Down for a minute.
fn outage(since: tokio::time::Instant) -> impl Fn() -> Result<(), PortError> + Send + Sync {
    move || match since.elapsed() {
        down if down < Duration::from_secs(60) => Err(PortError::new(ErrorKind::Unavailable, "down")),
        _ => Ok(()),
    }
}

struct Meddler(Box<dyn BlobWriter>, Result<(), PortError>);

#[async_trait]
impl BlobWriter for Meddler {
    async fn write(&mut self, piece: Bytes) -> Result<(), PortError> {
        self.0.write(piece).await
    }

    async fn finish(self: Box<Self>) -> Result<(), PortError> {
        self.1?;
        self.0.finish().await
    }
}

#[async_trait]
impl BlobStore for Meddling {
    async fn put_stream(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, PortError> {
        Ok(Box::new(Meddler(self.inner.put_stream(key).await?, (self.on_finish)())))
    }

    async fn get_stream(
        &self,
        key: &BlobKey,
    ) -> Result<BoxStream<'static, Result<Bytes, PortError>>, PortError> {
        (self.on_read)()?;
        self.inner.get_stream(key).await
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
}
