//! Claiming: which jobs a worker gets, and the leases it gets them under.

use rusqlite::{Connection, OptionalExtension, params};
use verbatim_core::event::Stage;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::ids::Fence;
use verbatim_core::job::{JobState, Lease, LeaseToken};
use verbatim_core::options::Priority;
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::ports::jobs::{ClaimRequest, MAX_JOBS_PER_CALL};

use super::error::{StoreError, StoreResult};
use super::job::{self, Held, Job, tier_number};
use super::tiers::Shares;
use super::transitions::{self, End};
use super::writer::Step;

/// Does what [`verbatim_core::ports::JobLeases::claim`] says.
///
/// A job that was there when a worker vanished (a suspect) is given alone, to an idle worker, which then gets nothing
/// else; whatever is given together is not suspect.
pub(super) fn claim(step: &mut Step<'_>, request: &ClaimRequest) -> StoreResult<Vec<Lease>> {
    if let Some(leases) = repeated(step.conn, request)? {
        return Ok(leases);
    }
    let holding = holding(step.conn, request)?;
    if holding.alone || request.max == 0 {
        return Ok(Vec::new());
    }
    let idle = request.idle && !holding.any;
    if let Some(overdue) = overdue_suspect(step)? {
        // Busy workers get nothing until one of them is idle: else a backlog would keep them busy for ever.
        let taken = if idle { lease(step, overdue, request)? } else { None };
        return Ok(taken.into_iter().collect());
    }
    let mut shares = Shares::load(step.conn)?;
    let mut leases = Vec::new();
    for _ in 0..request.max.min(MAX_JOBS_PER_CALL) {
        let candidates = heads(step.conn, idle && leases.is_empty())?;
        let Some(id) = shares.choose(candidates) else { break };
        let job = job::load_existing(step.conn, &id)?;
        let alone = job.suspect;
        leases.extend(lease(step, job, request)?);
        if alone {
            break;
        }
    }
    if !leases.is_empty() {
        shares.save(step.conn)?;
    }
    Ok(leases)
}

/// The answer that this claim got before: what is still held of it. `None` for a new claim.
fn repeated(conn: &Connection, request: &ClaimRequest) -> StoreResult<Option<Vec<Lease>>> {
    let known = job::ids(
        conn,
        "SELECT id FROM jobs WHERE nonce = ?1 ORDER BY position LIMIT ?2",
        params![request.nonce.as_str(), MAX_JOBS_PER_CALL as i64],
    )?;
    if known.is_empty() {
        return Ok(None);
    }
    let held = job::load_all(conn, &known)?.into_iter().filter(|job| job.state == JobState::Running);
    held.map(|job| lease_of(conn, job)).collect::<StoreResult<_>>().map(Some)
}

struct Holding {
    any: bool,
    alone: bool,
}

fn holding(conn: &Connection, request: &ClaimRequest) -> StoreResult<Holding> {
    let mut statement = conn.prepare_cached(
        "SELECT count(*) > 0, coalesce(max(suspect), 0) FROM jobs WHERE state = 'running' AND worker = ?1",
    )?;
    Ok(statement
        .query_row([request.worker.as_str()], |row| Ok(Holding { any: row.get(0)?, alone: row.get(1)? }))?)
}

fn overdue_suspect(step: &Step<'_>) -> StoreResult<Option<Job>> {
    let patience = i64::try_from(step.policy.alone_patience.as_millis()).unwrap_or(i64::MAX);
    let found = job::ids(
        step.conn,
        "SELECT id FROM jobs WHERE state = 'queued' AND suspect = 1 AND queued_at < ?1 ORDER BY queued_at LIMIT 1",
        [step.now.as_millis().saturating_sub(patience)],
    )?;
    found.first().map(|id| job::load_existing(step.conn, id)).transpose()
}

/// The first job of each tier, in the order of [`Priority::ALL`].
fn heads(conn: &Connection, with_suspects: bool) -> StoreResult<[Option<String>; 3]> {
    let mut statement = conn.prepare_cached(
        "SELECT id, position FROM jobs WHERE state = 'queued' AND suspect = ?1 AND tier = ?2 ORDER BY position LIMIT 1",
    )?;
    let mut heads = [const { None }; 3];
    for (head, tier) in heads.iter_mut().zip(Priority::ALL) {
        let mut first: Option<(String, i64)> = None;
        for suspect in 0..=i64::from(with_suspects) {
            let next: Option<(String, i64)> = statement
                .query_row([suspect, tier_number(tier)], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            first = match (first, next) {
                (Some(a), Some(b)) => Some(if b.1 < a.1 { b } else { a }),
                (a, b) => a.or(b),
            };
        }
        *head = first.map(|(id, _)| id);
    }
    Ok(heads)
}

/// Gives the job to the worker, unless its time is up: then it ends here.
fn lease(step: &mut Step<'_>, mut job: Job, request: &ClaimRequest) -> StoreResult<Option<Lease>> {
    if job.ends_at <= step.now {
        transitions::end(step, &mut job, End::Failed(too_old()))?;
        job::save(step.conn, &job)?;
        return Ok(None);
    }
    job.state = JobState::Running;
    job.fence = Fence::new(job.fence.get() + 1);
    job.nonce = Some(request.nonce.clone());
    job.lease = Some(Held { worker: request.worker.clone(), ends_at: step.now.plus(request.lease) });
    job.crowded = false;
    job.attempt += 1;
    job.started_at = job.started_at.or(Some(step.now));
    job.progress = 0.0;
    job.stage = Stage::Fetching;
    job.next_segment = 0;
    transitions::append_started(step, &mut job)?;
    job::save(step.conn, &job)?;
    lease_of(step.conn, job).map(Some)
}

/// What ends a job that grew too old.
pub(super) fn too_old() -> JobFailure {
    JobFailure::new(FailureKind::Expired, "The job reached its greatest age before it could be completed.")
}

fn lease_of(conn: &Connection, job: Job) -> StoreResult<Lease> {
    let (Some(nonce), Some(held)) = (job.nonce, job.lease) else {
        return Err(StoreError::Corrupt(format!("job {} runs without a lease", job.id)));
    };
    Ok(Lease {
        checkpoint: checkpoint(conn, job.id.as_str())?,
        token: LeaseToken { job_id: job.id, fence: job.fence, nonce },
        expires_at: held.ends_at,
        attempt: job.attempt,
        tenant: job.tenant,
        options: job.options,
        audio: job.audio,
        blob: job.blob,
        submitted_at: job.created_at,
        alone: job.suspect,
    })
}

fn checkpoint(conn: &Connection, job: &str) -> StoreResult<Option<Checkpoint>> {
    let body: Option<String> = conn
        .prepare_cached("SELECT body FROM checkpoints WHERE job_id = ?1")?
        .query_row([job], |row| row.get(0))
        .optional()?;
    Ok(body.map(|body| serde_json::from_str(&body)).transpose()?)
}
