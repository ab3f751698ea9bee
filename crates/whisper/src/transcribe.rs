//! One job on one replica: window after window, each told what was said before it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ct2rs::sys::{Device, StorageView};
use serde::{Deserialize, Serialize};
use verbatim_core::PortError;
use verbatim_core::failure::FailureKind;
use verbatim_core::language::Language;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::ports::{EngineError, EngineObserver, EngineRequest};
use verbatim_core::transcript::{Decoding, Segment, Transcript, Word};

use crate::bpe;
use crate::decode::{self, Decoded, cancelled_error, failed};
use crate::features::{Features, WINDOW_FRAMES};
use crate::model::{ENGINE, Model};
use crate::segments::{self, Piece, Window};
use crate::timeline::Timeline;
use crate::vocabulary::{MAX_CONTEXT, TokenId};
use crate::words::{self, Spoken};

/// Text decoded at a higher temperature does not prompt the next window: it may be wrong.
const MAX_PROMPTING_TEMPERATURE: f32 = 0.5;

/// Where a job has got to; what a checkpoint keeps besides the segments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Position {
    /// Names the stretches of speech that `next` counts in.
    cut: String,
    /// First mel frame that has not been heard.
    next: usize,
    /// The last tokens said, which prompt the next window.
    context: Vec<TokenId>,
    /// When the last word ended, in seconds of the cut audio.
    last_speech_end: f64,
    /// The language, once it is known, and its probability.
    language: Option<(Language, f32)>,
}

/// Who watches a job, and who may end it.
pub(crate) struct Watch<'a> {
    pub(crate) observer: &'a dyn EngineObserver,
    pub(crate) cancelled: &'a dyn Fn() -> bool,
    /// Least time between two checkpoints.
    pub(crate) checkpoint_every: Duration,
}

/// Transcribes a job from its beginning or its checkpoint.
///
/// # Errors
/// Those of [`verbatim_core::ports::SpeechEngine::transcribe`].
pub(crate) fn run(
    model: &Model,
    request: &EngineRequest,
    watch: &Watch<'_>,
) -> Result<Transcript, EngineError> {
    let Watch { observer, cancelled, checkpoint_every } = *watch;
    let timeline = Timeline::new(Arc::clone(&request.audio), request.speech.as_deref());
    let features = Features::new(&timeline, &model.mel).map_err(unreadable)?;
    let (position, segments) = resume(model, request, &timeline);
    let mut job = Job {
        model,
        options: &request.options,
        timeline: &timeline,
        duration_ms: request.audio.duration_ms(),
        position,
        segments,
        cancelled,
    };
    let mut last_checkpoint = Instant::now();
    while job.position.next < features.frames() {
        if cancelled() {
            return Err(cancelled_error());
        }
        let before = job.segments.len();
        job.hear_window(&features)?;
        observer.window_done(job.position_ms(), &job.segments[before..]);
        if last_checkpoint.elapsed() >= checkpoint_every {
            observer.checkpoint(job.checkpoint()?);
            last_checkpoint = Instant::now();
        }
    }
    Ok(job.transcript())
}

/// Where the checkpoint left off, if it was made by this decoder on these weights and this cut; else the beginning.
fn resume(model: &Model, request: &EngineRequest, timeline: &Timeline) -> (Position, Vec<Segment>) {
    let kept = request.resume.as_ref().filter(|checkpoint| checkpoint.revision == revision(model)).and_then(
        |checkpoint| {
            let position: Position = serde_json::from_value(checkpoint.state.clone()).ok()?;
            (position.cut == timeline.digest()).then(|| (position, checkpoint.segments.clone()))
        },
    );
    kept.unwrap_or_else(|| (beginning(model, &request.options, timeline), Vec::new()))
}

fn beginning(model: &Model, options: &TranscribeOptions, timeline: &Timeline) -> Position {
    let known = if model.info.multilingual { options.language } else { Some(Language::ENGLISH) };
    let prompt = options.prompt.as_deref().map(str::trim).filter(|prompt| !prompt.is_empty());
    Position {
        cut: timeline.digest(),
        next: 0,
        context: prompt
            .map(|prompt| bpe::encode(&model.vocabulary, &format!(" {prompt}")))
            .unwrap_or_default(),
        last_speech_end: 0.0,
        language: known.map(|language| (language, 1.0)),
    }
}

/// What checkpoints of this model are marked with.
fn revision(model: &Model) -> String {
    format!("{ENGINE}/{}/{}", model.info.name, model.info.revision)
}

struct Job<'a> {
    model: &'a Model,
    options: &'a TranscribeOptions,
    timeline: &'a Timeline,
    duration_ms: u64,
    position: Position,
    segments: Vec<Segment>,
    cancelled: &'a dyn Fn() -> bool,
}

impl Job<'_> {
    /// Hears the next window and moves on.
    fn hear_window(&mut self, features: &Features<'_>) -> Result<(), EngineError> {
        let start = self.position.next;
        let window = Window { start, frames: WINDOW_FRAMES.min(features.frames() - start) };
        let Some(mut values) = features.window(window.start, window.frames).map_err(unreadable)? else {
            self.position.next = window.start + window.frames;
            return Ok(());
        };
        let shape = [1, self.model.mel.bins(), WINDOW_FRAMES];
        let input = StorageView::new(&shape, &mut values, Device::CPU).map_err(failed)?;
        let encoded = self.model.whisper.encode(&input, false).map_err(failed)?;

        let language = self.language(&encoded)?;
        let told = self.model.info.multilingual.then_some((language, self.options.task));
        let start_sequence = self.model.vocabulary.start_sequence(told);
        let prompt = self.model.vocabulary.prompt(&self.position.context, &start_sequence);
        let temperatures = decode::temperatures(self.options.temperature);
        let decoded = decode::decode(self.model, &encoded, &prompt, &temperatures, self.cancelled)?;
        if decoded.is_silence() {
            self.position.next = window.start + window.frames;
            return Ok(());
        }

        let split = segments::split(&self.model.vocabulary, &decoded.tokens, window);
        let (mut pieces, mut next) = (split.pieces, split.next);
        if self.options.words {
            let spoken = Spoken { language, start_sequence: &start_sequence };
            let last_speech_end = self.position.last_speech_end;
            words::add_times(self.model, &encoded, window, &spoken, &mut pieces, last_speech_end)?;
            let last_word = pieces.iter().flat_map(|piece| &piece.words).next_back().map(|word| word.end);
            if let Some(end) = last_word {
                if !split.ends_in_silence && end > window.offset() {
                    next = segments::frames(end);
                }
                self.position.last_speech_end = end;
            }
        }
        self.keep(pieces, window, &decoded);
        // Always forward, whatever the timestamps say.
        self.position.next = if next > window.start { next } else { window.start + window.frames };
        Ok(())
    }

    /// The language of the job, heard in its first window when nobody said it.
    fn language(&mut self, encoded: &StorageView) -> Result<Language, EngineError> {
        if let Some((language, _)) = self.position.language {
            return Ok(language);
        }
        let detected = self.model.whisper.detect_language(encoded).map_err(failed)?;
        let best = detected.first().and_then(|ranking| ranking.first()).and_then(|best| {
            let code = best.language.strip_prefix("<|")?.strip_suffix("|>")?;
            Some((Language::parse(code).ok()?, best.probability))
        });
        let (language, probability) = best.ok_or_else(|| failed("CTranslate2 detected no language"))?;
        self.position.language = Some((language, probability));
        Ok(language)
    }

    /// Turns pieces into segments and remembers their tokens.
    fn keep(&mut self, pieces: Vec<Piece>, window: Window, decoded: &Decoded) {
        for piece in pieces {
            let text = self.model.vocabulary.decode(&piece.tokens);
            #[expect(clippy::float_cmp, reason = "equal when they come from the same timestamp")]
            let empty = piece.start == piece.end;
            if empty || text.trim().is_empty() {
                continue;
            }
            self.position.context.extend(&piece.tokens);
            let segment = self.segment(text, piece, window, decoded);
            self.segments.push(segment);
        }
        let context = &mut self.position.context;
        if decoded.temperature > MAX_PROMPTING_TEMPERATURE {
            context.clear();
        }
        context.drain(..context.len().saturating_sub(MAX_CONTEXT));
    }

    fn segment(&self, text: String, piece: Piece, window: Window, decoded: &Decoded) -> Segment {
        let words: Vec<Word> = piece
            .words
            .into_iter()
            .map(|word| {
                let (start, end) = self.timeline.original_word(word.start, word.end);
                let (start_ms, end_ms) = self.millis(start, end);
                Word { text: word.text, start_ms, end_ms, probability: word.probability }
            })
            .collect();
        let (start_ms, end_ms) = match (words.first(), words.last()) {
            (Some(first), Some(last)) => (first.start_ms, last.end_ms),
            _ => self
                .millis(self.timeline.original(piece.start, false), self.timeline.original(piece.end, true)),
        };
        Segment {
            index: u32::try_from(self.segments.len()).unwrap_or(u32::MAX),
            start_ms,
            end_ms,
            text,
            words,
            speaker: None,
            decoding: Some(Decoding {
                seek: segments::frames(self.timeline.original(window.offset(), false)) as u64,
                tokens: piece.tokens,
                temperature: decoded.temperature,
                avg_logprob: decoded.avg_logprob,
                compression_ratio: decoded.compression_ratio,
                no_speech_prob: decoded.no_speech_prob,
            }),
        }
    }

    /// Seconds as milliseconds within the audio; a window is padded to 30 s, and timestamps may lie in the padding.
    fn millis(&self, start: f64, end: f64) -> (u64, u64) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a time within the audio"
        )]
        let millis = |seconds: f64| ((seconds * 1000.0).round() as u64).min(self.duration_ms);
        let start = millis(start);
        (start, millis(end).max(start))
    }

    /// How much of the original audio is behind us.
    fn position_ms(&self) -> u64 {
        let behind = self.timeline.original(segments::seconds(self.position.next), true);
        self.millis(behind, behind).0
    }

    fn checkpoint(&self) -> Result<Checkpoint, EngineError> {
        let state = serde_json::to_value(&self.position).map_err(|error| {
            EngineError::new(FailureKind::Internal, "the transcription could not be saved half-way")
                .with_source(error)
        })?;
        Ok(Checkpoint {
            revision: revision(self.model),
            position_ms: self.position_ms(),
            segments: self.segments.clone(),
            state,
        })
    }

    fn transcript(self) -> Transcript {
        // Nothing was heard and no language was given: English, with no certainty at all.
        let (language, language_probability) = self.position.language.unwrap_or((Language::ENGLISH, 0.0));
        Transcript {
            task: self.options.task,
            language,
            language_probability,
            duration_ms: self.duration_ms,
            engine: ENGINE.to_owned(),
            model: self.model.info.name.clone(),
            segments: self.segments,
        }
    }
}

/// The samples cannot be read.
fn unreadable(error: PortError) -> EngineError {
    EngineError::new(FailureKind::StorageUnavailable, "the decoded audio could not be read")
        .with_source(error)
}
