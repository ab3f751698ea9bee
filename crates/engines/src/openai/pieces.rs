//! From piece to piece: where the next one ends, and what was heard so far.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use verbatim_core::CancellationToken;
use verbatim_core::audio::{SAMPLES_PER_MS, SpeechSpan};
use verbatim_core::failure::FailureKind;
use verbatim_core::language::Language;
use verbatim_core::ports::engine::{Checkpoint, EngineError, EngineObserver, EngineRequest};
use verbatim_core::transcript::{Segment, Transcript};

use super::OPENAI;
use super::answer::Heard;
use super::config::SHORTEST_PIECE;
use crate::speech_file::next_piece;

/// What a checkpoint holds besides the segments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Notes {
    /// The language of the first words.
    language: Option<Language>,
}

/// How far a transcription is.
#[derive(Debug)]
pub(super) struct Progress {
    /// Where the next piece begins, in samples: a whole millisecond, or the end.
    position: u64,
    length: u64,
    /// Samples that a piece may hold.
    most: u64,
    revision: String,
    notes: Notes,
    segments: Vec<Segment>,
}

impl Progress {
    /// At the beginning, or where another worker left off with the same model.
    pub(super) fn begin(request: &EngineRequest, revision: &str, most: u64) -> Self {
        let length = request.audio.len();
        let mut progress = Self {
            position: 0,
            length,
            most,
            revision: revision.to_owned(),
            notes: Notes::default(),
            segments: Vec::new(),
        };
        let Some(point) = request.resume.as_ref().filter(|point| point.revision == revision) else {
            return progress;
        };
        if let Ok(notes) = serde_json::from_value(point.state.clone()) {
            progress.notes = notes;
            progress.position = point.position_ms.saturating_mul(SAMPLES_PER_MS).min(length);
            progress.segments.clone_from(&point.segments);
        }
        progress
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the work was stopped, or the audio cannot be read.
    pub(super) async fn next(
        &self,
        request: &EngineRequest,
        cancel: &CancellationToken,
    ) -> Result<Option<SpeechSpan>, EngineError> {
        if cancel.is_cancelled() {
            return Err(EngineError::new(FailureKind::Cancelled, "the work was stopped"));
        }
        if self.position >= self.length {
            return Ok(None);
        }
        let (audio, speech) = (Arc::clone(&request.audio), request.speech.clone());
        let (start, most) = (self.position, self.most);
        let cutting =
            tokio::task::spawn_blocking(move || next_piece(audio.as_ref(), speech.as_deref(), start, most));
        let cut = cutting.await.map_err(|error| {
            EngineError::new(FailureKind::Internal, "cutting the audio stopped").with_source(error)
        })?;
        cut.map(Some).map_err(|error| {
            let message = "the decoded audio cannot be read";
            EngineError::new(FailureKind::StorageUnavailable, message).with_source(error)
        })
    }

    /// Whether somebody may speak in a piece. Where nobody does there is nothing to pay for, and no text for a model to
    /// invent.
    pub(super) fn is_spoken_in(&self, request: &EngineRequest, piece: SpeechSpan) -> bool {
        let spans = request.speech.as_deref();
        spans.is_none_or(|spans| spans.iter().any(|span| span.start < piece.end && piece.start < span.end))
    }

    /// Takes what was heard in a piece, and tells the observer. All but the last piece end with a checkpoint.
    pub(super) fn add(&mut self, piece: SpeechSpan, heard: Heard, observer: &dyn EngineObserver) {
        let first_new = self.segments.len();
        if !heard.segments.is_empty() {
            self.notes.language = self.notes.language.or(heard.language);
        }
        for segment in heard.segments {
            let index = u32::try_from(self.segments.len()).unwrap_or(u32::MAX);
            self.segments.push(Segment { index, ..segment });
        }
        self.position = piece.end;
        let position_ms = piece.end.div_ceil(SAMPLES_PER_MS);
        observer.window_done(position_ms, &self.segments[first_new..]);
        if self.position < self.length {
            observer.checkpoint(Checkpoint {
                revision: self.revision.clone(),
                position_ms,
                segments: self.segments.clone(),
                state: serde_json::to_value(self.notes).unwrap_or_default(),
            });
        }
    }

    /// Cuts shorter pieces from now on; `false` when what was refused is short already.
    pub(super) fn cut_smaller(&mut self, refused: SpeechSpan) -> bool {
        self.most = (refused.samples() / 2).max(SHORTEST_PIECE);
        refused.samples() > SHORTEST_PIECE
    }

    /// The transcript.
    pub(super) fn finish(self, request: &EngineRequest, model: &str) -> Transcript {
        let given = request.options.language;
        let language = given.or(self.notes.language);
        Transcript {
            task: request.options.task,
            language: language.unwrap_or(Language::ENGLISH),
            // The API names a language without saying how sure it is; none was named where this is 0.
            language_probability: if language.is_some() { 1.0 } else { 0.0 },
            duration_ms: request.audio.duration_ms(),
            engine: OPENAI.to_owned(),
            model: model.to_owned(),
            segments: self.segments,
        }
    }
}
