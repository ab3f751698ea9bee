//! Results: transcripts as the worker stored them.

use axum::http::StatusCode;
use verbatim_core::job::{Submission, SubmissionStatus};
use verbatim_core::ports::blobs::{BlobKey, get_bytes};
use verbatim_core::transcript::Transcript;
use verbatim_core::{BadJson, ErrorKind};

use crate::audit::Subject;
use crate::error::ApiError;
use crate::state::ApiState;

/// The transcript of a completed submission, whose reading `subject` writes down.
///
/// # Errors
/// 409 `not_ready`, `job_failed` or `job_cancelled` when there is none, 410 when it has expired.
pub(crate) async fn transcript(
    state: &ApiState,
    subject: &Subject,
    submission: &Submission,
) -> Result<Transcript, ApiError> {
    subject.set_job(&submission.id);
    let conflict = |code, detail: String| Err(ApiError::new(StatusCode::CONFLICT, code, detail));
    match submission.status {
        SubmissionStatus::Completed => {}
        SubmissionStatus::Queued | SubmissionStatus::Processing => {
            let status = submission.status.as_str();
            return conflict(
                "not_ready",
                format!("the job is still {status}; its transcript is not there yet"),
            );
        }
        SubmissionStatus::Cancelled => {
            return conflict("job_cancelled", "the job was cancelled; there is no transcript".to_owned());
        }
        SubmissionStatus::Failed => {
            let reason =
                submission.failure.as_ref().map_or("the reason is not known", |failure| &failure.message);
            return conflict("job_failed", format!("the job failed: {reason}"));
        }
    }
    let Some(key) = &submission.result else { return Err(expired()) };
    let bytes = match get_bytes(state.blobs.as_ref(), key).await {
        // The blob store is there, and the result is not: it must not answer the next upload, too.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            forget(state, submission, key).await;
            return Err(expired());
        }
        outcome => outcome?,
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        tracing::error!(error = %BadJson::from(error), job.id = %submission.id, blob = %key, "a stored result cannot be read");
        ApiError::internal()
    })
}

/// Makes the next upload of the same audio new work.
async fn forget(state: &ApiState, submission: &Submission, result: &BlobKey) {
    state.metrics.results_lost.inc();
    tracing::error!(job.id = %submission.id, blob = %result, "a result is gone from the blob store");
    if let Err(error) = state.jobs.result_lost(&submission.tenant, &submission.id, result).await {
        tracing::warn!(%error, job.id = %submission.id, "a result that is gone still answers submissions");
    }
}

fn expired() -> ApiError {
    ApiError::new(StatusCode::GONE, "result_expired", "the transcript has expired; submit the audio again")
}
