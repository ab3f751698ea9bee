//! Jobs: submit, get, list, cancel, remove.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use verbatim_core::ids::SubmissionId;
use verbatim_core::job::{Submission, SubmissionStatus};
use verbatim_core::ports::jobs::{DeleteOutcome, ListQuery, Listing};

use crate::audit::Subject;
use crate::dto::{Job, JobList};
use crate::error::ApiError;
use crate::extract::{Caller, JobPath, Params, form, params};
use crate::openapi::JobForm;
use crate::options::{JobRequest, NATIVE_FIELDS, bad_value};
use crate::problem::{ApiStyle, Problem};
use crate::stages::RequestPermit;
use crate::state::ApiState;
use crate::submit::submit;
use crate::watch;

/// How long to hold the answer.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Hold the answer until the job has ended, but for at most so many seconds.
    #[param(minimum = 0, maximum = 60, example = 30)]
    wait: Option<u64>,
}

/// Which jobs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct JobsQuery {
    /// Only jobs with this status: `queued`, `processing`, `completed`, `failed` or `cancelled`.
    #[param(example = "completed")]
    status: Option<String>,
    /// Where to go on: `next_cursor` of the page before.
    cursor: Option<String>,
    /// Jobs per page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<usize>,
}

/// Submit audio
///
/// Upload a file as field `file` of a multipart form; the other fields are options and may come before or after it.
/// The same audio with the same options is transcribed once: a second submission joins the first one's work, or is
/// answered from its result. With an `Idempotency-Key` the request can be repeated safely for 24 hours.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", operation_id = "create_job",
    params(
        WaitQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "Your name for this request, up to 255 printable ASCII characters. Repeating the request under the same name gives the same job, with `Idempotency-Replayed: true`."),
    ),
    request_body(content = JobForm, content_type = "multipart/form-data"),
    responses(
        (status = 202, description = "Accepted", body = Job, headers(("Location" = String, description = "The job's path"))),
        (status = 200, description = "The result is there already, or came while waiting", body = Job, headers(("Location" = String, description = "The job's path"))),
        (status = 400, description = "A field is wrong: `param` says which", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The upload stopped arriving", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`idempotency_conflict`: the key was used with another file or other options", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`too_large`", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported_media`: the file is none of the supported formats", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`empty_audio`; `bad_audio`: it cannot be heard, such as a later piece of a recording; `audio_too_long`: by its own header, or for its size", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many jobs are queued; see `Retry-After`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "A dependency is down or no worker is known yet (`no_workers`); see `Retry-After`", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "`out_of_space`: nothing was stored; see `Retry-After`", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    subject: Subject,
    permit: RequestPermit,
    Params(query): Params<WaitQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let wait = params::wait(query.wait, state.limits.max_wait)?;
    let key = params::idempotency_key(request.headers())?;
    let models = state.offered()?;
    let form = form::read(&state, request, ApiStyle::Native, &NATIVE_FIELDS).await?;
    let job = JobRequest::native(&form.fields, &models)?;
    let work = submit(state.clone(), caller.principal.clone(), job, form.audio, key);
    let outcome = state.see_through(work).await?;
    subject.set_job(&outcome.submission.id);
    let submission = match wait {
        Some(wait) => watch::settled(&state, &permit, &caller, &outcome.submission.id, Some(wait)).await?,
        None => outcome.submission,
    };
    let mut response = accepted(submission, wait.is_some());
    if outcome.replayed {
        response.headers_mut().insert("idempotency-replayed", header::HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// 200 when the client has what it wanted: a cached result, or the end that it waited for. 202 else, also when a
/// repeated request finds its job ended: the first answer was a 202.
fn accepted(submission: Submission, waited: bool) -> Response {
    let there = submission.cached || (waited && submission.status.is_terminal());
    let status = if there { StatusCode::OK } else { StatusCode::ACCEPTED };
    let job = Job::from(submission);
    (status, [(header::LOCATION, job.links.this.clone())], Json(job)).into_response()
}

/// List jobs
///
/// Newest first. Of a `status` that few jobs have, a page may hold less than `limit` jobs, even none, and `next_cursor` goes
/// on from where the search ended: there are no more when `has_more` is false.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", operation_id = "list_jobs", params(JobsQuery), responses(
    (status = 200, description = "A page of jobs", body = JobList),
    (status = 400, description = "A parameter is wrong: `param` says which", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Params(query): Params<JobsQuery>,
) -> Result<Json<JobList>, ApiError> {
    let limit = params::limit(query.limit)?;
    let status = query.status.as_deref().filter(|status| !status.is_empty()).map(|name| {
        let names = "queued, processing, completed, failed, cancelled";
        SubmissionStatus::parse(name)
            .ok_or_else(|| ApiError { code: "invalid_parameter", ..bad_value("status", name, names) })
    });
    let before = query.cursor.as_deref().filter(|cursor| !cursor.is_empty()).map(|cursor| {
        SubmissionId::parse(cursor).map_err(|_| {
            ApiError::invalid("invalid_parameter", "cursor", "`cursor` is the `next_cursor` of a page")
        })
    });
    let wanted = ListQuery { status: status.transpose()?, before: before.transpose()?, limit: limit + 1 };
    let Listing { submissions: mut page, next } = state.jobs.list(&caller.principal.tenant, wanted).await?;
    // One more than was asked for tells that there are more.
    let next = if page.len() > limit { page.get(limit - 1).map(|last| last.id.clone()) } else { next };
    page.truncate(limit);
    let (has_more, next_cursor) = (next.is_some(), next.map(|id| id.to_string()));
    Ok(Json(JobList {
        object: "list",
        data: page.into_iter().map(Job::from).collect(),
        has_more,
        next_cursor,
    }))
}

/// Get a job
///
/// With `?wait=` the answer is held until the job has ended or the time is over.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "get_job",
    params(("id" = String, Path, description = "The job's id"), WaitQuery),
    responses(
        (status = 200, description = "The job", body = Job),
        (status = 400, description = "`wait` is too long", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such job", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    caller: Caller,
    permit: RequestPermit,
    JobPath(id): JobPath,
    Params(query): Params<WaitQuery>,
) -> Result<Json<Job>, ApiError> {
    let wait = params::wait(query.wait, state.limits.max_wait)?;
    Ok(Json(watch::settled(&state, &permit, &caller, &id, wait).await?.into()))
}

/// Cancel or remove a job
///
/// A job that has not ended is cancelled (202); its audio is deleted after a grace (600 seconds, unless the operator chose
/// another). One that has ended, also by being cancelled, is removed (204), and its audio and result with it at once, unless
/// another submission shares them. So whoever wants audio gone that is still being worked on sends this twice.
#[utoipa::path(delete, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "delete_job",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 202, description = "Cancelled", body = Job),
        (status = 204, description = "Removed"),
        (status = 404, description = "No such job", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    caller: Caller,
    JobPath(id): JobPath,
) -> Result<Response, ApiError> {
    match state.jobs.delete(&caller.principal.tenant, &id).await? {
        None => Err(ApiError::no_such_job()),
        Some(DeleteOutcome::Removed) => Ok(StatusCode::NO_CONTENT.into_response()),
        Some(DeleteOutcome::Cancelled) => Ok(match state.jobs.get(&caller.principal.tenant, &id).await? {
            Some(submission) => (StatusCode::ACCEPTED, Json(Job::from(submission))).into_response(),
            // Somebody else removed it in the meantime.
            None => StatusCode::NO_CONTENT.into_response(),
        }),
    }
}
