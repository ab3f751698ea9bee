//! Batch transcription: Azure fetches the audio by URL and is asked now and then whether it is done.
//!
//! The operation's address is checkpointed as soon as it is known, so that a worker that takes over polls the same operation
//! and submits nothing. Between Azure's acceptance and the stored checkpoint a crash submits twice: at least once is what
//! we promise. An operation that nobody asks for ends by `timeToLiveHours`.

mod answer;
mod submission;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};
use verbatim_core::CancellationToken;
use verbatim_core::failure::FailureKind;
use verbatim_core::ports::engine::{Checkpoint, EngineError, EngineObserver, EngineRequest};
use verbatim_core::transcript::Transcript;

use self::answer::{Files, Operation, Recognised, Status, heard};
use super::caller::{CallTimeout, Failed, read, unless_cancelled};
use super::failures::{batch_failure, nonsense, unsupported};
use super::transcript::transcript;
use super::{AzureEngine, length_of};

/// Polls in a row that find nothing before the operation is given up for lost: one may come too early.
const LOST_AFTER: u32 = 3;
/// Failed polls in a row before the attempt ends; the next one goes on with the same operation.
const MOST_FAILURES: u32 = 20;
/// The service is polled at least so often, whatever it says.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// Pages of result files that are looked through.
const MOST_PAGES: usize = 10;
/// How long an operation that nobody wants is tried to be removed.
const REMOVAL: Duration = Duration::from_secs(5);

/// The notes in a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
struct Notes {
    operation: String,
}

/// One job that goes through batch transcription.
pub(super) struct Batch<'a> {
    pub(super) engine: &'a AzureEngine,
    pub(super) request: &'a EngineRequest,
    pub(super) observer: &'a dyn EngineObserver,
    pub(super) cancel: &'a CancellationToken,
}

/// What a poll found.
enum Polled {
    Unfinished(Option<Duration>),
    Done(Box<Transcript>),
    Failed(EngineError),
}

/// How an operation ended.
enum Followed {
    Done(Box<Transcript>),
    Failed(EngineError),
    /// Azure does not know it.
    Unknown,
}

/// Whether another operation may succeed where this one failed.
fn may_go_better(error: &EngineError) -> bool {
    !matches!(
        error.kind,
        FailureKind::BadAudio | FailureKind::UnsupportedMedia | FailureKind::UnsupportedOption
    )
}

/// What ended an operation says nothing about how the service is now: whatever it was, the attempt has failed, and the
/// next one submits the audio anew.
fn counted(error: EngineError) -> EngineError {
    match error.kind {
        FailureKind::Throttled | FailureKind::EngineUnavailable => {
            EngineError { kind: FailureKind::EngineFailed, retry_after: None, ..error }
        }
        _ => error,
    }
}

/// The operation that an earlier worker left behind.
pub(super) fn left_behind(engine: &AzureEngine, checkpoint: &Checkpoint) -> Option<Url> {
    if checkpoint.revision != revision(engine) {
        return None;
    }
    let notes = Notes::deserialize(&checkpoint.state).ok()?;
    engine.addresses.ours(&notes.operation)
}

/// Removes an operation that nobody wants any more. Where that fails Azure removes it later.
pub(super) async fn remove(engine: &AzureEngine, operation: &Url) {
    let timeout = CallTimeout { timeout: REMOVAL, cancel: &CancellationToken::new() };
    if let Err(error) = engine.caller.delete(timeout, operation).await {
        tracing::info!(%error, "a batch transcription that nobody wants could not be removed; it expires");
    }
}

/// What a checkpoint must say to be ours: an operation is known only in the region where it was submitted.
fn revision(engine: &AzureEngine) -> String {
    format!("azure-batch/{}/{}", engine.config.api_version, engine.config.region)
}

impl Batch<'_> {
    /// Goes on with `operation`, or submits the audio that lies at `source`, and waits for the transcript.
    pub(super) async fn run(&self, operation: Option<Url>) -> Result<Transcript, EngineError> {
        let current = Mutex::new(operation);
        let limit = self.engine.config.timeouts.batch(length_of(self.request));
        let work = async {
            match tokio::time::timeout(limit, self.work(&current)).await {
                Ok(done) => done,
                Err(_) => Err(EngineError::new(
                    FailureKind::TimedOut,
                    "the batch transcription is not done in time; another attempt goes on waiting for it",
                )),
            }
        };
        let done = unless_cancelled(self.cancel, work).await.flatten();
        if matches!(&done, Err(error) if error.kind == FailureKind::Cancelled) && self.observer.abandoned() {
            let operation = lock(&current).take();
            if let Some(operation) = operation {
                remove(self.engine, &operation).await;
            }
        }
        done
    }

    async fn work(&self, current: &Mutex<Option<Url>>) -> Result<Transcript, EngineError> {
        let known = lock(current).clone();
        if let Some(operation) = known {
            tracing::info!("a batch transcription that was submitted before is polled on");
            match self.follow(&operation).await? {
                Followed::Done(transcript) => return Ok(*transcript),
                // No attempt would ever get more out of it.
                Followed::Failed(error) if may_go_better(&error) => {
                    tracing::warn!(%error, "the batch transcription has failed; the audio is submitted anew");
                }
                Followed::Failed(error) => return Err(error),
                Followed::Unknown => {
                    tracing::warn!(
                        "Azure no longer knows the batch transcription; the audio is submitted anew"
                    );
                }
            }
        }
        let operation = self.submit().await?;
        lock(current).replace(operation.clone());
        self.observer.checkpoint(self.checkpoint(&operation));
        match self.follow(&operation).await? {
            Followed::Done(transcript) => Ok(*transcript),
            Followed::Failed(error) => Err(counted(error)),
            Followed::Unknown => Err(nonsense("a batch transcription that was just submitted is not known")),
        }
    }

    fn checkpoint(&self, operation: &Url) -> Checkpoint {
        let notes = Notes { operation: operation.to_string() };
        Checkpoint {
            revision: revision(self.engine),
            position_ms: 0,
            segments: Vec::new(),
            state: serde_json::json!(notes),
        }
    }

    async fn submit(&self) -> Result<Url, EngineError> {
        let source = self.source().await?.ok_or_else(|| {
            unsupported("the audio has no address from which the speech service could fetch it")
        })?;
        let body = submission::body(self.engine, self.request, &source)?;
        let call = self
            .engine
            .caller
            .call(self.control(), |client| Ok(client.post(self.engine.addresses.submit.clone()).json(&body)));
        let answer = call.await?;
        let location = answer.header(&reqwest::header::LOCATION).map(str::to_owned);
        let location =
            location.or_else(|| read::<Operation>(&answer).ok().and_then(|operation| operation.url));
        location
            .and_then(|location| self.engine.addresses.ours(&location))
            .ok_or_else(|| nonsense("the submission has no `Location`"))
    }

    /// Whether Azure can fetch the upload.
    pub(super) async fn has_source(&self) -> Result<bool, EngineError> {
        self.source().await.map(|source| source.is_some())
    }

    /// A URL under which Azure can fetch the upload; `None` when there is none.
    async fn source(&self) -> Result<Option<String>, EngineError> {
        let (Some(blobs), Some(job)) = (&self.engine.blobs, &self.request.job) else { return Ok(None) };
        let presigned = blobs.presign(&job.blob, self.engine.config.batch.url_ttl).await;
        presigned.map_err(|error| {
            EngineError::new(FailureKind::StorageUnavailable, "the storage gives no address for the audio")
                .with_source(error)
        })
    }

    /// Polls until the transcription ends.
    async fn follow(&self, operation: &Url) -> Result<Followed, EngineError> {
        let batch = self.engine.config.batch;
        let (mut unknown, mut failures) = (0, 0);
        loop {
            let wait = match self.poll(operation).await {
                Ok(Polled::Done(transcript)) => return Ok(Followed::Done(transcript)),
                Ok(Polled::Failed(error)) => return Ok(Followed::Failed(error)),
                Ok(Polled::Unfinished(wait)) => {
                    (unknown, failures) = (0, 0);
                    wait
                }
                Err(Failed { status: Some(404), .. }) => {
                    unknown += 1;
                    if unknown >= LOST_AFTER {
                        return Ok(Followed::Unknown);
                    }
                    None
                }
                Err(failed) => {
                    failures += 1;
                    if !may_pass(&failed) || failures > MOST_FAILURES {
                        return Err(failed.error);
                    }
                    tracing::warn!(error = %failed.error, failures, "a batch transcription cannot be asked for; it is asked again");
                    failed.error.retry_after
                }
            };
            tokio::time::sleep(wait.unwrap_or(batch.poll_every).min(LONGEST_WAIT).max(batch.poll_floor))
                .await;
        }
    }

    async fn poll(&self, operation: &Url) -> Result<Polled, Failed> {
        let answer = self.get(operation).await?;
        let found: Operation = read(&answer)?;
        Ok(match found.status {
            Status::NotStarted | Status::Running => Polled::Unfinished(answer.retry_after()),
            Status::Failed => Polled::Failed(batch_failure(&found.properties.error)),
            Status::Succeeded => {
                let files = found.links.files.as_deref().and_then(|link| self.engine.addresses.ours(link));
                Polled::Done(Box::new(self.result(&files.unwrap_or_else(|| files_of(operation))).await?))
            }
        })
    }

    async fn result(&self, files: &Url) -> Result<Transcript, Failed> {
        let url = self.result_url(files).await?;
        let fetched = self.engine.caller.fetch(self.control(), url).await?;
        let recognised: Recognised = read(&fetched)?;
        let options = &self.request.options;
        let with_channels = submission::hears_channels(self.engine, self.request);
        Ok(transcript(heard(recognised, with_channels), self.request.audio.duration_ms(), options))
    }

    /// Where the transcript lies.
    async fn result_url(&self, files: &Url) -> Result<Url, Failed> {
        let mut page = files.clone();
        for _ in 0..MOST_PAGES {
            let found: Files = read(&self.get(&page).await?)?;
            let result = found.values.into_iter().find(|file| file.kind == "Transcription");
            if let Some(url) = result.and_then(|file| Url::parse(&file.links.content_url).ok()) {
                return Ok(url);
            }
            match found.next.and_then(|next| self.engine.addresses.ours(&next)) {
                Some(next) => page = next,
                None => break,
            }
        }
        Err(nonsense("the batch transcription succeeded and has no result").into())
    }

    async fn get(&self, url: &Url) -> Result<crate::http::Answer, Failed> {
        self.engine.caller.call(self.control(), |client| Ok(client.get(url.clone()))).await
    }

    fn control(&self) -> CallTimeout<'_> {
        CallTimeout { timeout: self.engine.config.timeouts.control, cancel: self.cancel }
    }
}

fn lock(current: &Mutex<Option<Url>>) -> MutexGuard<'_, Option<Url>> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether asking again can help: not when Azure does not let us in.
fn may_pass(failed: &Failed) -> bool {
    let kind = failed.error.kind;
    let refused = matches!(failed.status, Some(401 | 403));
    !refused
        && matches!(
            kind,
            FailureKind::Throttled
                | FailureKind::EngineUnavailable
                | FailureKind::EngineFailed
                | FailureKind::TimedOut
        )
}

/// Where an operation's files are listed unless it says otherwise.
fn files_of(operation: &Url) -> Url {
    let mut files = operation.clone();
    let path = format!("{}/files", operation.path().trim_end_matches('/'));
    files.set_path(&path);
    files
}
