//! One attempt at a job, from its lease to its finish.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span};
use verbatim_core::audio::Findings;
use verbatim_core::event::Stage;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::job::{Completion, JobState, Lease, LeaseToken};
use verbatim_core::ports::blobs::{BlobKey, BlobStore, get_bytes, put_bytes};
use verbatim_core::ports::engine::EngineJob;
use verbatim_core::ports::jobs::{Finish, MAX_JOBS_PER_CALL};
use verbatim_core::transcript::Transcript;
use verbatim_core::{CancellationToken, ErrorKind, PortError};
use verbatim_telemetry::metrics::JobOutcome;
use verbatim_telemetry::traces;

use crate::config::{TimeLimit, WorkerConfig};
use crate::finish::{Ending, finish};
use crate::held::{Held, StopReason};
use crate::pipeline::{Heard, Pipeline, PipelineObserver, Work, holder};
use crate::report::{Clock, Gatherer, Reporter};
use crate::session::Session;
use crate::storage_retry::StorageRetry;
use crate::worker::WorkerPorts;

/// Longer than any engine lets a job wait for it.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

type Produced = Result<Result<Completion, JobFailure>, JoinError>;

/// What every attempt needs.
#[derive(Clone)]
pub(crate) struct Attempts {
    pub(crate) ports: WorkerPorts,
    pub(crate) pipeline: Pipeline,
    pub(crate) config: Arc<WorkerConfig>,
}

impl Attempts {
    /// Works on the job to the end of the attempt, and gives back what it took: slot, scratch space, renewals. `None`
    /// when the end is unknown.
    pub(crate) async fn run(&self, held: Held, session: &Session) -> Option<JobOutcome> {
        let lease = &held.lease;
        let traced = traces::attempt(lease);
        let span = tracing::info_span!(
            "job",
            job.id = %lease.token.job_id,
            attempt = lease.attempt,
            trace.id = traces::trace_id(&traced),
        );
        async {
            if lease.attempt == 1 {
                let waited = self.ports.clock.now().since(lease.submitted_at);
                self.ports.metrics.queue_seconds.observe(waited.as_secs_f64());
            }
            tracing::info!(fence = lease.token.fence.get(), "job started");
            let begun = Instant::now();
            let (stop, ahead) = (Arc::clone(&held.stop), Some(held.slot.ahead()));
            let gatherer = Arc::new(Gatherer::new(lease.checkpoint.as_ref(), stop, ahead));
            let (ending, outcome) = self.work(&held, &gatherer, &session.hard).await;
            // Before the slot is given back, so that nothing is claimed past a limit.
            session.attempt_ended(gatherer.reach(), &self.config, &self.ports.metrics);
            self.record(ending.as_ref(), outcome, begun.elapsed());
            trace(&traced, lease, ending.as_ref(), outcome);
            outcome
        }
        .instrument(span)
        .instrument(traced.clone())
        .await
    }

    async fn work(
        &self,
        held: &Held,
        gatherer: &Arc<Gatherer>,
        hard: &CancellationToken,
    ) -> (Option<Ending>, Option<JobOutcome>) {
        let reporter = Reporter::start(self.ports.clone(), held, Arc::clone(gatherer));
        let overtime = overtime(self.config.time_limit, gatherer.clock());
        let mut producing = self.produce(held, Arc::clone(gatherer));
        let reason = tokio::select! {
            biased;
            produced = &mut producing => match ending_of(produced) {
                Ending::Complete(completion) => {
                    hard.run_until_cancelled(reporter.finish()).await;
                    return self.complete(held, completion, hard).await;
                }
                ending => match held.stop.reason() {
                    // It failed because it was stopped.
                    Some(reason) => reason,
                    None => {
                        // What was done is worth going on from.
                        hard.run_until_cancelled(reporter.finish()).await;
                        return self.end(held, ending, hard).await;
                    }
                },
            },
            reason = held.stop.stopped() => reason,
            () = hard.cancelled() => StopReason::Released,
            () = overtime => StopReason::TimedOut,
        };
        drop(reporter);
        self.stop(held, reason, overdue(gatherer), producing, hard).await
    }

    /// The pipeline in a task of its own: a panic in it is an answer, and never one of the worker's.
    fn produce(
        &self,
        held: &Held,
        gatherer: Arc<Gatherer>,
    ) -> AbortOnDropHandle<Result<Completion, JobFailure>> {
        let (ports, pipeline) = (self.ports.clone(), self.pipeline.clone());
        let Lease { token, tenant, options, audio, blob, checkpoint, .. } = held.lease.clone();
        let job = EngineJob { id: token.job_id.clone(), fence: token.fence, tenant, blob: blob.clone() };
        let holder = holder(Some(&job));
        let observer: Arc<dyn PipelineObserver> = Arc::clone(&gatherer) as _;
        let cancel = held.stop.token().clone();
        let work = Work { job: Some(job), options, resume: checkpoint, observer, cancel: cancel.clone() };
        let limit = self.config.storage_patience;
        let producing = async move {
            let blobs = ports.blobs.as_ref();
            // What was not begun is better done where the audio can be seen; what is done is worth waiting with.
            let give_up = || blobs.is_lost();
            let fetching = StorageRetry { ids: &ports.ids, limit, cancel: &cancel, give_up: &give_up };
            let retry = StorageRetry { give_up: &|| false, ..fetching };
            pipeline.check(&work.options)?;
            gatherer.stage(Stage::Fetching);
            let fetched = fetching
                .with("fetching the audio", || pipeline.fetch(blobs, &blob, &audio, &holder))
                .instrument(traces::stage("fetch"));
            let fetched = tokio::select! {
                () = cancel.cancelled() => return Err(JobFailure::new(FailureKind::Cancelled, "the work was stopped")),
                fetched = fetched => fetched,
            };
            let Heard { transcript, findings } = match fetched {
                Ok(fetched) => pipeline.transcribe(fetched, work).await?,
                Err(error) => match earlier_transcript(blobs, &token, &error).await {
                    // What was noticed then is gone with the store that knew it.
                    Ok(Some(transcript)) => {
                        ports.metrics.outages.adopted.inc();
                        Heard { transcript, findings: Findings::default() }
                    }
                    Ok(None) => return Err(not_fetched(&blob, &error)),
                    // Whether there is one is not known: nothing is said of the audio.
                    Err(error) => return Err(not_fetched(&blob, &error)),
                },
            };
            let retold = !gatherer.complete(&transcript.segments);
            let segments = u32::try_from(transcript.segments.len()).unwrap_or(u32::MAX);
            let _permit = pipeline.stages().store(&holder, &cancel).await?;
            gatherer.stage(Stage::Storing);
            let json = serde_json::to_vec(&transcript).map_err(|error| {
                tracing::error!(%error, "the transcript could not be written as JSON");
                JobFailure::new(FailureKind::Internal, "the transcript could not be written")
            })?;
            let (result, json) = (result_name(blobs, &blob, &token), Bytes::from(json));
            let stored = retry
                .with("storing the transcript", || put_bytes(blobs, &result, json.clone()))
                .instrument(traces::stage("store"));
            stored.await.map_err(|error| {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the transcript could not be stored"
                );
                JobFailure::new(FailureKind::StorageUnavailable, "the transcript could not be stored")
            })?;
            Ok(Completion {
                result,
                duration_ms: transcript.duration_ms,
                findings,
                engine: transcript.engine,
                model: transcript.model,
                segments,
                retold,
            })
        };
        AbortOnDropHandle::new(tokio::spawn(traces::carried(producing).in_current_span()))
    }

    async fn complete(
        &self,
        held: &Held,
        completion: Completion,
        hard: &CancellationToken,
    ) -> (Option<Ending>, Option<JobOutcome>) {
        let (ending, outcome) = self.end(held, Ending::Complete(completion), hard).await;
        // When the outcome is unknown, the result may have been published: it stays.
        if outcome.is_some_and(|outcome| outcome != JobOutcome::Completed) {
            self.delete_result(held).await;
        }
        (ending, outcome)
    }

    async fn end(
        &self,
        held: &Held,
        ending: Ending,
        hard: &CancellationToken,
    ) -> (Option<Ending>, Option<JobOutcome>) {
        let finishing = finish(&self.ports, &held.lease.token, ending.clone(), hard);
        let finish = finishing.instrument(traces::stage("finish")).await;
        let outcome = finish.map(|finish| outcome(&ending, finish));
        (Some(ending), outcome)
    }

    /// Ends an attempt whose work is not done. The store is told at once; the slot stays taken until the engine has
    /// noticed, so that its threads are not promised twice.
    async fn stop(
        &self,
        held: &Held,
        reason: StopReason,
        overdue: JobFailure,
        mut producing: AbortOnDropHandle<Result<Completion, JobFailure>>,
        hard: &CancellationToken,
    ) -> (Option<Ending>, Option<JobOutcome>) {
        held.stop.stop(reason);
        let ending = match reason {
            StopReason::LeaseLost => None,
            StopReason::Released => Some(Ending::Release),
            StopReason::Cancelled => {
                Some(Ending::Fail(JobFailure::new(FailureKind::Cancelled, "the job was cancelled")))
            }
            StopReason::TimedOut => Some(Ending::Fail(overdue)),
        };
        let (ending, outcome) = match ending {
            None => (None, Some(JobOutcome::Stale)),
            Some(ending) => self.end(held, ending, hard).await,
        };
        if !producing.is_finished() {
            tokio::select! {
                _ = &mut producing => {}
                () = hard.cancelled() => {}
                () = tokio::time::sleep(self.config.stop_patience) => {
                    tracing::error!("the engine did not stop when it was told to; it is abandoned");
                }
            }
        }
        drop(producing);
        self.delete_result(held).await;
        (ending, outcome)
    }

    /// Only this lease writes under this name. What cannot be deleted now is found by the sweep.
    async fn delete_result(&self, held: &Held) {
        let Lease { token, blob, .. } = &held.lease;
        let result = result_name(self.ports.blobs.as_ref(), blob, token);
        if let Err(error) = self.ports.blobs.delete(&result).await {
            tracing::warn!(blob = %result, %error, "an unpublished result could not be deleted");
        }
    }

    fn record(&self, ending: Option<&Ending>, outcome: Option<JobOutcome>, took: Duration) {
        let metrics = &self.ports.metrics;
        let seconds = took.as_secs_f64();
        let Some(outcome) = outcome else {
            tracing::error!(seconds, "job ended, and nobody knows how");
            return;
        };
        metrics.count_attempt(outcome);
        match ending {
            Some(Ending::Complete(done)) if outcome == JobOutcome::Completed => {
                let audio_seconds = Duration::from_millis(done.duration_ms).as_secs_f64();
                let real_time_factor = seconds / audio_seconds.max(0.001);
                let label = [done.engine.as_str()];
                metrics.processing_seconds.with_label_values(&label).observe(seconds);
                metrics.real_time_factor.with_label_values(&label).observe(real_time_factor);
                metrics.audio_seconds.with_label_values(&label).inc_by(audio_seconds);
                tracing::info!(
                    ?outcome,
                    engine = done.engine,
                    seconds,
                    audio_seconds,
                    real_time_factor,
                    "job ended"
                );
            }
            Some(Ending::Fail(failure)) if outcome != JobOutcome::Cancelled => {
                metrics.count_failure(failure.kind);
                tracing::warn!(
                    ?outcome,
                    kind = failure.kind.code(),
                    reason = failure.message,
                    seconds,
                    "job ended"
                );
            }
            _ => tracing::info!(?outcome, seconds, "job ended"),
        }
    }
}

/// The failure of an attempt that takes too long. What takes too long to decode does so because of how it is made, and would
/// again.
fn overdue(gatherer: &Gatherer) -> JobFailure {
    if gatherer.is_decoding() {
        let message = "decoding the audio took too long for its size; export or record it again";
        return JobFailure::new(FailureKind::BadAudio, message);
    }
    JobFailure::new(FailureKind::TimedOut, "the attempt took too long")
}

/// What an attempt's span says of its end.
fn trace(span: &Span, lease: &Lease, ending: Option<&Ending>, outcome: Option<JobOutcome>) {
    let (engine, model) = match ending {
        Some(Ending::Complete(done)) => (&done.engine, &done.model),
        _ => (&lease.options.engine, &lease.options.model),
    };
    traces::worked_with(span, engine, model);
    let failure = match ending {
        Some(Ending::Fail(failure)) if outcome != Some(JobOutcome::Cancelled) => Some(failure.kind),
        _ => None,
    };
    traces::attempted(span, outcome, failure);
}

/// Where the holder of the lease writes its result. A job that a node of before took in may be shown by such a node, which
/// knows results by the names of before only.
fn result_name(blobs: &dyn BlobStore, audio: &BlobKey, token: &LeaseToken) -> BlobKey {
    match audio.store() {
        Some(_) => blobs.result_key(token),
        None => BlobKey::for_result(token),
    }
}

/// The transcript that an earlier attempt at the job stored, where the audio is gone: the job was done, and the job store has
/// come back from before that. Any attempt's is the job's, for all had the same audio and options.
async fn earlier_transcript(
    blobs: &dyn BlobStore,
    token: &LeaseToken,
    error: &PortError,
) -> Result<Option<Transcript>, PortError> {
    if error.kind() != ErrorKind::NotFound {
        return Ok(None);
    }
    for own in [blobs.result_key(token), BlobKey::for_result(token)] {
        let Some((folder, _)) = own.as_str().rsplit_once('/') else { continue };
        let mut found = blobs.list(&format!("{folder}/"), None, MAX_JOBS_PER_CALL).await?;
        found.sort_by_key(|blob| blob.modified_at);
        while let Some(blob) = found.pop() {
            let json = match get_bytes(blobs, &blob.key).await {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                read => read?,
            };
            if let Ok(transcript) = serde_json::from_slice(&json) {
                tracing::warn!(blob = %blob.key, "the audio is gone; the transcript of an earlier attempt is published");
                return Ok(Some(transcript));
            }
        }
    }
    Ok(None)
}

/// Audio that could not be fetched, as the client sees it.
fn not_fetched(blob: &BlobKey, error: &PortError) -> JobFailure {
    if error.kind() == ErrorKind::NotFound {
        return JobFailure::new(FailureKind::AudioMissing, "the uploaded audio is gone; upload it again");
    }
    tracing::warn!(%blob, error = error as &dyn std::error::Error, "audio could not be fetched");
    JobFailure::new(FailureKind::StorageUnavailable, "the uploaded audio could not be read")
}

fn ending_of(produced: Produced) -> Ending {
    match produced {
        Ok(Ok(completion)) => Ending::Complete(completion),
        // Nobody asked for it, and a cancelled job would never be tried again.
        Ok(Err(JobFailure { kind: FailureKind::Cancelled, .. })) => {
            Ending::Fail(JobFailure::new(FailureKind::EngineFailed, "the engine gave up"))
        }
        Ok(Err(failure)) => Ending::Fail(failure),
        Err(error) => {
            tracing::error!(%error, "the work on the job broke down");
            Ending::Fail(JobFailure::new(FailureKind::Panicked, "the work on this audio broke down inside"))
        }
    }
}

fn outcome(ending: &Ending, finish: Finish) -> JobOutcome {
    match finish {
        Finish::Stale => JobOutcome::Stale,
        Finish::Done(JobState::Completed) => JobOutcome::Completed,
        Finish::Done(JobState::Failed) => JobOutcome::Failed,
        Finish::Done(JobState::Cancelled) => JobOutcome::Cancelled,
        Finish::Done(JobState::Queued | JobState::Delayed | JobState::Running) => match ending {
            Ending::Release => JobOutcome::Released,
            Ending::Complete(_) | Ending::Fail(_) => JobOutcome::Retried,
        },
    }
}

/// Ends when the attempt has taken too long: its beginning, or all that follows once the length of the audio is known. The
/// beginning is timed anew when decoding begins and whenever it goes on after others had their turn.
/// That begins anew with each engine that begins, since waiting for one is not working, and is never shorter than the time
/// that the engine has.
async fn overtime(limit: TimeLimit, mut clock: watch::Receiver<Clock>) {
    loop {
        let Clock { duration_ms, engine, .. } = *clock.borrow_and_update();
        let time = match duration_ms {
            None => limit.base,
            // It waits for an engine, which bounds that itself.
            Some(ms) if engine.is_zero() => limit.for_audio(ms).max(LONGEST_WAIT),
            Some(ms) => limit.for_audio(ms),
        };
        match tokio::time::timeout(time.max(engine), clock.changed()).await {
            Ok(Ok(())) => {}
            // The work is over.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}
