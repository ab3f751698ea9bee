//! For operators: jobs that failed for good. Look at them, queue them afresh, forget them.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use verbatim_core::ids::{JobId, SubmissionId};
use verbatim_core::ports::jobs::{DeadLetter, DeadLetterPage, DeadLetterQuery};
use verbatim_core::{ErrorKind, PortError};

use crate::audit::Subject;
use crate::dto::{Audio, JobError, rfc3339};
use crate::error::ApiError;
use crate::extract::{Params, params};
use crate::problem::Problem;
use crate::state::ApiState;

/// Which dead letters to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeadLettersQuery {
    /// Only those of this tenant.
    tenant: Option<String>,
    /// Where to go on: `next_cursor` of the page before.
    cursor: Option<String>,
    /// Dead letters per page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<usize>,
}

/// A job that failed for good.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(crate) struct DeadLetterView {
    /// The work that failed; many of its clients' jobs may point at it.
    #[schema(example = "work_01JD8N3W0S5Y6T7E8Z9QK4M2VX")]
    id: String,
    /// Always `dead_letter`.
    #[schema(example = "dead_letter")]
    object: &'static str,
    /// Whose it is.
    #[schema(example = "acme")]
    tenant: String,
    /// The jobs of clients that point at it.
    #[schema(example = json!(["job_01JD8N3W0S5Y6T7E8Z9QK4M2VX"]))]
    jobs: Vec<String>,
    /// Why it failed.
    error: JobError,
    /// Attempts made.
    #[schema(example = 5)]
    attempts: u32,
    /// Crashes of workers while they held only this job.
    #[schema(example = 0)]
    crashes: u32,
    /// The engine asked for.
    #[schema(example = "auto")]
    engine: String,
    /// The model asked for.
    #[schema(example = "tiny.en")]
    model: String,
    /// What was uploaded.
    audio: Audio,
    /// When the job was made (RFC 3339, UTC, milliseconds).
    #[schema(example = "2026-01-31T12:00:00.000Z")]
    created_at: String,
    /// When it failed.
    failed_at: String,
    /// When it will be forgotten, its audio with it.
    expires_at: String,
}

impl From<DeadLetter> for DeadLetterView {
    fn from(letter: DeadLetter) -> Self {
        Self {
            id: letter.job_id.into(),
            object: "dead_letter",
            tenant: letter.tenant.into(),
            jobs: letter.submissions.into_iter().map(SubmissionId::into).collect(),
            error: JobError { code: letter.failure.kind.code(), message: letter.failure.message },
            attempts: letter.attempts,
            crashes: letter.crashes,
            engine: letter.options.engine,
            model: letter.options.model,
            audio: letter.audio.into(),
            created_at: rfc3339(letter.created_at),
            failed_at: rfc3339(letter.failed_at),
            expires_at: rfc3339(letter.expires_at),
        }
    }
}

/// A page of dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetterList {
    /// Always `list`.
    #[schema(example = "list")]
    object: &'static str,
    /// The dead letters, the latest failure first.
    data: Vec<DeadLetterView>,
    /// Whether there are more.
    has_more: bool,
    /// What to ask for as `cursor`; null on the last page.
    next_cursor: Option<String>,
}

/// A dead letter that is queued again.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Redriven {
    /// The work.
    #[schema(example = "work_01JD8N3W0S5Y6T7E8Z9QK4M2VX")]
    id: String,
    /// Always `queued`.
    #[schema(example = "queued")]
    status: &'static str,
}

/// List dead letters
///
/// Jobs of every tenant that failed for good, the latest failure first. Of a `tenant` that has few, a page may hold less than
/// `limit`, even none, and `next_cursor` goes on from where the search ended; there are no more when that is null.
#[utoipa::path(get, path = "/v1/admin/dead-letters", tag = "admin", operation_id = "list_dead_letters",
    params(DeadLettersQuery),
    responses(
        (status = 200, description = "A page of dead letters", body = DeadLetterList),
        (status = 400, description = "A parameter is wrong: `param` says which", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    subject: Subject,
    Params(query): Params<DeadLettersQuery>,
) -> Result<Json<DeadLetterList>, ApiError> {
    let limit = params::limit(query.limit)?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let tenant = given(query.tenant).map(|tenant| params::tenant(&tenant)).transpose()?;
    if let Some(tenant) = &tenant {
        subject.set_tenant(tenant);
    }
    let before = given(query.cursor).map(|cursor| JobId::parse(&cursor)).transpose().map_err(|_| {
        ApiError::invalid("invalid_parameter", "cursor", "`cursor` is the `next_cursor` of a page")
    })?;
    let wanted = DeadLetterQuery { tenant, before, limit: limit + 1 };
    let DeadLetterPage { letters: mut page, next } = state.admin.dead_letters(wanted).await?;
    // A full page ends with the last of those that it shows; one that is not, where the search ended.
    let next = if page.len() > limit { page.get(limit - 1).map(|last| last.job_id.clone()) } else { next };
    page.truncate(limit);
    let (has_more, next_cursor) = (next.is_some(), next.map(|id| id.to_string()));
    let data = page.into_iter().map(DeadLetterView::from).collect();
    Ok(Json(DeadLetterList { object: "list", data, has_more, next_cursor }))
}

/// Queue a dead letter afresh
///
/// Attempts and crashes start from nothing; whoever waits for the job sees it queued again.
#[utoipa::path(post, path = "/v1/admin/dead-letters/{id}/redrive", tag = "admin", operation_id = "redrive_dead_letter",
    params(("id" = String, Path, description = "The dead letter's id", example = "work_01JD8N3W0S5Y6T7E8Z9QK4M2VX")),
    responses(
        (status = 202, description = "Queued", body = Redriven),
        (status = 404, description = "No such dead letter", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It cannot be done again: `detail` says why", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn redrive(
    State(state): State<ApiState>,
    path: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<Redriven>), ApiError> {
    let id = dead_letter(path)?;
    state.admin.redrive(&id).await.map_err(refused).and_then(there)?;
    Ok((StatusCode::ACCEPTED, Json(Redriven { id: id.into(), status: "queued" })))
}

/// Forget a dead letter
///
/// It goes with its audio, and the jobs of clients that point at it go too.
#[utoipa::path(delete, path = "/v1/admin/dead-letters/{id}", tag = "admin", operation_id = "discard_dead_letter",
    params(("id" = String, Path, description = "The dead letter's id", example = "work_01JD8N3W0S5Y6T7E8Z9QK4M2VX")),
    responses(
        (status = 204, description = "Forgotten"),
        (status = 404, description = "No such dead letter", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn discard(
    State(state): State<ApiState>,
    path: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let id = dead_letter(path)?;
    state.admin.discard_dead_letter(&id).await.map_err(refused).and_then(there)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The id of the path. What is no id names nothing: 404.
fn dead_letter(path: Result<Path<String>, PathRejection>) -> Result<JobId, ApiError> {
    path.ok().and_then(|Path(id)| JobId::parse(&id).ok()).ok_or_else(no_such_dead_letter)
}

fn there(found: bool) -> Result<(), ApiError> {
    if found { Ok(()) } else { Err(no_such_dead_letter()) }
}

fn no_such_dead_letter() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such dead letter")
}

/// A conflict is told in the store's own words, which are written for people.
fn refused(error: PortError) -> ApiError {
    if error.kind() == ErrorKind::Conflict {
        return ApiError::new(StatusCode::CONFLICT, "conflict", error.to_string());
    }
    error.into()
}
