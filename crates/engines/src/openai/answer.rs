//! What the service heard in a piece, on the time line of the whole audio.

use serde::Deserialize;
use verbatim_core::BadJson;
use verbatim_core::audio::{SAMPLES_PER_MS, SpeechSpan};
use verbatim_core::failure::FailureKind;
use verbatim_core::language::Language;
use verbatim_core::ports::engine::{EngineError, EngineRequest};
use verbatim_core::transcript::{Decoding, Segment, Word};

use crate::http::Answer;

/// Languages that are written without spaces between words.
const UNSPACED: [&str; 7] = ["zh", "ja", "th", "lo", "my", "km", "yue"];
/// Milliseconds in a frame of [`Decoding::seek`].
const FRAME_MS: u64 = 10;

/// What was heard in a piece.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Heard {
    /// Segments with times from the start of the audio; their index counts from 0 in each piece.
    pub(super) segments: Vec<Segment>,
    /// The language, where the service says it.
    pub(super) language: Option<Language>,
}

/// `verbose_json`; `json` has the text alone. Unknown fields are none of our business.
#[derive(Debug, Deserialize)]
struct Body {
    text: String,
    #[serde(default)]
    language: Option<String>,
    #[serde(default)]
    segments: Option<Vec<Piece>>,
    #[serde(default)]
    words: Option<Vec<Timed>>,
}

#[derive(Debug, Deserialize)]
struct Piece {
    start: f64,
    end: f64,
    text: String,
    #[serde(default)]
    seek: Option<u64>,
    #[serde(default)]
    tokens: Option<Vec<u32>>,
    #[serde(default)]
    temperature: Option<f32>,
    #[serde(default)]
    avg_logprob: Option<f32>,
    #[serde(default)]
    compression_ratio: Option<f32>,
    #[serde(default)]
    no_speech_prob: Option<f32>,
}

#[derive(Debug, Deserialize)]
struct Timed {
    word: String,
    start: f64,
    end: f64,
}

/// A piece on the time line.
#[derive(Debug, Clone, Copy)]
struct Span {
    start_ms: u64,
    end_ms: u64,
}

impl Span {
    fn of(piece: SpeechSpan) -> Self {
        Self { start_ms: piece.start / SAMPLES_PER_MS, end_ms: piece.end.div_ceil(SAMPLES_PER_MS) }
    }

    /// Seconds from the start of the piece, as milliseconds from the start of the audio and never outside of the piece:
    /// Whisper likes to end behind the end.
    fn at(self, seconds: f64) -> u64 {
        // A float out of range becomes the nearest integer.
        self.start_ms.saturating_add((seconds * 1000.0).round() as u64).min(self.end_ms)
    }

    fn both(self, start: f64, end: f64) -> (u64, u64) {
        let start = self.at(start);
        (start, self.at(end).max(start))
    }
}

/// Reads an answer of the service.
///
/// # Errors
/// [`FailureKind::EngineFailed`] for what is no transcript.
pub(super) fn read(
    answer: &Answer,
    request: &EngineRequest,
    piece: SpeechSpan,
) -> Result<Heard, EngineError> {
    if !answer.is_json() {
        let message = "the provider answered with something other than a transcript";
        return Err(EngineError::new(FailureKind::EngineFailed, message));
    }
    let body: Body = serde_json::from_slice(&answer.body).map_err(|error| {
        let message = "the provider's answer is cut short or is no transcript";
        EngineError::new(FailureKind::EngineFailed, message).with_source(BadJson::from(error))
    })?;
    let span = Span::of(piece);
    let language = body.language.as_deref().and_then(|name| Language::parse(name).ok());
    let spaced = language.or(request.options.language).is_none_or(|it| !UNSPACED.contains(&it.code()));
    let mut segments: Vec<Segment> =
        body.segments.unwrap_or_default().into_iter().map(|one| one.on(span, spaced)).collect();
    segments.retain(|segment| !segment.text.trim().is_empty());
    if segments.is_empty() && !body.text.trim().is_empty() {
        segments.push(whole(&body.text, request, piece, spaced));
    }
    if let (true, Some(words)) = (request.options.words, body.words) {
        give_words(&mut segments, words.into_iter().map(|word| word.on(span, spaced)));
    }
    Ok(Heard { segments, language })
}

/// With the space that Whisper writes in front of words; some servers trim it, and joined segments would run together.
fn led_by_space(text: String, spaced: bool) -> String {
    if spaced && !text.starts_with(char::is_whitespace) { format!(" {text}") } else { text }
}

impl Piece {
    fn on(self, span: Span, spaced: bool) -> Segment {
        let (start_ms, end_ms) = span.both(self.start, self.end);
        let decoding = || {
            Some(Decoding {
                seek: self.seek? + span.start_ms / FRAME_MS,
                tokens: self.tokens?,
                temperature: self.temperature?,
                avg_logprob: self.avg_logprob?,
                compression_ratio: self.compression_ratio?,
                no_speech_prob: self.no_speech_prob?,
            })
        };
        let decoding = decoding();
        let text = led_by_space(self.text, spaced);
        Segment { index: 0, start_ms, end_ms, text, words: Vec::new(), speaker: None, decoding }
    }
}

impl Timed {
    fn on(self, span: Span, spaced: bool) -> Word {
        let (start_ms, end_ms) = span.both(self.start, self.end);
        // The API gives no figure for words.
        Word { text: led_by_space(self.word, spaced), start_ms, end_ms, probability: 1.0 }
    }
}

/// One segment for a text without times: from the first speech in the piece to the last.
fn whole(text: &str, request: &EngineRequest, piece: SpeechSpan, spaced: bool) -> Segment {
    let spans = request.speech.iter().flatten();
    let within: Vec<&SpeechSpan> =
        spans.filter(|span| span.end > piece.start && span.start < piece.end).collect();
    let start = within.first().map_or(piece.start, |span| span.start.max(piece.start));
    let end = within.last().map_or(piece.end, |span| span.end.min(piece.end));
    let Span { start_ms, end_ms } = Span::of(SpeechSpan { start, end });
    let text = led_by_space(text.trim().to_owned(), spaced);
    Segment { index: 0, start_ms, end_ms, text, words: Vec::new(), speaker: None, decoding: None }
}

/// Gives each word to the segment in which its middle lies, or to the one before the gap that it is in. The order of the
/// words stays.
fn give_words(segments: &mut [Segment], words: impl Iterator<Item = Word>) {
    let mut at = 0;
    for word in words {
        let middle = u64::midpoint(word.start_ms, word.end_ms);
        while segments.get(at + 1).is_some_and(|next| next.start_ms <= middle) {
            at += 1;
        }
        if let Some(segment) = segments.get_mut(at) {
            segment.words.push(word);
        }
    }
}
