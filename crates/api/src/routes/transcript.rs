//! The transcript of a job.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use verbatim_core::render::{TranscriptFormat, render};

use crate::audit::Subject;
use crate::error::ApiError;
use crate::extract::{Caller, JobPath, Params};
use crate::options::bad_value;
use crate::problem::Problem;
use crate::state::ApiState;
use crate::{result, watch};

/// How the transcript is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TranscriptQuery {
    /// `json` (default), `text`, `srt`, `vtt`, `verbose_json` or `tsv`.
    #[param(example = "srt")]
    format: Option<String>,
}

/// Get the transcript
///
/// Word times are in `json` and `verbose_json` when the job was asked for them.
#[utoipa::path(get, path = "/v1/jobs/{id}/transcript", tag = "jobs", operation_id = "get_transcript",
    params(("id" = String, Path, description = "The job's id"), TranscriptQuery),
    responses(
        (status = 200, description = "The transcript", content(
            (serde_json::Value = "application/json", example = json!({
                "text": "Hello there.", "language": "en", "language_probability": 1.0, "task": "transcribe",
                "duration": 1.5, "engine": "whisper", "model": "tiny.en",
                "segments": [{"id": 0, "start": 0.0, "end": 1.5, "text": "Hello there."}]
            })),
            (String = "text/plain"), (String = "application/x-subrip"), (String = "text/vtt"),
            (String = "text/tab-separated-values"),
        )),
        (status = 400, description = "No such format", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such job", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`not_ready`, `job_failed` or `job_cancelled`", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The transcript has expired", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    caller: Caller,
    subject: Subject,
    JobPath(id): JobPath,
    Params(query): Params<TranscriptQuery>,
) -> Result<Response, ApiError> {
    let name = query.format.as_deref().unwrap_or_default();
    let format =
        if name.is_empty() { Some(TranscriptFormat::default()) } else { TranscriptFormat::parse(name) };
    let format = format.ok_or_else(|| ApiError {
        code: "invalid_parameter",
        ..bad_value("format", name, TranscriptFormat::ALL.map(TranscriptFormat::as_str).join(", "))
    })?;
    let submission = watch::current(&state, &caller.principal.tenant, &id).await?;
    let transcript = result::transcript(&state, &subject, &submission).await?;
    let body = render(&transcript, format, submission.options.words);
    Ok(([(header::CONTENT_TYPE, format.content_type())], body).into_response())
}
