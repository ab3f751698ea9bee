//! Cancelling and deleting submissions.

use verbatim_core::ids::{SubmissionId, TenantId};
use verbatim_core::job::{JobState, Submission};
use verbatim_core::ports::BlobKey;
use verbatim_core::ports::jobs::DeleteOutcome;

use super::error::StoreResult;
use super::garbage::Due;
use super::job;
use super::submission;
use super::transitions;
use super::writer::Step;
use crate::ticket::EndedHow;

/// Cancels a submission that has not ended; the job goes when it was the last.
pub(super) fn cancel(
    step: &mut Step<'_>,
    tenant: &TenantId,
    id: &SubmissionId,
) -> StoreResult<Option<Submission>> {
    let Some((mut ticket, mut job)) = submission::load_own(step.conn, tenant, id.as_str())? else {
        return Ok(None);
    };
    if !ticket.status(job.state).is_terminal() {
        submission::end_apart(step, &mut ticket, &mut job, EndedHow::Cancelled)?;
    }
    Ok(Some(submission::view(ticket, job, None)))
}

/// Cancels a submission that has not ended; removes one that has, and what is left of its job with the last of them.
pub(super) fn delete(
    step: &mut Step<'_>,
    tenant: &TenantId,
    id: &SubmissionId,
) -> StoreResult<Option<DeleteOutcome>> {
    let Some((mut ticket, mut job)) = submission::load_own(step.conn, tenant, id.as_str())? else {
        return Ok(None);
    };
    if !ticket.status(job.state).is_terminal() {
        submission::end_apart(step, &mut ticket, &mut job, EndedHow::Cancelled)?;
        return Ok(Some(DeleteOutcome::Cancelled));
    }
    step.conn.prepare_cached("DELETE FROM submissions WHERE id = ?1")?.execute([id.as_str()])?;
    step.touched(&job.id);
    let others = job::exists(step.conn, "SELECT 1 FROM submissions WHERE job_id = ?1", [job.id.as_str()])?;
    if !others && job.state.is_terminal() {
        transitions::forget(step, &job, Due::AtOnce)?;
    }
    Ok(Some(DeleteOutcome::Removed))
}

/// Makes the submission's job answer no more submissions, if that is its result. The rest of it stays as it is.
pub(super) fn result_lost(
    step: &mut Step<'_>,
    tenant: &TenantId,
    id: &SubmissionId,
    result: &BlobKey,
) -> StoreResult<()> {
    let Some((_, job)) = submission::load_own(step.conn, tenant, id.as_str())? else { return Ok(()) };
    if job.state == JobState::Completed && job.result.as_ref() == Some(result) {
        step.conn
            .prepare_cached("UPDATE jobs SET dedupe_key = 'lost:' || id WHERE id = ?1")?
            .execute([job.id.as_str()])?;
    }
    Ok(())
}
