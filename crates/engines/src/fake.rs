//! An engine without a model, for load tests and demos: its words follow from the samples alone, and it takes as long
//! as it is told to. It never stands in for another engine.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use verbatim_core::audio::{PcmSource, SAMPLE_RATE, SAMPLES_PER_MS, SpeechSpan};
use verbatim_core::failure::FailureKind;
use verbatim_core::language::Language;
use verbatim_core::model::ModelInfo;
use verbatim_core::ports::engine::{
    Capabilities, Checkpoint, EngineError, EngineObserver, EngineRequest, SpeechEngine,
};
use verbatim_core::transcript::{Segment, Transcript, Word};
use verbatim_core::{CancellationToken, PortError};

/// Its name, and that of its only model.
pub const FAKE: &str = "fake";
/// What its words follow from; changes whenever they do.
const REVISION: &str = "fake-1";
/// Samples heard at once: ten seconds.
const WINDOW: u64 = 10 * SAMPLE_RATE as u64;
/// Windows between checkpoints.
const CHECKPOINT_EVERY: u64 = 6;
const WORDS_PER_SECOND: u64 = 2;
#[rustfmt::skip]
const VOCABULARY: [&str; 32] = [
    "the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "small", "wizards", "box",
    "with", "five", "dozen", "liquor", "jugs", "and", "then", "pack", "my", "bags", "before", "night", "falls", "on",
    "some", "quiet", "northern", "town",
];

/// Which transcriptions fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FakeFailures {
    /// One in so many: the last of each such group.
    pub every: NonZeroU64,
    /// In which way.
    pub kind: FailureKind,
}

/// The engine.
#[derive(Debug)]
pub struct FakeEngine {
    real_time_factor: f64,
    failures: Option<FakeFailures>,
    started: AtomicU64,
}

impl FakeEngine {
    /// An engine that takes `real_time_factor` times the length of the audio and never fails.
    pub fn new(real_time_factor: f64) -> Self {
        Self { real_time_factor: real_time_factor.max(0.0), failures: None, started: AtomicU64::new(0) }
    }

    /// The same engine with failures.
    #[must_use]
    pub fn with_failures(self, failures: FakeFailures) -> Self {
        Self { failures: Some(failures), ..self }
    }

    fn fail_if_due(&self) -> Result<(), EngineError> {
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        match self.failures {
            Some(FakeFailures { every, kind }) if number.is_multiple_of(every.get()) => {
                Err(EngineError::new(kind, "the fake engine was configured to fail now"))
            }
            _ => Ok(()),
        }
    }

    fn window_time(&self, samples: u64) -> Duration {
        let audio = Duration::from_millis(samples / SAMPLES_PER_MS).as_secs_f64();
        Duration::try_from_secs_f64(audio * self.real_time_factor).unwrap_or(Duration::MAX)
    }
}

#[async_trait]
impl SpeechEngine for FakeEngine {
    fn name(&self) -> &str {
        FAKE
    }

    fn capabilities(&self) -> Capabilities {
        let model = ModelInfo {
            name: FAKE.to_owned(),
            engine: FAKE.to_owned(),
            multilingual: true,
            translates: true,
            diarizes: false,
            revision: REVISION.to_owned(),
        };
        Capabilities { models: vec![model], concurrency: 64, max_duration: None }
    }

    async fn transcribe(
        &self,
        request: EngineRequest,
        observer: Arc<dyn EngineObserver>,
        cancel: CancellationToken,
    ) -> Result<Transcript, EngineError> {
        self.fail_if_due()?;
        let EngineRequest { audio, speech, options, resume, .. } = request;
        let (mut position, mut segments) = match resume {
            Some(point) if point.revision == REVISION => (point.position_ms * SAMPLES_PER_MS, point.segments),
            _ => (0, Vec::new()),
        };
        let mut windows = 0;
        while position < audio.len() {
            let window = SpeechSpan { start: position, end: (position + WINDOW).min(audio.len()) };
            tokio::select! {
                () = cancel.cancelled() => return Err(EngineError::new(FailureKind::Cancelled, "cancelled")),
                () = tokio::time::sleep(self.window_time(window.samples())) => {}
            }
            let heard = segments.len();
            if speech.as_ref().is_none_or(|spans| spans.iter().any(|span| overlap(*span, window))) {
                let index = u32::try_from(segments.len()).unwrap_or(u32::MAX);
                segments.push(hear(Arc::clone(&audio), window, index, options.words).await?);
            }
            position = window.end;
            windows += 1;
            observer.window_done(position / SAMPLES_PER_MS, &segments[heard..]);
            if windows % CHECKPOINT_EVERY == 0 && position < audio.len() {
                observer.checkpoint(Checkpoint {
                    revision: REVISION.to_owned(),
                    position_ms: position / SAMPLES_PER_MS,
                    segments: segments.clone(),
                    state: serde_json::Value::Null,
                });
            }
        }
        Ok(Transcript {
            task: options.task,
            language: options.language.unwrap_or(Language::ENGLISH),
            language_probability: 1.0,
            duration_ms: audio.duration_ms(),
            engine: FAKE.to_owned(),
            model: FAKE.to_owned(),
            segments,
        })
    }
}

fn overlap(one: SpeechSpan, other: SpeechSpan) -> bool {
    one.start < other.end && other.start < one.end
}

/// What is "said" in a window. Reading the samples may block on a file.
async fn hear(
    audio: Arc<dyn PcmSource>,
    window: SpeechSpan,
    index: u32,
    words: bool,
) -> Result<Segment, EngineError> {
    let heard = tokio::task::spawn_blocking(move || fingerprint(audio.as_ref(), window)).await;
    let seed = heard
        .map_err(|error| EngineError::new(FailureKind::Internal, "hearing stopped").with_source(error))?
        .map_err(|error| {
            EngineError::new(FailureKind::StorageUnavailable, "the decoded audio cannot be read")
                .with_source(error)
        })?;
    Ok(speak(seed, window, index, words))
}

/// FNV-1a over the samples as 16-bit integers.
fn fingerprint(audio: &dyn PcmSource, window: SpeechSpan) -> Result<u64, PortError> {
    let mut samples = vec![0.0; usize::try_from(window.samples()).unwrap_or(0)];
    let count = audio.read(window.start, &mut samples)?;
    Ok(samples[..count].iter().fold(0xcbf2_9ce4_8422_2325, |hash, sample| {
        // A float out of range becomes the nearest integer.
        let quantised = (sample * 32768.0) as i16;
        (hash ^ u64::from(quantised.cast_unsigned())).wrapping_mul(0x100_0000_01b3)
    }))
}

fn speak(seed: u64, window: SpeechSpan, index: u32, with_words: bool) -> Segment {
    let (start_ms, end_ms) = (window.start / SAMPLES_PER_MS, window.end / SAMPLES_PER_MS);
    let count = ((end_ms - start_ms) * WORDS_PER_SECOND / 1000).max(1);
    let word_ms = (end_ms - start_ms) / count;
    let mut state = seed;
    let words: Vec<Word> = (0..count)
        .map(|place| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let start_ms = start_ms + place * word_ms;
            Word {
                text: format!(" {}", VOCABULARY[(state >> 59) as usize]),
                start_ms,
                end_ms: start_ms + word_ms,
                probability: 1.0,
            }
        })
        .collect();
    let text = words.iter().map(|word| word.text.as_str()).collect();
    let words = if with_words { words } else { Vec::new() };
    Segment { index, start_ms, end_ms, text, words, speaker: None, decoding: None }
}
