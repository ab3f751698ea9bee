//! What the tests of the engine share: models, speech and an observer that takes notes.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use anyhow::{Context, ensure};
use verbatim_core::CancellationToken;
use verbatim_core::audio::SpeechSpan;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::ports::{EngineError, EngineObserver, EngineRequest, SpeechEngine};
use verbatim_core::transcript::{Segment, Transcript};
use verbatim_whisper::{ModelSource, WhisperConfig, WhisperEngine};

/// The folder of a model that `verbatim models pull` fetched.
pub fn model(name: &str) -> anyhow::Result<ModelSource> {
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

/// An engine with one copy of each of these models.
pub fn engine(names: &[&str]) -> anyhow::Result<WhisperEngine> {
    let models = names.iter().map(|name| model(name)).collect::<anyhow::Result<_>>()?;
    let one = std::num::NonZeroUsize::new(1);
    Ok(WhisperEngine::load(&WhisperConfig { replicas: one, ..WhisperConfig::new(models) })?)
}

/// Samples of a 16-bit mono WAV file at 16 kHz.
pub fn wav(path: &Path) -> anyhow::Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(bytes.len() > 44 && bytes[24..28] == 16_000_u32.to_le_bytes(), "not 16 kHz: {}", path.display());
    let start = bytes.windows(4).position(|four| four == b"data").context("no samples")? + 8;
    Ok(bytes[start..].chunks_exact(2).map(|two| f32::from(i16::from_le_bytes([two[0], two[1]])) / 32_768.0).collect())
}

/// One of the LibriVox utterances of Debian's pocketsphinx-testdata.
pub fn librivox(number: &str) -> anyhow::Result<Vec<f32>> {
    let folder = Path::new("/usr/share/pocketsphinx/test/data/librivox");
    let file = folder.join(format!("sense_and_sensibility_01_austen_64kb-{number}.wav"));
    wav(&file).context("install Debian's pocketsphinx-testdata")
}

/// Synthesised speech.
pub fn say(text: &str) -> anyhow::Result<Vec<f32>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("speech.wav");
    let status = Command::new("flite").args(["-voice", "slt", "-t", text, "-o"]).arg(&file).status();
    ensure!(status.context("install Debian's flite")?.success(), "flite failed");
    wav(&file)
}

/// Silence.
pub fn silence(seconds: f32) -> Vec<f32> {
    vec![0.0; (seconds * 16_000.0) as usize]
}

/// Takes notes of what an engine reports.
#[derive(Default)]
pub struct Notes {
    pub windows: Mutex<Vec<(u64, Vec<Segment>)>>,
    pub checkpoints: Mutex<Vec<Checkpoint>>,
    /// Fired after the first window.
    pub first_window: CancellationToken,
}

impl EngineObserver for Notes {
    fn window_done(&self, position_ms: u64, segments: &[Segment]) {
        self.windows.lock().unwrap().push((position_ms, segments.to_vec()));
        self.first_window.cancel();
    }

    fn checkpoint(&self, checkpoint: Checkpoint) {
        self.checkpoints.lock().unwrap().push(checkpoint);
    }
}

/// A request without voice activity.
pub fn request(audio: Vec<f32>, options: TranscribeOptions) -> EngineRequest {
    EngineRequest { audio: Arc::new(audio), speech: None, options, resume: None }
}

/// A request for some stretches of the audio, in seconds.
pub fn request_speech(audio: Vec<f32>, options: TranscribeOptions, speech: &[(f64, f64)]) -> EngineRequest {
    let sample = |seconds: f64| (seconds * 16_000.0) as u64;
    let spans = speech.iter().map(|&(start, end)| SpeechSpan { start: sample(start), end: sample(end) }).collect();
    EngineRequest { speech: Some(spans), ..request(audio, options) }
}

/// Transcribes without caring for progress.
pub async fn transcribe(engine: &WhisperEngine, request: EngineRequest) -> Result<Transcript, EngineError> {
    engine.transcribe(request, Arc::new(Notes::default()), CancellationToken::new()).await
}

/// Lower-case words without punctuation.
pub fn plain(text: &str) -> String {
    let kept: String = text.chars().map(|c| if c.is_alphanumeric() || c == '\'' { c } else { ' ' }).collect();
    kept.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}
