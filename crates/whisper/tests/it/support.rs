//! What the tests of the engine share: models, speech and an observer that takes notes.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use verbatim_core::CancellationToken;
use verbatim_core::audio::SpeechSpan;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::ports::{EngineError, EngineObserver, EngineRequest, SpeechEngine};
use verbatim_core::transcript::{Segment, Transcript};
use verbatim_whisper::{ModelSource, WhisperConfig, WhisperEngine};

/// The folder of a model that `verbatim models pull` fetched.
pub(crate) fn model(name: &str) -> anyhow::Result<ModelSource> {
    let models = std::env::var_os("VERBATIM_MODELS_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models"), PathBuf::from);
    let folder = models.join(name);
    ensure!(
        folder.join("model.bin").exists(),
        "{} is missing: run `verbatim models pull {name}`, or set VERBATIM_MODELS_DIR",
        folder.display()
    );
    Ok(ModelSource { name: name.to_owned(), folder })
}

/// One copy of each of these models, one job at a time, with a checkpoint after every window.
pub(crate) fn engine(names: &[&str]) -> anyhow::Result<WhisperEngine> {
    batching_engine(names, 1)
}

/// One copy of each of these models, and so many jobs at a time.
pub(crate) fn batching_engine(names: &[&str], jobs: usize) -> anyhow::Result<WhisperEngine> {
    let models = names.iter().map(|name| model(name)).collect::<anyhow::Result<_>>()?;
    let config = WhisperConfig {
        replicas: NonZeroUsize::new(1),
        threads_per_replica: NonZeroUsize::new(1),
        max_batch: NonZeroUsize::new(jobs),
        checkpoint_every: Duration::ZERO,
        ..WhisperConfig::new(models)
    };
    Ok(WhisperEngine::load(&config)?)
}

/// Samples of a 16-bit mono WAV file at 16 kHz.
pub(crate) fn wav(path: &Path) -> anyhow::Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(bytes.len() > 44 && bytes[24..28] == 16_000_u32.to_le_bytes(), "not 16 kHz: {}", path.display());
    let start = bytes.windows(4).position(|four| four == b"data").context("no samples")? + 8;
    Ok(bytes[start..]
        .chunks_exact(2)
        .map(|two| f32::from(i16::from_le_bytes([two[0], two[1]])) / 32_768.0)
        .collect())
}

/// One of the LibriVox utterances of Debian's pocketsphinx-testdata.
pub(crate) fn librivox(number: &str) -> anyhow::Result<Vec<f32>> {
    let folder = Path::new("/usr/share/pocketsphinx/test/data/librivox");
    let file = folder.join(format!("sense_and_sensibility_01_austen_64kb-{number}.wav"));
    wav(&file).context("install Debian's pocketsphinx-testdata")
}

/// Synthesised English.
pub(crate) fn say(text: &str) -> anyhow::Result<Vec<f32>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("speech.wav");
    let status = Command::new("flite").args(["-voice", "slt", "-t", text, "-o"]).arg(&file).status();
    ensure!(status.context("install Debian's flite")?.success(), "flite failed");
    wav(&file)
}

/// Synthesised Spanish.
pub(crate) fn say_in_spanish(text: &str) -> anyhow::Result<Vec<f32>> {
    let folder = tempfile::tempdir()?;
    let (spoken, file) = (folder.path().join("spoken.wav"), folder.path().join("speech.wav"));
    let status =
        Command::new("espeak-ng").args(["-v", "es", "-s", "140", "-w"]).arg(&spoken).arg(text).status();
    ensure!(status.context("install Debian's espeak-ng")?.success(), "espeak-ng failed");
    let convert = ["-v", "error", "-ar", "16000", "-ac", "1", "-c:a", "pcm_s16le"];
    let status = Command::new("ffmpeg").arg("-i").arg(&spoken).args(convert).arg(&file).status();
    ensure!(status.context("install Debian's ffmpeg")?.success(), "ffmpeg failed");
    wav(&file)
}

/// Silence.
pub(crate) fn silence(seconds: f64) -> Vec<f32> {
    vec![0.0; samples(seconds)]
}

/// A tone at 440 Hz.
pub(crate) fn tone(seconds: f64) -> Vec<f32> {
    (0..samples(seconds)).map(|n| 0.5 * (n as f32 * 440.0 / 16_000.0 * std::f32::consts::TAU).sin()).collect()
}

/// White noise, always the same.
pub(crate) fn noise(seconds: f64) -> Vec<f32> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        0.3 * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    std::iter::repeat_with(next).take(samples(seconds)).collect()
}

fn samples(seconds: f64) -> usize {
    (seconds * 16_000.0) as usize
}

/// Takes notes of what an engine reports.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) windows: Mutex<Vec<(u64, Vec<Segment>)>>,
    pub(crate) checkpoints: Mutex<Vec<Checkpoint>>,
    /// Fired after the first window.
    pub(crate) first_window: CancellationToken,
}

impl EngineObserver for Notes {
    fn window_done(&self, position_ms: u64, segments: &[Segment]) {
        self.windows.lock().expect("no test panics here").push((position_ms, segments.to_vec()));
        self.first_window.cancel();
    }

    fn checkpoint(&self, checkpoint: Checkpoint) {
        self.checkpoints.lock().expect("no test panics here").push(checkpoint);
    }
}

/// A request without voice activity.
pub(crate) fn request(audio: Vec<f32>, options: TranscribeOptions) -> EngineRequest {
    EngineRequest::new(Arc::new(audio), options)
}

/// A request for some stretches of the audio, in seconds.
pub(crate) fn request_speech(
    audio: Vec<f32>,
    options: TranscribeOptions,
    speech: &[(f64, f64)],
) -> EngineRequest {
    let span =
        |&(start, end): &(f64, f64)| SpeechSpan { start: samples(start) as u64, end: samples(end) as u64 };
    let spans = speech.iter().map(span).collect();
    EngineRequest { speech: Some(spans), ..request(audio, options) }
}

/// Transcribes without caring for progress.
pub(crate) async fn transcribe(
    engine: &WhisperEngine,
    request: EngineRequest,
) -> Result<Transcript, EngineError> {
    engine.transcribe(request, Arc::new(Notes::default()), CancellationToken::new()).await
}

/// Lower-case words without punctuation.
pub(crate) fn plain(text: &str) -> String {
    let kept: String = text.chars().map(|c| if c.is_alphanumeric() || c == '\'' { c } else { ' ' }).collect();
    kept.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}
