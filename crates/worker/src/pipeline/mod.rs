//! From audio to transcript: decode, find the speech, let an engine hear it. Works without a queue as well.

mod fetch;
mod turn;
mod upload;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::Instrument;
use verbatim_admission::Holder;
use verbatim_audio::{
    AudioError, Conditions, DecodedAudio, ProcessorClock, ThreadClock, VadConfig, decode_under,
    find_speech_at,
};
use verbatim_core::audio::{AudioInfo, AudioLimits, Findings, NoWords, PcmSource, SpeechSpan};
use verbatim_core::class::Abilities;
use verbatim_core::event::Stage;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::blobs::{BlobKey, BlobStore};
use verbatim_core::ports::engine::{
    Checkpoint, EngineJob, EngineObserver, EngineRequest, SpeechEngine, Upload,
};
use verbatim_core::transcript::Transcript;
use verbatim_core::{CancellationToken, PortError};
use verbatim_telemetry::traces;

use turn::Turn;
use upload::UploadFile;

pub(crate) use fetch::Fetched;

use crate::scratch::JobScratch;
use crate::stages::{StageLimits, Stages};

/// What surrounds the engine.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// What protects it from hostile audio.
    pub limits: AudioLimits,
    /// How speech is told from the rest.
    pub vad: VadConfig,
    /// Folder for temporary files; they have no names, so that nothing is left however the process ends.
    pub scratch: PathBuf,
}

/// Who wants to know how far the work is; called from several threads, must not block.
pub trait PipelineObserver: EngineObserver {
    /// The next stage has begun.
    fn stage(&self, stage: Stage);

    /// The audio is decoded; it lasts this long.
    fn decoded(&self, duration_ms: u64);

    /// Decoding goes on after others had their turn.
    fn resumed(&self) {}
}

/// What came of a piece of work.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// What was said.
    pub transcript: Transcript,
    /// What was noticed in the audio.
    pub findings: Findings,
}

/// One piece of work.
pub(crate) struct Work {
    pub(crate) job: Option<EngineJob>,
    pub(crate) options: TranscribeOptions,
    pub(crate) resume: Option<Checkpoint>,
    pub(crate) observer: Arc<dyn PipelineObserver>,
    pub(crate) cancel: CancellationToken,
}

/// Turns audio into transcripts.
#[derive(Clone)]
pub struct Pipeline {
    engine: Arc<dyn SpeechEngine>,
    config: Arc<PipelineConfig>,
    stages: Stages,
    clock: Arc<dyn ProcessorClock>,
}

impl Pipeline {
    /// A pipeline that ends in `engine`. Makes the folder for temporary files where there is none.
    ///
    /// # Errors
    /// When that folder cannot be made.
    pub fn new(engine: Arc<dyn SpeechEngine>, config: PipelineConfig) -> std::io::Result<Self> {
        std::fs::create_dir_all(&config.scratch)?;
        let slots = engine.capabilities().concurrency;
        let stages = Stages::new(StageLimits::default(), slots, 0, &config.scratch, |_| Box::new(()));
        Ok(Self { engine, config: Arc::new(config), stages, clock: Arc::new(ThreadClock) })
    }

    /// The same pipeline with these stages.
    #[must_use]
    pub(crate) fn with_stages(mut self, stages: Stages) -> Self {
        self.stages = stages;
        self
    }

    /// The same pipeline with another clock for the time that decoders take.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn ProcessorClock>) -> Self {
        self.clock = clock;
        self
    }

    /// The folder for temporary files.
    pub(crate) fn scratch(&self) -> &Path {
        &self.config.scratch
    }

    /// Its stages, of which the last is not its own: the result is stored by whoever holds the lease.
    pub(crate) fn stages(&self) -> &Stages {
        &self.stages
    }

    /// Transcribes a file. Stops soon after `cancel` fires.
    ///
    /// # Errors
    /// The failure, with a message for whoever owns the file.
    ///
    /// # Panics
    /// When a decoder panics.
    pub async fn transcribe_file(
        &self,
        path: &Path,
        options: TranscribeOptions,
        observer: Arc<dyn PipelineObserver>,
        cancel: CancellationToken,
    ) -> Result<Heard, JobFailure> {
        let opened = tokio::fs::File::open(path).await;
        let file = opened.map_err(|error| {
            JobFailure::new(FailureKind::AudioMissing, format!("cannot open {}: {error}", path.display()))
        })?;
        let file = file.into_std().await;
        let scratch = fetch::room_for_file(&file, &self.stages, &holder(None))
            .await
            .map_err(|error| no_room(&error))?;
        let fetched = Fetched { file, scratch };
        self.transcribe(fetched, Work { job: None, options, resume: None, observer, cancel }).await
    }

    /// The classes of jobs that the engine can do now.
    pub(crate) async fn abilities(&self) -> Abilities {
        self.engine.abilities().await
    }

    /// Whether the engine could do such a job.
    ///
    /// # Errors
    /// Why it could not.
    pub(crate) fn check(&self, options: &TranscribeOptions) -> Result<(), JobFailure> {
        self.engine.check(options).map_err(|error| JobFailure::from(&error))
    }

    /// The blob as a file, with room for what will be decoded from it.
    ///
    /// # Errors
    /// `NotFound` when it is gone; else what the blobs or the scratch folder say.
    pub(crate) async fn fetch(
        &self,
        blobs: &dyn BlobStore,
        key: &BlobKey,
        audio: &AudioInfo,
        holder: &Holder,
    ) -> Result<Fetched, PortError> {
        fetch::to_file(blobs, key, audio, holder, &self.stages).await
    }

    /// Transcribes an open file.
    ///
    /// # Errors
    /// As [`Self::transcribe_file`].
    pub(crate) async fn transcribe(&self, fetched: Fetched, work: Work) -> Result<Heard, JobFailure> {
        let Work { job, options, resume, observer, cancel } = work;
        let Fetched { file, scratch } = fetched;
        let holder = holder(job.as_ref());
        let permit = self.stages.decode(&holder, &cancel).await?;
        observer.stage(Stage::Decoding);
        let upload = UploadFile::open(&file).map_err(not_read)?;
        let turn = Turn::new(
            self.stages.clone(),
            permit,
            Arc::clone(&self.clock),
            Arc::clone(&observer),
            cancel.clone(),
        );
        let hearing = self.hear(file, options.vad, cancel.clone(), turn, scratch);
        let (audio, speech, scratch) = hearing.instrument(traces::stage("decode")).await?;
        observer.decoded(audio.duration_ms());
        let _permit = self.stages.transcribe(&holder, &cancel).await?;
        observer.stage(Stage::Transcribing);
        let (mut findings, silent) = (audio.findings(), audio.is_silent());
        let no_speech = speech.as_ref().is_some_and(Vec::is_empty);
        let upload: Option<Arc<dyn Upload>> = Some(Arc::new(upload));
        let request =
            EngineRequest { job, upload, speech, resume, ..EngineRequest::new(Arc::new(audio), options) };
        let transcribing = self.engine.transcribe(request, observer, cancel);
        let transcript = transcribing.instrument(traces::stage("transcribe")).await.map_err(|error| {
            if error.kind != FailureKind::Cancelled {
                let source = error.source.as_deref();
                tracing::warn!(kind = error.kind.code(), source, "the engine failed: {error}");
            }
            JobFailure::from(&error)
        })?;
        // The copy of the upload lies there for as long as the engine may read it.
        drop(scratch);
        findings.no_words = match (silent, no_speech) {
            _ if !transcript.text().is_empty() => None,
            (true, _) => Some(NoWords::Silent),
            (false, true) => Some(NoWords::NoSpeech),
            (false, false) => Some(NoWords::NothingHeard),
        };
        Ok(Heard { transcript, findings })
    }

    /// Decodes, and finds the speech when that was asked for, on a thread that may block. The turn is taken until that
    /// thread is done, also when nobody waits for it any more.
    async fn hear(
        &self,
        file: File,
        vad: bool,
        cancel: CancellationToken,
        turn: Turn,
        scratch: JobScratch,
    ) -> Result<(DecodedAudio, Option<Vec<SpeechSpan>>, JobScratch), JobFailure> {
        let (config, clock) = (Arc::clone(&self.config), Arc::clone(&self.clock));
        let heard = tokio::task::spawn_blocking(move || {
            let conditions = Conditions {
                pace: &turn,
                clock: clock.as_ref(),
                ..Conditions::new(&config.limits, &scratch, &cancel)
            };
            let audio = decode_under(file, &conditions)?;
            scratch.settle();
            let speech = if vad { Some(find_speech_at(&audio, &config.vad, &cancel, &turn)?) } else { None };
            Ok((audio, speech, scratch))
        });
        match heard.await {
            Ok(heard) => heard.map_err(|error: AudioError| {
                if let AudioError::Storage(source) = &error {
                    tracing::warn!(error = source as &dyn std::error::Error, "the scratch folder failed");
                }
                JobFailure::from(error)
            }),
            // A panic of the decoder is one of the attempt.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(cancelled()),
            },
        }
    }
}

/// The holder whose share of a stage the work counts for. Work without a job is that of the command line, which has no
/// tenants.
pub(crate) fn holder(job: Option<&EngineJob>) -> Holder {
    Holder::tenant(job.map_or("", |job| job.tenant.as_str()))
}

fn no_room(error: &PortError) -> JobFailure {
    tracing::warn!(%error, "the scratch folder has no room");
    JobFailure::new(FailureKind::StorageUnavailable, "there is no room to decode the audio")
}

fn not_read(error: std::io::Error) -> JobFailure {
    tracing::warn!(%error, "the audio cannot be read where it lies");
    JobFailure::new(FailureKind::StorageUnavailable, "the audio could not be read")
}

fn cancelled() -> JobFailure {
    JobFailure::new(FailureKind::Cancelled, "the work was stopped")
}
