//! `stream=true`: the transcript as OpenAI's transcript events, while it is decoded.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::response::Response;
use axum::response::sse::Event;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use verbatim_admission::Permit;
use verbatim_core::event::EventKind;
use verbatim_core::ids::KeyId;
use verbatim_core::transcript::{Segment, Transcript};

use crate::audit::Subject;
use crate::auth::until_revoked;
use crate::error::ApiError;
use crate::problem::OpenAiError;
use crate::routes::audio::{Ticket, Usage, finished};
use crate::routes::events::sse;
use crate::state::ApiState;
use crate::watch::{self, Watch};

/// Streams the submission of `ticket`, holding `permit` until the end.
pub(super) fn respond(
    state: ApiState,
    subject: Subject,
    key: Option<KeyId>,
    ticket: Ticket,
    permit: Permit,
) -> Response {
    let (heartbeat, revocable) = (state.limits.heartbeat, state.clone());
    let watch = Watch::new(&state, subject.clone(), ticket.tenant.clone(), ticket.id.clone());
    let telling = Telling {
        state,
        subject,
        ticket,
        watch,
        deltas: Deltas::default(),
        ready: VecDeque::new(),
        over: false,
    };
    let lines = stream::unfold(telling, |mut telling| async {
        let message = telling.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(message.to_string())), telling))
    });
    sse(lines.take_until(Box::pin(until_revoked(revocable, key))), heartbeat, permit)
}

/// One transcript being told.
struct Telling {
    state: ApiState,
    subject: Subject,
    ticket: Ticket,
    watch: Watch,
    deltas: Deltas,
    ready: VecDeque<Value>,
    over: bool,
}

impl Telling {
    /// The next message; `None` after the last.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(message);
            }
            if self.over {
                return None;
            }
            if let Err(error) = self.advance().await {
                self.over = true;
                return serde_json::to_value(OpenAiError::from(&error)).ok();
            }
        }
    }

    async fn advance(&mut self) -> Result<(), ApiError> {
        let event = tokio::select! {
            event = self.watch.next() => event?,
            () = self.state.shutdown.cancelled() => return Err(ApiError::stopping()),
        };
        match event.map(|event| event.kind) {
            Some(EventKind::Segment { segment, .. }) => self.ready.extend(self.deltas.of(&segment)),
            Some(EventKind::Started { .. }) => self.deltas.start_over(),
            Some(kind) if !kind.is_terminal() => {}
            _ => {
                self.ticket.settle();
                let submission = watch::current(&self.state, &self.ticket.tenant, &self.ticket.id).await?;
                let transcript = finished(&self.state, &self.subject, &submission).await?;
                self.ready.extend(self.deltas.rest(&transcript));
                self.over = true;
            }
        }
        Ok(())
    }
}

/// Which segments have been told. What was said cannot be taken back when they start over, maybe cut otherwise by another
/// engine: those that lie, for the greater part, in what was told are passed over, and `transcript.text.done` has the whole
/// text as it ended up.
#[derive(Debug, Default)]
struct Deltas {
    /// The index behind the last one told.
    next: u32,
    /// Where the last of them ends.
    end_ms: u64,
    /// Whether segments have started over since something was told.
    over: bool,
}

impl Deltas {
    fn start_over(&mut self) {
        self.over = self.next > 0;
    }

    fn of(&mut self, segment: &Segment) -> Option<Value> {
        let known = match self.over {
            // A segment may have no length: then its middle is not before its end.
            true => segment.start_ms.midpoint(segment.end_ms) < self.end_ms || segment.end_ms <= self.end_ms,
            false => segment.index < self.next,
        };
        if known {
            return None;
        }
        let text = if self.next == 0 { segment.text.trim_start() } else { &segment.text };
        self.next = segment.index + 1;
        self.end_ms = self.end_ms.max(segment.end_ms);
        Some(json!({ "type": "transcript.text.delta", "delta": text }))
    }

    /// The segments that no event told (the result was cached, say), and the end.
    fn rest(&mut self, transcript: &Transcript) -> Vec<Value> {
        let mut messages: Vec<Value> =
            transcript.segments.iter().filter_map(|segment| self.of(segment)).collect();
        messages.push(json!({
            "type": "transcript.text.done", "text": transcript.text(), "usage": Usage::of(transcript),
        }));
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verbatim_core::language::Language;
    use verbatim_core::options::Task;

    /// A segment of one second.
    fn segment(index: u32, text: &str) -> Segment {
        let start_ms = u64::from(index) * 1000;
        Segment {
            index,
            start_ms,
            end_ms: start_ms + 1000,
            text: text.into(),
            words: Vec::new(),
            speaker: None,
            decoding: None,
        }
    }

    fn texts(messages: &[Value]) -> String {
        messages.iter().filter_map(|message| message["delta"].as_str()).collect()
    }

    #[test]
    fn an_attempt_that_starts_over_repeats_nothing() {
        let segments = [segment(0, " One."), segment(1, " Two."), segment(2, " Three.")];
        let mut deltas = Deltas::default();
        let mut told = Vec::new();
        for attempt in [&segments[..2], &segments] {
            deltas.start_over();
            told.extend(attempt.iter().filter_map(|segment| deltas.of(segment)));
        }
        let transcript = Transcript {
            task: Task::Transcribe,
            language: Language::ENGLISH,
            language_probability: 1.0,
            duration_ms: 1_001,
            engine: "whisper".into(),
            model: "tiny.en".into(),
            segments: segments.to_vec(),
        };
        told.extend(deltas.rest(&transcript));
        assert_eq!(texts(&told), "One. Two. Three.");
        let done = told.last().unwrap();
        assert_eq!(done["text"], "One. Two. Three.");
        assert_eq!(done["usage"], json!({"type": "duration", "seconds": 2}));

        let cached = Deltas::default().rest(&transcript);
        assert_eq!(texts(&cached), "One. Two. Three.");
    }

    #[test]
    fn an_engine_that_cut_the_audio_finer_repeats_nothing() {
        let (mut deltas, mut told) = (Deltas::default(), Vec::new());
        deltas.start_over();
        told.extend(deltas.of(&segment(0, " One.")));
        told.extend(deltas.of(&segment(1, " Two.")));
        deltas.start_over();
        for (index, text) in [" One", " and", " two", " and", " three."].into_iter().enumerate() {
            let start_ms = index as u64 * 500;
            let finer = Segment { start_ms, end_ms: start_ms + 500, ..segment(index as u32, text) };
            told.extend(deltas.of(&finer));
        }
        assert_eq!(texts(&told), "One. Two. three.");
    }
    #[test]
    fn a_segment_without_length_is_not_told_again_with_each_attempt() {
        let (mut deltas, mut told) = (Deltas::default(), Vec::new());
        let empty = Segment { start_ms: 1000, ..segment(1, " Two.") };
        let empty = Segment { end_ms: 1000, ..empty };
        for _attempt in 0..3 {
            deltas.start_over();
            told.extend([segment(0, " One."), empty.clone()].iter().filter_map(|segment| deltas.of(segment)));
        }
        assert_eq!(texts(&told), "One. Two.");
    }
}
