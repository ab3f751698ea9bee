//! The moves between states that several operations share. Each changes a loaded job; the caller saves it.

use std::time::Duration;

use rusqlite::params;
use verbatim_core::event::{EventKind, EventSeq, Stage, segment_seq};
use verbatim_core::failure::JobFailure;
use verbatim_core::job::JobState;
use verbatim_core::policy::ISOLATED_AFTER;
use verbatim_core::ports::BlobKey;
use verbatim_core::retry::{NextStep, RetryPolicy, next_step};
use verbatim_core::transcript::Segment;

use super::error::{StoreResult, readable};
use super::garbage::{self, Due, discard};
use super::job::{self, Job, signed};
use super::writer::Step;
use super::{checkpoints, lanes};
use crate::ticket::worker_lost;

/// How a job ends.
#[derive(Debug)]
pub(super) enum End {
    /// Its result lies there.
    Completed(BlobKey),
    /// A dead letter.
    Failed(JobFailure),
    /// Nobody wants it any more.
    Cancelled,
}

/// Adds an event to the job's stream. Of progress, only the last is kept.
pub(super) fn append(step: &mut Step<'_>, job: &mut Job, kind: &EventKind) -> StoreResult<()> {
    if matches!(kind, EventKind::Progress { .. }) {
        step.conn
            .prepare_cached(
                "DELETE FROM events INDEXED BY events_progress WHERE job_id = ?1 AND kind = 'progress'",
            )?
            .execute([job.id.as_str()])?;
    }
    append_as(step, job, job.last_seq + 1, kind)
}

/// Adds an event under this number, which is higher than all before.
fn append_as(step: &mut Step<'_>, job: &mut Job, seq: u64, kind: &EventKind) -> StoreResult<()> {
    job.last_seq = seq;
    step.conn
        .prepare_cached("INSERT INTO events (job_id, seq, at, kind, body) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            job.id.as_str(),
            signed(seq),
            step.now.as_millis(),
            kind.name(),
            serde_json::to_string(kind)?
        ])?;
    step.touched(&job.id);
    Ok(())
}

/// Adds a segment. Its number follows from that of the attempt's first one, so that it can be told when only the
/// transcript is left.
pub(super) fn append_segment(step: &mut Step<'_>, job: &mut Job, segment: Segment) -> StoreResult<()> {
    let number = |first| segment_seq(EventSeq(first), segment.index).0;
    // No number is higher than those before for the first one, and where more happened between two segments than there
    // is room for.
    let known = job.segments_from.filter(|first| job.next_segment > 0 && number(*first) > job.last_seq);
    let first = known.unwrap_or(job.last_seq + 1);
    job.segments_from = Some(first);
    job.next_segment = segment.index.saturating_add(1);
    let (attempt, seq) = (job.attempt, number(first));
    append_as(step, job, seq, &EventKind::Segment { attempt, segment })
}

/// Gives each segment of the transcript the number under which watchers are told of it: those that were reported keep theirs,
/// the others follow. Where the transcript has other segments, or there is no room left for the numbers that are to follow,
/// watchers are told that the attempt started again, and all segments get new numbers.
pub(super) fn number_segments(
    step: &mut Step<'_>,
    job: &mut Job,
    count: u32,
    retold: bool,
) -> StoreResult<()> {
    let number = |first, index| segment_seq(EventSeq(first), index).0;
    let mut first = job.segments_from.filter(|_| job.next_segment > 0);
    let is_late = |first| job.next_segment < count && number(first, job.next_segment) <= job.last_seq;
    if retold || first.is_some_and(is_late) {
        append_started(step, job)?;
        (first, job.next_segment) = (None, 0);
    }
    let Some(last) = count.checked_sub(1).filter(|last| *last >= job.next_segment) else { return Ok(()) };
    let first = first.unwrap_or(job.last_seq + 1);
    (job.segments_from, job.next_segment) = (Some(first), count);
    job.last_seq = number(first, last);
    Ok(())
}

/// Begins a new attempt's stream: what earlier attempts reported no longer counts.
pub(super) fn append_started(step: &mut Step<'_>, job: &mut Job) -> StoreResult<()> {
    step.conn
        .prepare_cached("DELETE FROM events WHERE job_id = ?1 AND kind IN ('progress', 'segment')")?
        .execute([job.id.as_str()])?;
    let attempt = job.attempt;
    append(step, job, &EventKind::Started { attempt })
}

/// Ends the job. Its audio goes after its grace, also where its clients gave it up, and the checkpoint at once; those of a dead
/// letter stay with it, for it may be tried again by hand.
pub(super) fn end(step: &mut Step<'_>, job: &mut Job, end: End) -> StoreResult<()> {
    let event = match end {
        End::Completed(result) => {
            job.state = JobState::Completed;
            job.progress = 1.0;
            job.result = Some(result);
            EventKind::Completed
        }
        End::Failed(failure) => {
            job.state = JobState::Failed;
            job.failure = Some(failure.clone());
            EventKind::Failed { failure }
        }
        End::Cancelled => {
            job.state = JobState::Cancelled;
            EventKind::Cancelled
        }
    };
    if job.state != JobState::Failed {
        // Also where a client gave it up: a store that comes back from before that runs the job again.
        discard(step, &job.blob, Due::AfterGrace)?;
        checkpoints::drop_of(step.conn, &job.id)?;
    }
    // From here on segments are read from the transcript; without one they are no more. How it came about says nothing
    // beside it.
    let over: &[&str] =
        if job.state == JobState::Completed { &["segment", "progress", "queued"] } else { &["segment"] };
    for kind in over {
        step.conn
            .prepare_cached("DELETE FROM events WHERE job_id = ?1 AND kind = ?2")?
            .execute([job.id.as_str(), kind])?;
    }
    job.lease = None;
    job.graces = 0;
    job.taken_back.clear();
    job.run_at = None;
    job.stage = Stage::Done;
    job.finished_at = Some(step.now);
    job.expires_at = Some(step.now.plus(step.policy.result_retention));
    append(step, job, &event)
}

/// Lets the job wait again, at its old place in the queue, once `delay` is over.
pub(super) fn wait_again(step: &mut Step<'_>, job: &mut Job, delay: Duration) -> StoreResult<()> {
    job.lease = None;
    job.graces = 0;
    job.progress = 0.0;
    job.stage = Stage::Queued;
    if delay.is_zero() {
        enqueue(step, job)?;
    } else {
        job.state = JobState::Delayed;
        job.run_at = Some(step.now.plus(delay));
    }
    let attempt = job.attempt;
    append(step, job, &EventKind::Queued { attempt })
}

/// Makes the job claimable.
pub(super) fn enqueue(step: &mut Step<'_>, job: &mut Job) -> StoreResult<()> {
    job.state = JobState::Queued;
    job.run_at = None;
    job.queued_at = step.now;
    job.class = lanes::told_apart(step.conn, job.class.clone(), job.isolated)?;
    step.work_arrived();
    Ok(())
}

/// Takes the job back from a worker that died. The attempt does not count, for the job did not fail; a death does, unless
/// the checkpoint moved forward under this lease, for then the job gets on. A job beside which the second worker died is
/// isolated: it runs alone the next time. It is blamed only for a crash while it was `alone`; with `pause` it then waits
/// before it meets the next worker.
pub(super) fn take_back(step: &mut Step<'_>, job: &mut Job, alone: bool, pause: bool) -> StoreResult<()> {
    if job.cancel_requested {
        return end(step, job, End::Cancelled);
    }
    job.crowded = false;
    let mut wait = Duration::ZERO;
    if job.checkpoint_fence != job.fence {
        job.deaths += 1;
        job.isolated |= job.deaths >= ISOLATED_AFTER;
        if alone {
            job.crashes += 1;
            let lost = worker_lost();
            let crashes = RetryPolicy { max_attempts: step.policy.retry.max_crashes, ..step.policy.retry };
            match next_step(&crashes, job.crashes, &lost, step.ids.fraction()) {
                // The attempt stays: the client sees that it was tried.
                NextStep::GiveUp => return end(step, job, End::Failed(lost)),
                NextStep::Retry { delay, .. } if pause => wait = delay,
                NextStep::Retry { .. } => {}
            }
        }
    }
    job.attempt = job.attempt.saturating_sub(1);
    wait_again(step, job, wait)
}

/// Forgets an ended job with its submissions and events, and lists its blobs for deletion.
pub(super) fn forget(step: &mut Step<'_>, job: &Job, due: Due) -> StoreResult<()> {
    if job.state == JobState::Failed {
        discard(step, &job.blob, due)?;
    } else if due == Due::AtOnce {
        // The audio may be in its grace.
        garbage::hasten(step, &job.blob)?;
    }
    if let Some(result) = &job.result {
        discard(step, result, due)?;
    }
    step.conn.prepare_cached("DELETE FROM jobs WHERE id = ?1")?.execute([job.id.as_str()])?;
    step.touched(&job.id);
    Ok(())
}

/// Takes back every lease of a process that is dead: this one holds the folder, so no other lives. All its jobs were
/// beside each other, whatever its workers were called.
pub(super) fn take_back_all(step: &mut Step<'_>) -> StoreResult<u64> {
    step.conn.execute("DELETE FROM reservations", [])?;
    let running = job::ids(step.conn, "SELECT id FROM jobs WHERE state = 'running'", [])?;
    let in_company = running.len() > 1;
    let mut taken = 0;
    for id in &running {
        let mut job = match readable(job::load_existing(step.conn, id))? {
            Ok(job) => job,
            Err(why) => {
                // Upkeep looks at it again when its lease has lapsed.
                tracing::error!(job.id = id, why, "a job that was running cannot be read and stays as it is");
                continue;
            }
        };
        let alone = !in_company && !job.crowded;
        take_back(step, &mut job, alone, false)?;
        job::save(step.conn, &mut job)?;
        taken += 1;
    }
    Ok(taken)
}
