//! The events of a job, as Server-Sent Events.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde_json::{Value, json};
use verbatim_admission::Permit;
use verbatim_core::event::{EventKind, JobEvent};
use verbatim_core::render;

use crate::audit::Subject;
use crate::auth::until_revoked;
use crate::dto::{JobError, fraction, rfc3339};
use crate::error::{ApiError, chain};
use crate::extract::{Caller, JobPath, params};
use crate::problem::Problem;
use crate::stages::RequestPermit;
use crate::state::ApiState;
use crate::{story, watch};

/// Watch a job
///
/// Server-Sent Events: `queued`, `started`, `progress`, `segment` as each is decoded, then one of `completed`, `failed` and
/// `cancelled`, after which the stream ends. `Last-Event-ID` resumes; when nothing is left to tell, the answer is 204,
/// which ends an `EventSource`. With each `started` the segments start over, and earlier ones no longer count: a retried job has
/// a new `attempt` then; where another engine took over from one that failed, `started` comes with the same `attempt` once
/// more before the end, and behind it every segment of the transcript.
#[utoipa::path(get, path = "/v1/jobs/{id}/events", tag = "jobs", operation_id = "watch_job",
    params(
        ("id" = String, Path, description = "The job's id"),
        ("Last-Event-ID" = Option<u64>, Header, description = "The id of the last event that was received"),
    ),
    responses(
        (status = 200, description = "Events", body = String, content_type = "text/event-stream",
         example = "id: 3\nevent: segment\ndata: {\"at\":\"2026-01-31T12:00:01.000Z\",\"attempt\":1,\"segment\":{\"id\":0,\"start\":0.0,\"end\":1.5,\"text\":\"Hello there.\"}}\n\n"),
        (status = 204, description = "The job has ended and every event was received"),
        (status = 400, description = "`Last-Event-ID` is none", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such job", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn watch(
    State(state): State<ApiState>,
    caller: Caller,
    permit: RequestPermit,
    subject: Subject,
    JobPath(id): JobPath,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let after = params::last_event_id(&headers)?;
    let submission = watch::current(&state, &caller.principal.tenant, &id).await?;
    let events = story::events(&state, &subject, &caller.principal.tenant, &id, after).await?;
    let events = events.ok_or_else(ApiError::no_such_job)?;
    let mut events = events.peekable();
    if submission.status.is_terminal() && Pin::new(&mut events).peek().await.is_none() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let permit = permit.watch(&state, &caller.holder).await?;
    let words = submission.options.words;
    // After a break of the store's stream the client resumes by itself, with `Last-Event-ID`.
    let lines = events.scan((), move |(), event| {
        ready(match event {
            Ok(event) => Some(Ok::<_, Infallible>(line(&event, words))),
            Err(error) => {
                tracing::warn!(error = %chain(&error), job.id = %id, "an event stream broke");
                None
            }
        })
    });
    let over = {
        let state = state.clone();
        async move {
            tokio::select! {
                () = state.shutdown.cancelled() => {}
                () = until_revoked(state.clone(), caller.key) => {}
            }
        }
    };
    Ok(sse(lines.take_until(Box::pin(over)), state.limits.heartbeat, permit))
}

/// A response of events, with heartbeats, that proxies pass on as they come. Holds `permit` until its end.
pub(crate) fn sse(
    lines: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
    heartbeat: Duration,
    permit: Permit,
) -> Response {
    let lines = lines.inspect(move |_| {
        let _held = &permit;
    });
    let alive = KeepAlive::new().interval(heartbeat).text("heartbeat");
    ([("x-accel-buffering", "no")], Sse::new(lines).keep_alive(alive)).into_response()
}

fn line(event: &JobEvent, words: bool) -> Event {
    Event::default().id(event.seq.0.to_string()).event(event.kind.name()).data(data(event, words).to_string())
}

/// What clients read in `data`.
fn data(event: &JobEvent, words: bool) -> Value {
    let at = rfc3339(event.at);
    match &event.kind {
        EventKind::Queued { attempt } | EventKind::Started { attempt } => {
            json!({ "at": at, "attempt": attempt })
        }
        EventKind::Progress { progress, stage } => {
            json!({ "at": at, "progress": fraction(*progress), "stage": stage.as_str() })
        }
        EventKind::Segment { attempt, segment } => {
            json!({ "at": at, "attempt": attempt, "segment": render::segment(segment, words) })
        }
        // The story puts segments in the place of `Transcribed`.
        EventKind::Transcribed { .. } | EventKind::Completed | EventKind::Cancelled => json!({ "at": at }),
        EventKind::Failed { failure } => {
            json!({ "at": at, "error": JobError { code: failure.kind.code(), message: failure.message.clone() } })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verbatim_core::event::EventSeq;
    use verbatim_core::failure::{FailureKind, JobFailure};
    use verbatim_core::time::Timestamp;
    use verbatim_core::transcript::Segment;

    fn shown(kind: EventKind) -> Value {
        data(&JobEvent { seq: EventSeq(7), at: Timestamp::from_millis(0), kind }, false)
    }

    #[test]
    fn a_segment_reads_as_in_the_transcript() {
        let segment = Segment {
            index: 2,
            start_ms: 1_500,
            end_ms: 2_000,
            text: " Hi.".into(),
            words: Vec::new(),
            speaker: None,
            decoding: None,
        };
        assert_eq!(
            shown(EventKind::Segment { attempt: 1, segment }),
            json!({
                "at": "1970-01-01T00:00:00.000Z", "attempt": 1,
                "segment": {"id": 2, "start": 1.5, "end": 2.0, "text": "Hi."},
            })
        );
    }

    #[test]
    fn a_failure_has_a_code_and_a_message() {
        let failure = JobFailure::new(FailureKind::BadAudio, "no sound in it");
        let shown = shown(EventKind::Failed { failure });
        assert_eq!(shown["error"], json!({"code": "bad_audio", "message": "no sound in it"}));
    }
}
