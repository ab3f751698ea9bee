//! `verbatim transcribe FILE...`: right here, without a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use futures::StreamExt;
use verbatim_core::CancellationToken;
use verbatim_core::audio::AudioLimits;
use verbatim_core::event::Stage;
use verbatim_core::language::Language;
use verbatim_core::options::{Task, TranscribeOptions};
use verbatim_core::ports::engine::{Checkpoint, EngineObserver, SpeechEngine};
use verbatim_core::ports::local_engine::LoadLocalEngine;
use verbatim_core::render::render;
use verbatim_core::transcript::{Segment, Transcript};
use verbatim_worker_lib::{Heard, Pipeline, PipelineConfig, PipelineObserver};

use super::submit::spool_stdin;
use crate::cli::{SpeechArgs, TranscribeArgs};
use crate::config::{Config, LimitsConfig};
use crate::engines::{self, EnginePorts};
use crate::files::{self, Input};
use crate::progress::{Progress, Unit};

/// Transcribes every file, as many at once as the engine can use, and writes the transcripts in the order of the
/// command line.
///
/// # Errors
/// When any file could not be transcribed; the others are all the same.
pub async fn run(
    arguments: &TranscribeArgs,
    config: &Config,
    whisper: Option<LoadLocalEngine>,
) -> anyhow::Result<()> {
    let inputs = files::expand(&arguments.files.files)?;
    let mut config = config.clone();
    if config.whisper.replicas == 0 {
        // More copies than files would only take cores from each other.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        config.whisper.replicas = cores.min(inputs.len());
    }
    let engine: Arc<dyn SpeechEngine> =
        Arc::new(engines::load(&config, whisper, EnginePorts::alone()?).await?);
    let capabilities = engine.capabilities();
    let model = capabilities.models.first().context("the engine offers no model")?;
    let mut options = options(&arguments.speech, &model.name)?;
    options.any_model = capabilities.models.iter().any(|other| other.engine != model.engine);
    if !options.any_model {
        model.check(&options)?;
    }
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let pipeline = Pipeline::new(engine, pipeline_config(&config, scratch.path()))?;

    let many = inputs.len() > 1;
    let mut failures = 0;
    let work = inputs.iter().map(|input| one(&pipeline, input, options.clone(), arguments.quiet));
    let mut transcripts = futures::stream::iter(work).buffered(capabilities.concurrency.max(1));
    for input in &inputs {
        let Some(outcome) = transcripts.next().await else { break };
        let delivered = outcome.and_then(|transcript| {
            let rendered = render(&transcript, arguments.files.format.into(), options.words);
            files::deliver(&arguments.files, input, many, &rendered)
        });
        if let Err(error) = delivered {
            failures += 1;
            eprintln!("{}: {error:#}", input.label());
        }
    }
    if failures > 0 {
        bail!("{failures} of {} could not be transcribed", inputs.len());
    }
    Ok(())
}

/// What surrounds the engine, as configured.
pub fn pipeline_config(config: &Config, scratch: &std::path::Path) -> PipelineConfig {
    PipelineConfig {
        limits: audio_limits(&config.limits),
        vad: verbatim_audio::VadConfig::default(),
        scratch: scratch.to_owned(),
    }
}

/// What audio has to stay within, as configured.
pub fn audio_limits(limits: &LimitsConfig) -> AudioLimits {
    AudioLimits { max_duration_secs: limits.max_audio_secs, ..AudioLimits::default() }
}

fn options(speech: &SpeechArgs, model: &str) -> anyhow::Result<TranscribeOptions> {
    if !(0.0..=1.0).contains(&speech.temperature) {
        bail!("--temperature must lie between 0 and 1");
    }
    Ok(TranscribeOptions {
        language: speech.language.as_deref().map(Language::parse).transpose()?,
        task: if speech.translate { Task::Translate } else { Task::Transcribe },
        prompt: speech.prompt.clone(),
        temperature: speech.temperature,
        words: speech.words,
        vad: !speech.no_vad,
        ..TranscribeOptions::for_model(model)
    })
}

async fn one(
    pipeline: &Pipeline,
    input: &Input,
    options: TranscribeOptions,
    quiet: bool,
) -> anyhow::Result<Transcript> {
    let observer = Arc::new(Shown {
        progress: Progress::new(&input.label(), 1000, Unit::Permille, quiet),
        duration_ms: AtomicU64::new(0),
    });
    let cancel = CancellationToken::new();
    let outcome = match input {
        Input::File(path) => pipeline.transcribe_file(path, options, observer.clone(), cancel).await,
        Input::Stdin => {
            let spooled = spool_stdin()?;
            pipeline.transcribe_file(spooled.path(), options, observer.clone(), cancel).await
        }
    };
    observer.progress.finish();
    let Heard { transcript, findings } = outcome.map_err(|failure| anyhow::anyhow!(failure.message))?;
    for warning in findings.warnings() {
        eprintln!("{}: warning: {}", input.label(), warning.message);
    }
    Ok(transcript)
}

/// Shows progress.
struct Shown {
    progress: Progress,
    duration_ms: AtomicU64,
}

impl EngineObserver for Shown {
    fn window_done(&self, position_ms: u64, _: &[Segment]) {
        let duration = self.duration_ms.load(Ordering::Relaxed).max(1);
        self.progress.set(position_ms.min(duration) * 1000 / duration, 1000);
    }

    fn checkpoint(&self, _: Checkpoint) {}
}

impl PipelineObserver for Shown {
    fn stage(&self, _: Stage) {}

    fn decoded(&self, duration_ms: u64) {
        self.duration_ms.store(duration_ms, Ordering::Relaxed);
    }
}
