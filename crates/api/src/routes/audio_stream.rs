//! `stream=true`: the transcript as OpenAI's transcript events, while it is decoded.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::response::Response;
use axum::response::sse::Event;
use futures::stream;
use serde_json::{Value, json};
use verbatim_core::event::EventKind;
use verbatim_core::places::Place;
use verbatim_core::transcript::{Segment, Transcript};

use crate::error::ApiError;
use crate::problem::OpenAiError;
use crate::routes::audio::{Ticket, Usage, finished};
use crate::routes::events::sse;
use crate::state::ApiState;
use crate::watch::{self, Watch};

/// Streams the submission of `ticket`, holding `place` until the end.
pub(super) fn respond(state: ApiState, ticket: Ticket, place: Place) -> Response {
    let heartbeat = state.limits.heartbeat;
    let watch = Watch::new(&state, ticket.tenant.clone(), ticket.id.clone());
    let telling =
        Telling { state, ticket, watch, deltas: Deltas::default(), ready: VecDeque::new(), over: false };
    let lines = stream::unfold(telling, |mut telling| async {
        let message = telling.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(message.to_string())), telling))
    });
    sse(lines, heartbeat, place)
}

/// One transcript being told.
struct Telling {
    state: ApiState,
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
            Some(kind) if !kind.is_terminal() => {}
            _ => {
                self.ticket.settle();
                let submission = watch::current(&self.state, &self.ticket.tenant, &self.ticket.id).await?;
                let transcript = finished(&self.state, &submission).await?;
                self.ready.extend(self.deltas.rest(&transcript));
                self.over = true;
            }
        }
        Ok(())
    }
}

/// Which segments have been told. An attempt that starts over repeats the first ones; what was said cannot be taken
/// back, so they are passed over, and `transcript.text.done` has the whole text as it ended up.
#[derive(Debug, Default)]
struct Deltas {
    next: u32,
}

impl Deltas {
    fn of(&mut self, segment: &Segment) -> Option<Value> {
        if segment.index < self.next {
            return None;
        }
        let text = if self.next == 0 { segment.text.trim_start() } else { &segment.text };
        self.next = segment.index + 1;
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

    fn segment(index: u32, text: &str) -> Segment {
        Segment {
            index,
            start_ms: 0,
            end_ms: 0,
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
        for index in [0, 1, 0, 1, 2] {
            told.extend(deltas.of(&segments[index]));
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
}
