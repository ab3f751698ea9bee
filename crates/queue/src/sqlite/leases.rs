//! What the holder of a lease may do with it: renew, report, complete, fail, release.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::params;
use verbatim_core::event::{EventKind, Stage};
use verbatim_core::failure::JobFailure;
use verbatim_core::ids::WorkerId;
use verbatim_core::job::{Completion, LeaseToken};
use verbatim_core::ports::jobs::{Finish, Renewal};
use verbatim_core::retry::{NextStep, next_step};
use verbatim_core::transcript::Segment;

use super::error::{StoreResult, readable};
use super::garbage::{self, Due};
use super::job::{self, FinishCall, Job, PastFinish};
use super::lapses;
use super::tenants;
use super::transitions::{self, End};
use super::writer::Step;
use super::{checkpoints, counters};
use crate::checkpoints::{Changes, Reported};

/// What a worker reports.
pub(super) struct Said {
    pub(super) progress: Option<(f32, Stage)>,
    pub(super) segments: Vec<Segment>,
    pub(super) changes: Option<Arc<Changes>>,
}

/// Extends leases, each by itself: one whose job cannot be read is lost. With the answers come the workers that asked.
pub(super) fn renew(
    step: &mut Step<'_>,
    tokens: &[LeaseToken],
    lease: Duration,
) -> StoreResult<(Vec<Renewal>, Vec<WorkerId>)> {
    let expires_at = step.now.plus(lease);
    let mut renewals = Vec::with_capacity(tokens.len());
    let mut workers = Vec::new();
    for token in tokens {
        let held = readable(lapses::held(step, token))?.unwrap_or_else(|why| {
            tracing::error!(job.id = %token.job_id, why, "a job whose lease is to be renewed cannot be read: it is lost");
            None
        });
        let Some(job) = held else {
            renewals.push(Renewal::Lost);
            continue;
        };
        step.conn
            .prepare_cached("UPDATE jobs SET lease_ends_at = ?2, graces = 0 WHERE id = ?1")?
            .execute(params![token.job_id.as_str(), expires_at.as_millis()])?;
        renewals.push(if job.cancel_requested {
            Renewal::CancelRequested
        } else {
            Renewal::Held { expires_at }
        });
        workers.extend(job.lease.map(|held| held.worker));
    }
    Ok((renewals, workers))
}

/// Records what a worker says. Segments that an earlier call brought are skipped, so that repeating it adds nothing.
pub(super) fn report(step: &mut Step<'_>, token: &LeaseToken, said: Said) -> StoreResult<Reported> {
    let Said { progress, segments, changes } = said;
    let Some(mut job) = lapses::held(step, token)? else { return Ok(Reported::Lost) };
    for segment in segments {
        if segment.index >= job.next_segment {
            transitions::append_segment(step, &mut job, segment)?;
        }
    }
    if let Some((progress, stage)) = progress
        && (progress, stage) != (job.progress, job.stage)
    {
        (job.progress, job.stage) = (progress, stage);
        transitions::append(step, &mut job, &EventKind::Progress { progress, stage })?;
    }
    let mut reported = Reported::Kept;
    if let Some(changes) = changes {
        if !checkpoints::keep(step.conn, &job.id, &changes)? {
            reported = Reported::LacksBase;
        } else if changes.position_ms > job.checkpoint_ms {
            (job.checkpoint_ms, job.checkpoint_fence) = (changes.position_ms, job.fence);
        }
    }
    job::save(step.conn, &mut job)?;
    Ok(reported)
}

/// Publishes the result.
pub(super) fn complete(
    step: &mut Step<'_>,
    token: &LeaseToken,
    completion: Completion,
) -> StoreResult<Finish> {
    finish(step, token, FinishCall::Complete, |step, job| {
        let secs = completion.duration_ms.div_ceil(1000).max(1);
        tenants::settle(step.conn, job, secs)?;
        if job.cancel_requested {
            garbage::discard(step, &completion.result, Due::AtOnce)?;
            return transitions::end(step, job, End::Cancelled);
        }
        job.audio.duration_ms = Some(completion.duration_ms);
        job.audio.findings = completion.findings;
        job.estimated_secs = secs;
        job.engine = completion.engine;
        job.model = Some(completion.model);
        transitions::number_segments(step, job, completion.segments, completion.retold)?;
        transitions::end(step, job, End::Completed(completion.result))
    })
}

/// Ends the attempt.
pub(super) fn fail(step: &mut Step<'_>, token: &LeaseToken, failure: JobFailure) -> StoreResult<Finish> {
    finish(step, token, FinishCall::Fail, |step, job| {
        if job.cancel_requested {
            return transitions::end(step, job, End::Cancelled);
        }
        match next_step(&step.policy.retry, job.attempt, &failure, step.ids.fraction()) {
            NextStep::GiveUp => transitions::end(step, job, End::Failed(failure)),
            NextStep::Retry { delay, refund } => {
                if refund {
                    job.attempt = job.attempt.saturating_sub(1);
                    tenants::settle(step.conn, job, 0)?;
                }
                transitions::wait_again(step, job, delay)
            }
        }
    })
}

/// Gives the job back to the head of its queue; the attempt does not count and its tenant pays nothing.
pub(super) fn release(step: &mut Step<'_>, token: &LeaseToken) -> StoreResult<Finish> {
    finish(step, token, FinishCall::Release, |step, job| {
        tenants::settle(step.conn, job, 0)?;
        if job.cancel_requested {
            return transitions::end(step, job, End::Cancelled);
        }
        job.attempt = job.attempt.saturating_sub(1);
        job.position = counters::head(step.conn)?;
        transitions::wait_again(step, job, Duration::ZERO)
    })
}

/// Ends the lease by `act` if it is still held, and remembers the answer for the call's repetition.
fn finish(
    step: &mut Step<'_>,
    token: &LeaseToken,
    call: FinishCall,
    act: impl FnOnce(&mut Step<'_>, &mut Job) -> StoreResult<()>,
) -> StoreResult<Finish> {
    let Some(mut job) = job::load(step.conn, token.job_id.as_str())? else { return Ok(Finish::Stale) };
    if !job.is_held_by(token) && !lapses::is_held_again(step, &mut job, token)? {
        let same_call =
            |past: &PastFinish| past.call == call && past.fence == token.fence && past.nonce == token.nonce;
        return Ok(job.past_finish.filter(same_call).map_or(Finish::Stale, |past| Finish::Done(past.state)));
    }
    act(step, &mut job)?;
    let past = PastFinish { call, fence: token.fence, nonce: token.nonce.clone(), state: job.state };
    job.past_finish = Some(past);
    job::save(step.conn, &mut job)?;
    Ok(Finish::Done(job.state))
}
