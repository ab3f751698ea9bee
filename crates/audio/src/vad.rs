//! Where somebody speaks.

use earshot::Detector;
use verbatim_core::CancellationToken;
use verbatim_core::audio::{PcmSource, SAMPLE_RATE, SpeechSpan};

use crate::error::AudioError;
use crate::spans::SpanBuilder;

/// Samples that the detector takes at a time: 16 ms.
const FRAME: usize = 256;
/// Frames that are read at a time: four seconds.
const FRAMES_PER_READ: usize = 4 * SAMPLE_RATE as usize / FRAME;

/// When sound counts as speech.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VadConfig {
    /// Score of a frame, 0 to 1, from which on speech begins.
    pub threshold: f32,
    /// Score below which speech ends; between the two it goes on.
    pub release_threshold: f32,
    /// Speech must be longer than this to count, in milliseconds.
    pub min_speech_ms: u32,
    /// Silence must last this long to part speech, in milliseconds.
    pub min_silence_ms: u32,
    /// What is kept before and after speech, in milliseconds.
    pub padding_ms: u32,
}

impl Default for VadConfig {
    fn default() -> Self {
        Self { threshold: 0.5, release_threshold: 0.35, min_speech_ms: 0, min_silence_ms: 2000, padding_ms: 400 }
    }
}

/// Finds the speech in `pcm`: spans in order that do not touch. Reads it once, a few seconds at a time. Blocks.
///
/// # Errors
/// [`AudioError::Cancelled`], and [`AudioError::Storage`] when the samples cannot be read.
pub fn find_speech(
    pcm: &dyn PcmSource,
    config: &VadConfig,
    cancel: &CancellationToken,
) -> Result<Vec<SpeechSpan>, AudioError> {
    let mut detector = Detector::default();
    let mut builder = SpanBuilder::new(config);
    let mut samples = vec![0.0; FRAMES_PER_READ * FRAME];
    let mut at = 0;
    while at < pcm.len() {
        if cancel.is_cancelled() {
            return Err(AudioError::Cancelled);
        }
        let count = pcm.read(at, &mut samples).map_err(AudioError::Storage)?;
        if count == 0 {
            break;
        }
        samples[count..].fill(0.0);
        for frame in samples[..count.next_multiple_of(FRAME)].chunks_exact(FRAME) {
            builder.push(at, detector.predict_f32(frame));
            at += FRAME as u64;
        }
    }
    Ok(builder.finish(pcm.len()))
}
