//! One job: window after window, each told what was said before it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use verbatim_core::failure::FailureKind;
use verbatim_core::language::Language;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::ports::{EngineError, EngineObserver, EngineRequest};
use verbatim_core::transcript::{Decoding, Segment, Transcript, Word};
use verbatim_core::{CancellationToken, PortError};

use crate::bpe;
use crate::decode::{Decoded, cancelled_error};
use crate::features::{Features, WINDOW_FRAMES};
use crate::hear::{Heard, Unheard};
use crate::model::{ENGINE, Model};
use crate::pool::{Member, Pool};
use crate::segments::{self, Piece, Window};
use crate::timeline::Timeline;
use crate::vocabulary::{MAX_CONTEXT, TokenId};
use crate::words;

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
    pub(crate) cancel: &'a CancellationToken,
    /// Least time between two checkpoints.
    pub(crate) checkpoint_every: Duration,
}

/// Transcribes a job from its beginning or its checkpoint, on the replicas of `pool`.
///
/// # Errors
/// Those of [`verbatim_core::ports::SpeechEngine::transcribe`].
pub(crate) fn run(
    model: &Arc<Model>,
    pool: &Pool,
    request: &EngineRequest,
    watch: &Watch<'_>,
) -> Result<Transcript, EngineError> {
    let Watch { observer, cancel, checkpoint_every } = *watch;
    let timeline = Timeline::new(Arc::clone(&request.audio), request.speech.as_deref());
    let features = Features::new(&timeline, &model.mel).map_err(unreadable)?;
    let (position, segments) = resume(model, request, &timeline);
    let mut job = Job {
        model,
        member: pool.join(),
        options: &request.options,
        timeline: &timeline,
        duration_ms: request.audio.duration_ms(),
        position,
        segments,
        cancel,
    };
    let mut last_checkpoint = Instant::now();
    while job.position.next < features.frames() {
        if cancel.is_cancelled() {
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

/// As many of the last tokens as fit into a prompt.
fn latest(mut tokens: Vec<TokenId>) -> Vec<TokenId> {
    tokens.drain(..tokens.len().saturating_sub(MAX_CONTEXT));
    tokens
}

/// What checkpoints of this model are marked with.
fn revision(model: &Model) -> String {
    format!("{ENGINE}/{}/{}", model.info.name, model.info.revision)
}

struct Job<'a> {
    model: &'a Arc<Model>,
    member: Member<'a>,
    options: &'a TranscribeOptions,
    timeline: &'a Timeline,
    duration_ms: u64,
    position: Position,
    segments: Vec<Segment>,
    cancel: &'a CancellationToken,
}

impl Job<'_> {
    /// Hears the next window and moves on.
    fn hear_window(&mut self, features: &Features<'_>) -> Result<(), EngineError> {
        let start = self.position.next;
        let window = Window { start, frames: WINDOW_FRAMES.min(features.frames() - start) };
        let end_of_window = window.start + window.frames;
        let Some(values) = features.window(window.start, window.frames).map_err(unreadable)? else {
            self.position.next = end_of_window;
            return Ok(());
        };
        let heard = self.member.hear(Unheard {
            model: Arc::clone(self.model),
            features: values,
            window,
            context: self.position.context.clone(),
            language: self.position.language.map(|(language, _)| language),
            task: self.options.task,
            temperature: self.options.temperature,
            words: self.options.words,
            cancel: self.cancel.clone(),
        })?;
        let Heard { decoded, split, alignment, .. } = heard;
        let (language, _) = *self.position.language.get_or_insert(heard.language);
        if decoded.is_silence() {
            self.position.next = end_of_window;
            return Ok(());
        }
        let (mut pieces, mut next) = (split.pieces, split.next);
        if let Some(alignment) = alignment {
            let last_speech_end = self.position.last_speech_end;
            words::add_times(self.model, language, &alignment, window, &mut pieces, last_speech_end);
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
        self.position.next = if next > window.start { next } else { end_of_window };
        Ok(())
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
        let context = std::mem::take(&mut self.position.context);
        if decoded.temperature <= MAX_PROMPTING_TEMPERATURE {
            self.position.context = latest(context);
        }
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
