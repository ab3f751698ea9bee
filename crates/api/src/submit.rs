//! From a received form to a submission in the store.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tracing::Instrument;
use verbatim_core::api_key::Principal;
use verbatim_core::dedupe::DedupeKey;
use verbatim_core::ids::SubmissionId;
use verbatim_core::job::{Idempotency, NewSubmission, SubmitOutcome, TenantCaps};
use verbatim_core::ports::BlobKey;
use verbatim_core::{ErrorKind, PortError, Refusal};
use verbatim_telemetry::metrics::DedupeOutcome;
use verbatim_telemetry::traces;

use crate::error::{ApiError, chain};
use crate::options::JobRequest;
use crate::state::ApiState;
use crate::upload::StagedAudio;

/// Where the header gives no duration, audio is taken to have this many bytes a second (128 kbit/s).
const GUESSED_BYTES_PER_SEC: u64 = 16_000;
/// How long all of it may take: a client must not be kept by a store that hangs.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long to wait before each repetition of a submit whose outcome is unknown.
const REPEAT_AFTER: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];

/// Makes the audio visible and submits the job for `principal`, whose key caps its priority. An upload that nobody adopted is deleted again. Run it under
/// [`ApiState::see_through`]: half of it is worse than none.
///
/// # Errors
/// What the stores say; 409 for an idempotency key that was used with another body.
pub(crate) async fn submit(
    state: ApiState,
    principal: Principal,
    request: JobRequest,
    audio: StagedAudio,
    idempotency_key: Option<String>,
) -> Result<SubmitOutcome, ApiError> {
    let span = traces::submission();
    let submitting = staged(state, principal, request, audio, idempotency_key).instrument(span.clone());
    submitting.await.inspect(|outcome| traces::submitted(&span, &outcome.submission, origin(outcome)))
}

/// [`submit`], within its span.
async fn staged(
    state: ApiState,
    principal: Principal,
    request: JobRequest,
    audio: StagedAudio,
    idempotency_key: Option<String>,
) -> Result<SubmitOutcome, ApiError> {
    let Principal { tenant, max_priority, caps, .. } = principal;
    let StagedAudio { job_id, key, writer, info } = audio;
    let estimated_secs =
        info.duration_ms.map_or(info.bytes / GUESSED_BYTES_PER_SEC, |millis| millis.div_ceil(1000)).max(1);
    let idempotency = match idempotency_key {
        Some(key) => Some(Idempotency { key, body_digest: body_digest(&info.sha256, &request)? }),
        None => None,
    };
    let submission = NewSubmission {
        id: SubmissionId::generate(state.ids.as_ref()),
        job_id,
        dedupe_key: DedupeKey::new(&tenant, &info.sha256, &request.options, &request.model),
        idempotency,
        tenant,
        options: request.options,
        audio: info,
        blob: key.clone(),
        priority: request.priority.min(max_priority),
        deadline: request.deadline,
        estimated_secs,
        caps,
        metadata: request.metadata,
        trace: traces::current(),
    };
    writer.finish().await?;
    match submit_in_time(&state, submission).await {
        Ok(outcome) => {
            if !outcome.blob_adopted {
                delete(&state, &key).await;
            }
            state.metrics.count_submission(origin(&outcome));
            Ok(outcome)
        }
        Err(error) => {
            // When it is unknown whether the store took the submission, a job may own the upload by now: it stays, and
            // the sweep removes it if it is nobody's.
            if error.is_definite() {
                delete(&state, &key).await;
            }
            state.metrics.count_refusal(&error);
            Err(refused(error, caps))
        }
    }
}

/// Submits, within bounds; a store that has not answered by then may have taken it all the same.
async fn submit_in_time(state: &ApiState, submission: NewSubmission) -> Result<SubmitOutcome, PortError> {
    let submitting = submit_repeatedly(state, submission);
    tokio::time::timeout(PATIENCE, submitting).await.unwrap_or_else(|_| {
        let error = PortError::new(ErrorKind::Unavailable, "the job store does not answer");
        Err(error.outcome_unknown())
    })
}

/// Submits; once more when the outcome is unknown, which the ticket's id makes safe.
async fn submit_repeatedly(state: &ApiState, submission: NewSubmission) -> Result<SubmitOutcome, PortError> {
    let mut unknown = false;
    for pause in REPEAT_AFTER {
        match state.jobs.submit(submission.clone()).await {
            Err(error) if error.kind() == ErrorKind::Unavailable && !error.is_definite() => {
                tracing::warn!(error = %chain(&error), "a submission is repeated");
                unknown = true;
                tokio::time::sleep(pause).await;
            }
            outcome => return outcome.map_err(|error| after(unknown, error)),
        }
    }
    state.jobs.submit(submission).await.map_err(|error| after(unknown, error))
}

/// The error of a call before which another one may have taken effect: a store that cannot be reached now says nothing
/// about that one. A store that was reached does: it would have replayed it.
fn after(unknown: bool, error: PortError) -> PortError {
    if unknown && error.kind() == ErrorKind::Unavailable { error.outcome_unknown() } else { error }
}

fn refused(error: PortError, caps: TenantCaps) -> ApiError {
    let (kind, refusal) = (error.kind(), error.refusal());
    let mut answer = ApiError::from(error);
    if kind == ErrorKind::Throttled && refusal != Some(Refusal::TooManyRemembered) {
        answer.limit = caps.max_queued;
    }
    if kind == ErrorKind::Conflict {
        answer.code = "idempotency_conflict";
        answer.param = Some("Idempotency-Key".to_owned());
        answer.detail = "this `Idempotency-Key` was used with another file or other options".to_owned();
    }
    answer
}

async fn delete(state: &ApiState, key: &BlobKey) {
    if let Err(error) = state.blobs.delete(key).await {
        tracing::warn!(error = %chain(&error), blob = %key, "an upload that no job needs is left to the sweep");
    }
}

fn origin(outcome: &SubmitOutcome) -> DedupeOutcome {
    if outcome.replayed {
        DedupeOutcome::Replayed
    } else if outcome.submission.cached {
        DedupeOutcome::Cached
    } else if outcome.submission.deduplicated {
        DedupeOutcome::Attached
    } else {
        DedupeOutcome::New
    }
}

/// What makes two requests under one idempotency key the same: the file and every option.
fn body_digest(sha256: &str, request: &JobRequest) -> Result<String, ApiError> {
    let JobRequest { options, model: _, priority, metadata, deadline } = request;
    let body = serde_json::to_vec(&(
        sha256,
        options,
        priority,
        metadata,
        deadline.map(|deadline| deadline.as_secs()),
    ));
    let body = body.map_err(|error| {
        tracing::error!(%error, "options cannot be written as JSON");
        ApiError::internal()
    })?;
    Ok(hex::encode(Sha256::digest(body)))
}
