//! Where somebody speaks.

use earshot::Detector;
use verbatim_core::CancellationToken;
use verbatim_core::audio::{PcmSource, SpeechSpan};

use crate::conditions::Pace;
use crate::error::AudioError;
use crate::loudness::{Gains, for_each_block};
use crate::modulation::Modulation;
use crate::spans::SpanBuilder;

/// Samples that the detector takes at a time: 16 ms.
pub(crate) const FRAME: usize = 256;

/// When sound counts as speech. The defaults rather keep noise than lose words; durations are those of faster-whisper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VadConfig {
    /// Score of a frame, 0 to 1, from which on speech may begin.
    pub threshold: f32,
    /// Score below which it may end; between the two it goes on.
    pub release_threshold: f32,
    /// Score that speech must reach somewhere, while the sound moves by at least `min_modulation_db`.
    pub confirm_threshold: f32,
    /// How far speech goes up and down within two seconds, in decibels.
    pub min_modulation_db: f32,
    /// Speech must be longer than this to count, in milliseconds.
    pub min_speech_ms: u32,
    /// Silence must last this long to part speech, in milliseconds.
    pub min_silence_ms: u32,
    /// What is kept before and after speech, in milliseconds.
    pub padding_ms: u32,
}

impl Default for VadConfig {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            release_threshold: 0.35,
            confirm_threshold: 0.6,
            min_modulation_db: 6.0,
            min_speech_ms: 0,
            min_silence_ms: 2000,
            padding_ms: 400,
        }
    }
}

/// Finds the speech in `pcm`: spans in order that do not touch. Reads it twice, a few seconds at a time. Blocks.
///
/// # Errors
/// [`AudioError::Cancelled`], and [`AudioError::Storage`] when the samples cannot be read.
pub fn find_speech(
    pcm: &dyn PcmSource,
    config: &VadConfig,
    cancel: &CancellationToken,
) -> Result<Vec<SpeechSpan>, AudioError> {
    find_speech_at(pcm, config, cancel, &())
}

/// Finds the speech at the pace of whoever else has something to do; see [`find_speech`].
///
/// # Errors
/// As [`find_speech`].
pub fn find_speech_at(
    pcm: &dyn PcmSource,
    config: &VadConfig,
    cancel: &CancellationToken,
    pace: &dyn Pace,
) -> Result<Vec<SpeechSpan>, AudioError> {
    let gains = Gains::measure(pcm, cancel)?;
    let mut detector = Detector::default();
    let mut modulation = Modulation::new();
    let mut builder = SpanBuilder::new(config);
    for_each_block(pcm, cancel, |start, samples| {
        pace.step();
        for (at, frame) in (start..).step_by(FRAME).zip(samples.chunks_exact_mut(FRAME)) {
            let moves = modulation.push(frame) >= config.min_modulation_db;
            let gain = gains.at(at);
            frame.iter_mut().for_each(|sample| *sample = (*sample * gain).clamp(-1.0, 1.0));
            builder.push(at, detector.predict_f32(frame), moves);
        }
    })?;
    Ok(builder.finish(pcm.len()))
}
