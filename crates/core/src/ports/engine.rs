//! The port of a speech engine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::blobs::BlobKey;
use crate::audio::{AudioFormat, PcmSource, SpeechSpan};
use crate::class::Abilities;
use crate::failure::{FailureKind, JobFailure};
use crate::ids::{Fence, JobId, TenantId};
use crate::model::ModelInfo;
use crate::options::TranscribeOptions;
use crate::transcript::{Segment, Transcript};

/// An upload as it arrived, for engines that would rather decode it themselves.
pub trait Upload: Send + Sync {
    /// Its container format; `None` when it was not looked for.
    fn format(&self) -> Option<AudioFormat>;

    /// Its length in bytes.
    fn bytes(&self) -> u64;

    /// Copies bytes from `offset` into `out` and returns how many were copied: none only at the end. May block.
    ///
    /// # Errors
    /// Those of the disk.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> std::io::Result<usize>;
}

/// For whom an engine works: absent when a file is transcribed without a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineJob {
    /// The job.
    pub id: JobId,
    /// The lease under which it is worked on.
    pub fence: Fence,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where the upload lies, for engines that fetch it by URL.
    pub blob: BlobKey,
}

/// Keeps an engine that makes several requests for one piece of work within what its provider allows.
#[async_trait]
pub trait Pace: Send + Sync {
    /// Ends when another request may be made. The first one may be made at once.
    ///
    /// # Errors
    /// [`FailureKind::Throttled`] when that would take too long: what was done so far is better kept in a checkpoint.
    async fn another_request(&self) -> Result<(), EngineError>;
}

/// One piece of work for an engine. Clones share the audio.
#[derive(Clone)]
pub struct EngineRequest {
    /// The job it belongs to.
    pub job: Option<EngineJob>,
    /// The decoded audio.
    pub audio: Arc<dyn PcmSource>,
    /// The upload itself.
    pub upload: Option<Arc<dyn Upload>>,
    /// Where somebody speaks, in order and without overlap; `None` when voice activity was not looked for.
    pub speech: Option<Vec<SpeechSpan>>,
    /// What the client asked for.
    pub options: TranscribeOptions,
    /// Where an earlier worker got to.
    pub resume: Option<Checkpoint>,
    /// Asked before each request to a provider but the first; `None` where nobody counts them.
    pub pace: Option<Arc<dyn Pace>>,
}

impl EngineRequest {
    /// A request outside of any job, from the beginning.
    pub fn new(audio: Arc<dyn PcmSource>, options: TranscribeOptions) -> Self {
        Self { job: None, audio, upload: None, speech: None, options, resume: None, pace: None }
    }
}

/// What an engine needs to go on where another left off. Segments are all that was decoded until then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Name and revision of the engine that wrote it; another one starts over.
    pub revision: String,
    /// Milliseconds of audio that are done.
    pub position_ms: u64,
    /// The segments decoded so far.
    pub segments: Vec<Segment>,
    /// The engine's own notes.
    pub state: serde_json::Value,
}

/// Who wants to know how far an engine is. Called between windows from the engine's own thread; must not block.
pub trait EngineObserver: Send + Sync {
    /// A window is done: `position_ms` of the audio are behind us and `segments` are new.
    fn window_done(&self, position_ms: u64, segments: &[Segment]);

    /// The job has found room, and its work begins and takes at most so long; before that it waited. Said again by each
    /// engine that takes over.
    fn begun(&self, _at_most: Duration) {}

    /// The provider has done so much more work that it bills, however the rest of it ends. An engine that never says so is
    /// billed for all of the audio when it succeeds, and for nothing when it fails.
    fn billed(&self, _audio: Duration) {}

    /// Another engine begins from the start, with other words: what was shown so far no longer counts.
    fn begun_anew(&self) {}

    /// The state from which another worker could go on; called after `window_done`, not after every window.
    fn checkpoint(&self, checkpoint: Checkpoint);

    /// Asked after the work was stopped: whether nobody wants the job any more, so that what was begun elsewhere for it can
    /// be stopped as well. `false` while another worker may go on from the checkpoint.
    fn abandoned(&self) -> bool {
        false
    }
}

/// What an engine can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The models it runs; the first is its default.
    pub models: Vec<ModelInfo>,
    /// How many jobs it can usefully work on at once.
    pub concurrency: usize,
    /// The longest audio it takes; `None` when it does not care.
    pub max_duration: Option<Duration>,
}

/// Why an engine did not deliver a transcript.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// What kind of failure it is, which decides what happens next.
    pub kind: FailureKind,
    /// For the client: what happened and what to do, nothing internal.
    pub message: String,
    /// When the engine asks to be tried again.
    pub retry_after: Option<Duration>,
    /// Whether it says nothing of how well the provider is.
    pub blameless: bool,
    /// What caused it, for the log.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl EngineError {
    /// A failure of `kind` with a message for the client.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, blameless: false, source: None }
    }

    /// The same error with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl From<&EngineError> for JobFailure {
    fn from(error: &EngineError) -> Self {
        Self { kind: error.kind, message: error.message.clone(), retry_after: error.retry_after }
    }
}

/// Turns audio into text.
#[async_trait]
pub trait SpeechEngine: Send + Sync {
    /// The engine's name, as in `engine=whisper`.
    fn name(&self) -> &str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Whether it could do such a job, as far as that can be told without the audio: what it could not is neither fetched nor
    /// decoded in vain.
    ///
    /// # Errors
    /// Those with which [`Self::transcribe`] would refuse.
    fn check(&self, _options: &TranscribeOptions) -> Result<(), EngineError> {
        Ok(())
    }

    /// The classes of jobs that a worker with this engine may be given now: those that [`Self::check`] does not send to
    /// another worker and for which it has something that is not paused.
    async fn abilities(&self) -> Abilities {
        Abilities::all()
    }

    /// Transcribes. Runs on its own threads where it computes; the caller's task only waits. Returns soon (within one
    /// window) after `cancel` fires.
    ///
    /// # Errors
    /// [`FailureKind::Cancelled`] after `cancel`; the other kinds say whether another attempt makes sense.
    async fn transcribe(
        &self,
        request: EngineRequest,
        observer: Arc<dyn EngineObserver>,
        cancel: CancellationToken,
    ) -> Result<Transcript, EngineError>;

    /// Nobody goes on from this checkpoint of its own: what was begun elsewhere for it is to be stopped, as far as that can be
    /// done in a moment.
    async fn abandon(&self, _checkpoint: Checkpoint) {}
}
