//! OpenAI's audio API: the same queue, answered when the job is done.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use verbatim_core::ids::{SubmissionId, TenantId};
use verbatim_core::job::{Submission, SubmissionStatus};
use verbatim_core::language::Language;
use verbatim_core::options::Task;
use verbatim_core::render::{TranscriptFormat, render, usage_secs};
use verbatim_core::transcript::Transcript;

use crate::audit::Subject;
use crate::error::{ApiError, chain};
use crate::extract::Caller;
use crate::extract::form::{self, Fields};
use crate::openapi::{TranscriptionForm, TranslationForm};
use crate::options::{JobRequest, bad_value, flag, granularities};
use crate::problem::{ApiStyle, OpenAiError};
use crate::routes::audio_stream;
use crate::stages::RequestPermit;
use crate::state::ApiState;
use crate::submit::submit;
use crate::{result, served, watch};

/// What these routes look at; everything else is accepted and ignored.
const FIELDS: [&str; 8] = [
    "file",
    "model",
    "language",
    "prompt",
    "response_format",
    "temperature",
    "timestamp_granularities",
    "stream",
];
/// OpenAI's formats: ours without `tsv`.
const FORMATS: [TranscriptFormat; 5] = [
    TranscriptFormat::Json,
    TranscriptFormat::Text,
    TranscriptFormat::Srt,
    TranscriptFormat::VerboseJson,
    TranscriptFormat::Vtt,
];

/// What was used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Always `duration`.
    #[serde(rename = "type")]
    #[schema(example = "duration")]
    kind: &'static str,
    /// Seconds of audio, rounded up.
    #[schema(example = 17)]
    seconds: u64,
}

impl Usage {
    /// For audio of this length.
    pub(crate) fn of(transcript: &Transcript) -> Self {
        Self { kind: "duration", seconds: usage_secs(transcript.duration_ms) }
    }
}

/// The answer in format `json`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Transcription {
    /// The words.
    #[schema(example = "Hello there.")]
    text: String,
    /// What was used.
    usage: Usage,
}

/// How the client wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    format: TranscriptFormat,
    words: bool,
    stream: bool,
}

impl Answer {
    fn parse(fields: &Fields) -> Result<Self, ApiError> {
        let format = match fields.one("response_format")? {
            None => TranscriptFormat::Json,
            Some(name) => {
                TranscriptFormat::parse(name).filter(|format| FORMATS.contains(format)).ok_or_else(|| {
                    bad_value("response_format", name, FORMATS.map(TranscriptFormat::as_str).join(", "))
                })?
            }
        };
        let words = granularities(fields)?.words;
        if words && format != TranscriptFormat::VerboseJson {
            return Err(ApiError::invalid(
                "invalid_option",
                "timestamp_granularities",
                "word timestamps need `response_format` to be `verbose_json`",
            ));
        }
        Ok(Self { format, words, stream: flag(fields, "stream")?.unwrap_or(false) })
    }
}

/// Transcribe
///
/// As OpenAI's API has it: the answer comes when the work is done, or piece by piece with `stream=true`. A client that
/// goes away cancels its request after a minute; one that repeats it before then joins the work under way. Fields
/// that are not listed are accepted and ignored.
#[utoipa::path(post, path = "/v1/audio/transcriptions", tag = "openai", operation_id = "create_transcription",
    request_body(content = TranscriptionForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The transcript in the format asked for", content(
            (Transcription = "application/json"), (String = "text/plain"), (String = "application/x-subrip"),
            (String = "text/vtt"), (String = "text/event-stream"),
        )),
        (status = 400, description = "A field is wrong, or the audio cannot be decoded", body = OpenAiError),
        (status = 404, description = "`model_not_found`", body = OpenAiError),
        (status = 413, description = "`too_large`", body = OpenAiError),
        (status = 415, description = "`unsupported_media`", body = OpenAiError),
        (status = 422, description = "`empty_audio`, `bad_audio` or `audio_too_long`", body = OpenAiError),
        (status = 429, description = "Too many requests; see `Retry-After`", body = OpenAiError),
        (status = 500, description = "The work failed", body = OpenAiError),
        (status = 503, description = "A dependency is down, no worker there can do it (`no_workers`), or the service is stopping; see `Retry-After`", body = OpenAiError),
        (status = 507, description = "`out_of_space`: nothing was stored; see `Retry-After`", body = OpenAiError),
    ))]
pub(crate) async fn transcribe(
    State(state): State<ApiState>,
    caller: Caller,
    subject: Subject,
    permit: RequestPermit,
    request: Request,
) -> Result<Response, ApiError> {
    answer(state, caller, subject, permit, request, Task::Transcribe).await
}

/// Translate into English
///
/// Needs a multilingual model. As OpenAI's API has it.
#[utoipa::path(post, path = "/v1/audio/translations", tag = "openai", operation_id = "create_translation",
    request_body(content = TranslationForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The translation in the format asked for", content(
            (Transcription = "application/json"), (String = "text/plain"), (String = "application/x-subrip"),
            (String = "text/vtt"),
        )),
        (status = 400, description = "A field is wrong, the model cannot translate, or the audio cannot be decoded", body = OpenAiError),
        (status = 404, description = "`model_not_found`", body = OpenAiError),
        (status = 413, description = "`too_large`", body = OpenAiError),
        (status = 415, description = "`unsupported_media`", body = OpenAiError),
        (status = 422, description = "`empty_audio`, `bad_audio` or `audio_too_long`", body = OpenAiError),
        (status = 429, description = "Too many requests; see `Retry-After`", body = OpenAiError),
        (status = 500, description = "The work failed", body = OpenAiError),
        (status = 503, description = "A dependency is down, no worker there can do it (`no_workers`), or the service is stopping; see `Retry-After`", body = OpenAiError),
        (status = 507, description = "`out_of_space`: nothing was stored; see `Retry-After`", body = OpenAiError),
    ))]
pub(crate) async fn translate(
    State(state): State<ApiState>,
    caller: Caller,
    subject: Subject,
    permit: RequestPermit,
    request: Request,
) -> Result<Response, ApiError> {
    answer(state, caller, subject, permit, request, Task::Translate).await
}

async fn answer(
    state: ApiState,
    caller: Caller,
    subject: Subject,
    permit: RequestPermit,
    request: Request,
    task: Task,
) -> Result<Response, ApiError> {
    let models = state.offered()?;
    let form = form::read(&state, request, ApiStyle::OpenAi, &FIELDS).await?;
    let answer = Answer::parse(&form.fields)?;
    let job = JobRequest::openai(&form.fields, &models, task, answer.words)?;
    let work = {
        let (state, principal) = (state.clone(), caller.principal.clone());
        async move {
            let submission = submit(state.clone(), principal, job, form.audio, None).await?.submission;
            if let Some(why) = served::hindrance(&state, &models, &submission).await? {
                // Somebody waits for the answer, and nobody can give it. What others asked for goes on waiting.
                state.jobs.cancel(&submission.tenant, &submission.id).await?;
                return Err(ApiError::unserved(why));
            }
            Ok(Ticket::new(state, submission))
        }
    };
    let mut ticket = state.see_through(work).await?;
    subject.set_job(&ticket.id);
    let waiting = permit.watch(&state, &caller.holder).await?;
    if answer.stream {
        return Ok(audio_stream::respond(state, subject, caller.key, ticket, waiting));
    }
    let submission = tokio::select! {
        submission = watch::ended(&state, &ticket.tenant, &ticket.id) => submission?,
        () = state.shutdown.cancelled() => return Err(ApiError::stopping()),
    };
    ticket.settle();
    let transcript = finished(&state, &subject, &submission).await?;
    Ok(respond(&transcript, answer))
}

fn respond(transcript: &Transcript, answer: Answer) -> Response {
    if answer.format == TranscriptFormat::Json {
        return Json(Transcription { text: transcript.text(), usage: Usage::of(transcript) }).into_response();
    }
    let body = render(transcript, answer.format, answer.words);
    ([(header::CONTENT_TYPE, answer.format.content_type())], body).into_response()
}

/// The transcript of a submission that has ended. A translation's language is the one it is in.
///
/// # Errors
/// Why there is none.
pub(crate) async fn finished(
    state: &ApiState,
    subject: &Subject,
    submission: &Submission,
) -> Result<Transcript, ApiError> {
    if let (SubmissionStatus::Failed, Some(failure)) = (submission.status, &submission.failure) {
        return Err(failure.into());
    }
    let mut transcript = result::transcript(state, subject, submission).await?;
    if transcript.task == Task::Translate {
        transcript.language = Language::ENGLISH;
    }
    Ok(transcript)
}

/// A submission that somebody waits for. Dropped before the submission has ended (the client went away), it cancels
/// it after a while: clients that repeat their request attach to the work in the meantime.
pub(crate) struct Ticket {
    state: ApiState,
    /// Whose it is.
    pub(crate) tenant: TenantId,
    /// The submission.
    pub(crate) id: SubmissionId,
    ended: bool,
}

impl Ticket {
    fn new(state: ApiState, submission: Submission) -> Self {
        let ended = submission.status.is_terminal();
        Self { state, tenant: submission.tenant, id: submission.id, ended }
    }

    /// The submission has ended: nothing is left to cancel.
    pub(crate) fn settle(&mut self) {
        self.ended = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.ended || self.state.shutdown.is_cancelled() {
            return;
        }
        let (state, tenant, id) = (self.state.clone(), self.tenant.clone(), self.id.clone());
        self.state.afterwards(async move {
            tokio::select! {
                () = tokio::time::sleep(state.limits.abandoned_after) => {}
                // The job outlives this process; so may the client's next attempt.
                () = state.shutdown.cancelled() => return,
            }
            if let Err(error) = state.jobs.cancel(&tenant, &id).await {
                tracing::warn!(error = %chain(&error), job.id = %id, "an abandoned submission could not be cancelled");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fields: &[(&str, &str)]) -> Result<Answer, ApiError> {
        Answer::parse(&Fields::new(
            fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        ))
    }

    #[test]
    fn words_come_with_verbose_json_only() {
        let words = ("timestamp_granularities[]", "word");
        assert!(answer(&[words, ("response_format", "verbose_json")]).unwrap().words);
        assert_eq!(answer(&[words]).unwrap_err().param.as_deref(), Some("timestamp_granularities"));
    }

    #[test]
    fn a_format_that_openai_does_not_have_is_refused() {
        assert_eq!(answer(&[]).unwrap().format, TranscriptFormat::Json);
        assert_eq!(
            answer(&[("response_format", "tsv")]).unwrap_err().param.as_deref(),
            Some("response_format")
        );
    }
}
