//! One window into tokens: beam search first, and sampling at rising temperatures when the result looks wrong, as in
//! OpenAI's `decode_with_fallback` and faster-whisper's `generate_with_fallback`.

use std::io::Write;

use ct2rs::sys::{StorageView, WhisperGenerationResult, WhisperOptions};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use verbatim_core::CancellationToken;
use verbatim_core::failure::FailureKind;
use verbatim_core::ports::EngineError;

use crate::model::Model;
use crate::vocabulary::TokenId;

/// Tried in this order when no temperature was asked for.
const TEMPERATURES: [f32; 6] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];
/// A text that compresses better repeats itself.
const MAX_COMPRESSION_RATIO: f32 = 2.4;
/// A text that is less likely per token is noise.
const MIN_AVG_LOGPROB: f32 = -1.0;
/// A window that is more likely silence is silence, if its text is unlikely too.
const MAX_NO_SPEECH_PROB: f32 = 0.6;
/// Beams at temperature 0, and samples to choose from above.
const CANDIDATES: usize = 5;

/// What the decoder made of a window.
#[derive(Debug, Clone)]
pub(crate) struct Decoded {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) temperature: f32,
    pub(crate) avg_logprob: f32,
    pub(crate) compression_ratio: f32,
    pub(crate) no_speech_prob: f32,
}

impl Decoded {
    /// Nobody speaks here, and the text that was decoded is not likely enough to say otherwise.
    pub(crate) fn is_silence(&self) -> bool {
        self.no_speech_prob > MAX_NO_SPEECH_PROB && self.avg_logprob <= MIN_AVG_LOGPROB
    }

    fn is_repetitive(&self) -> bool {
        self.compression_ratio > MAX_COMPRESSION_RATIO
    }

    /// The text repeats itself or is unlikely, and silence does not explain that.
    pub(crate) fn needs_fallback(&self) -> bool {
        let unlikely = self.avg_logprob < MIN_AVG_LOGPROB;
        let silent = unlikely && self.no_speech_prob > MAX_NO_SPEECH_PROB;
        (self.is_repetitive() || unlikely) && !silent
    }
}

/// The temperatures to try: all of them, or just the one that was asked for.
pub(crate) fn temperatures(asked: f32) -> Vec<f32> {
    if asked > 0.0 { vec![asked] } else { TEMPERATURES.to_vec() }
}

/// Decodes a window again, at each of `temperatures` until one will do. When none does, takes the likeliest text, of those
/// that do not repeat themselves if there are any; `first` is what did not do.
///
/// # Errors
/// `EngineFailed` when CTranslate2 fails; `Cancelled` soon after `cancel` fires.
pub(crate) fn fall_back(
    model: &Model,
    encoded: &StorageView,
    prompt: &[TokenId],
    first: Decoded,
    temperatures: &[f32],
    cancel: &CancellationToken,
) -> Result<Decoded, EngineError> {
    let prompts = [prompt.to_vec()];
    let mut last = first.temperature;
    let mut best = first;
    for &temperature in temperatures {
        if cancel.is_cancelled() {
            return Err(cancelled_error());
        }
        let decoded = decode_at(model, encoded, &prompts, temperature)?.swap_remove(0);
        if !decoded.needs_fallback() {
            return Ok(decoded);
        }
        last = temperature;
        let rank = |decoded: &Decoded| (!decoded.is_repetitive(), decoded.avg_logprob);
        if rank(&decoded) > rank(&best) {
            best = decoded;
        }
    }
    // The last temperature, so that such a text does not prompt the next window.
    Ok(Decoded { temperature: last, ..best })
}

/// Decodes windows at one temperature, a text for each prompt.
///
/// # Errors
/// `EngineFailed` when CTranslate2 fails.
pub(crate) fn decode_at(
    model: &Model,
    encoded: &StorageView,
    prompts: &[Vec<TokenId>],
    temperature: f32,
) -> Result<Vec<Decoded>, EngineError> {
    let common = WhisperOptions {
        return_scores: true,
        return_no_speech_prob: true,
        beam_size: CANDIDATES,
        ..WhisperOptions::default()
    };
    let options = if temperature > 0.0 {
        WhisperOptions {
            beam_size: 1,
            num_hypotheses: CANDIDATES,
            sampling_topk: 0,
            sampling_temperature: temperature,
            ..common
        }
    } else {
        common
    };
    let written = |prompt: &Vec<TokenId>| prompt.iter().map(|&id| model.vocabulary.written(id)).collect();
    let written: Vec<Vec<&str>> = prompts.iter().map(written).collect();
    let results = model.whisper().generate(encoded, &written, &options).map_err(failed)?;
    let decoded: Option<Vec<Decoded>> =
        results.into_iter().map(|result| decoded(model, result, temperature)).collect();
    decoded
        .filter(|decoded| decoded.len() == prompts.len())
        .ok_or_else(|| failed("CTranslate2 returned no text for a window"))
}

fn decoded(model: &Model, result: WhisperGenerationResult, temperature: f32) -> Option<Decoded> {
    let ids = result.sequences_ids.into_iter().next()?;
    let tokens: Vec<TokenId> =
        ids.into_iter().map(|id| TokenId::try_from(id).unwrap_or(TokenId::MAX)).collect();
    // The score is the mean over the tokens; Whisper counts the end of the text as one more.
    #[expect(clippy::cast_precision_loss, reason = "at most 448 tokens")]
    let avg_logprob = result.scores.first()? * tokens.len() as f32 / (tokens.len() + 1) as f32;
    let text = model.vocabulary.decode(&tokens);
    Some(Decoded {
        compression_ratio: compression_ratio(text.trim()),
        tokens,
        temperature,
        avg_logprob,
        no_speech_prob: result.no_speech_prob,
    })
}

/// Length of the text over its length when compressed by zlib.
fn compression_ratio(text: &str) -> f32 {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let compressed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    #[expect(clippy::cast_precision_loss, reason = "short texts")]
    compressed.map_or(0.0, |compressed| text.len() as f32 / compressed.len() as f32)
}

/// CTranslate2 failed; another attempt may not.
pub(crate) fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> EngineError {
    EngineError::new(FailureKind::EngineFailed, "the speech model failed").with_source(source)
}

/// The caller does not want the result any more.
pub(crate) fn cancelled_error() -> EngineError {
    EngineError::new(FailureKind::Cancelled, "the transcription was cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(avg_logprob: f32, no_speech_prob: f32, compression_ratio: f32) -> Decoded {
        Decoded { tokens: Vec::new(), temperature: 0.0, avg_logprob, compression_ratio, no_speech_prob }
    }

    #[test]
    fn unlikely_or_repetitive_text_is_tried_again_unless_nobody_speaks() {
        assert!(!decoded(-0.3, 0.1, 1.5).needs_fallback());
        assert!(decoded(-1.2, 0.1, 1.5).needs_fallback());
        assert!(decoded(-0.3, 0.1, 2.5).needs_fallback());
        assert!(!decoded(-1.2, 0.7, 1.5).needs_fallback());
        assert!(decoded(-0.3, 0.7, 2.5).needs_fallback());
    }

    #[test]
    fn silence_is_improbable_text_where_no_speech_is_probable() {
        assert!(decoded(-1.2, 0.7, 1.0).is_silence());
        assert!(!decoded(-0.3, 0.7, 1.0).is_silence());
        assert!(!decoded(-1.2, 0.5, 1.0).is_silence());
    }

    #[test]
    fn repetition_compresses() {
        assert!(compression_ratio(&"and so on ".repeat(20)) > MAX_COMPRESSION_RATIO);
        assert!(compression_ratio("The harbour was quiet before the boats came in.") < 1.5);
        assert_eq!(compression_ratio(""), 0.0);
    }
}
