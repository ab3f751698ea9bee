//! Dead letters: listing them, trying them again, forgetting them.

use rusqlite::{Connection, OptionalExtension, params};
use verbatim_core::event::{EventKind, Stage};
use verbatim_core::ids::{JobId, SubmissionId};
use verbatim_core::job::JobState;
use verbatim_core::ports::jobs::{DeadLetter, DeadLetterPage, DeadLetterQuery, MAX_JOBS_PER_CALL};
use verbatim_core::{ErrorKind, PortError};

use super::error::{StoreError, StoreResult, readable};
use super::garbage::Due;
use super::job::{self, Job, parsed};
use super::writer::Step;
use super::{counters, submit, transitions};

/// The latest failure first; a tenant's have an index, so that no search ends early. A page that begins behind a job that is no
/// dead letter any more is the first one.
pub(super) fn dead_letters(conn: &Connection, query: &DeadLetterQuery) -> StoreResult<DeadLetterPage> {
    let before: Option<(i64, String)> = match &query.before {
        Some(id) => conn
            .prepare_cached("SELECT finished_at, id FROM jobs WHERE id = ?1 AND state = 'failed'")?
            .query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?,
        None => None,
    };
    let (failed_at, id) = before.unwrap_or((i64::MAX, String::new()));
    let limit = query.limit.min(MAX_JOBS_PER_CALL) as i64;
    let page = match &query.tenant {
        Some(tenant) => job::ids(
            conn,
            "SELECT id FROM jobs WHERE state = 'failed' AND tenant = ?4 AND (finished_at, id) < (?1, ?2)
             ORDER BY finished_at DESC, id DESC LIMIT ?3",
            params![failed_at, id, limit, tenant.as_str()],
        ),
        None => job::ids(
            conn,
            "SELECT id FROM jobs WHERE state = 'failed' AND (finished_at, id) < (?1, ?2)
             ORDER BY finished_at DESC, id DESC LIMIT ?3",
            params![failed_at, id, limit],
        ),
    }?;
    let mut letters = Vec::with_capacity(page.len());
    for id in &page {
        match readable(job::load_existing(conn, id).and_then(|job| dead_letter(conn, job)))? {
            Ok(letter) => letters.push(letter),
            Err(why) => tracing::warn!(job.id = id, why, "a dead letter cannot be read and is left out"),
        }
    }
    // One that is left out makes room for another, which the next page has.
    let left_out = letters.len() < page.len() && page.len() as i64 == limit;
    let next = page.last().filter(|_| left_out).map(|id| parsed(JobId::parse(id))).transpose()?;
    Ok(DeadLetterPage { letters, next })
}

fn dead_letter(conn: &Connection, job: Job) -> StoreResult<DeadLetter> {
    let submissions = job::ids(
        conn,
        "SELECT id FROM submissions WHERE job_id = ?1 AND ended IS NOT 'cancelled' ORDER BY id LIMIT ?2",
        params![job.id.as_str(), MAX_JOBS_PER_CALL as i64],
    )?;
    let (Some(failure), Some(failed_at), Some(expires_at)) = (job.failure, job.finished_at, job.expires_at)
    else {
        return Err(StoreError::Corrupt(format!("job {} failed without a reason", job.id)));
    };
    Ok(DeadLetter {
        submissions: submissions
            .iter()
            .map(|id| parsed(SubmissionId::parse(id)))
            .collect::<StoreResult<_>>()?,
        job_id: job.id,
        tenant: job.tenant,
        failure,
        attempts: job.attempt,
        crashes: job.crashes,
        created_at: job.created_at,
        failed_at,
        expires_at,
        options: job.options,
        audio: job.audio,
    })
}

/// Does what [`verbatim_core::ports::JobAdmin::redrive`] says.
pub(super) fn redrive(step: &mut Step<'_>, id: &JobId) -> StoreResult<bool> {
    let Some(mut job) = failed(step.conn, id)? else { return Ok(false) };
    check_wanted(step, &job)?;
    job.attempt = 0;
    job.crashes = 0;
    job.deaths = 0;
    job.taken_back.clear();
    job.ends_at = step.now.plus(step.policy.max_age);
    job.position = counters::tail(step.conn)?;
    job.failure = None;
    job.finished_at = None;
    job.expires_at = None;
    job.progress = 0.0;
    job.stage = Stage::Queued;
    job.next_segment = 0;
    step.conn.prepare_cached("DELETE FROM events WHERE job_id = ?1")?.execute([id.as_str()])?;
    transitions::enqueue(step, &mut job)?;
    transitions::append(step, &mut job, &EventKind::Queued { attempt: 0 })?;
    job::save(step.conn, &mut job)?;
    Ok(true)
}

/// Refuses to do again what is done or being done elsewhere, or what nobody waits for.
fn check_wanted(step: &Step<'_>, job: &Job) -> StoreResult<()> {
    let refuse = |message: &str| Err(PortError::new(ErrorKind::Conflict, message).into());
    let waits = "SELECT 1 FROM submissions WHERE job_id = ?1 AND ended IS NULL";
    if !job::exists(step.conn, waits, [job.id.as_str()])? {
        return refuse("nobody waits for this job any more");
    }
    if submit::live_work(step.conn, &job.dedupe_key)?.is_some() {
        return refuse("the same work is under way in another job");
    }
    if submit::finished_work(step, &job.dedupe_key)?.is_some() {
        return refuse("the same work was done in another job");
    }
    Ok(())
}

/// Forgets the dead letter with all that belongs to it.
pub(super) fn discard(step: &mut Step<'_>, id: &JobId) -> StoreResult<bool> {
    let Some(job) = failed(step.conn, id)? else { return Ok(false) };
    transitions::forget(step, &job, Due::AtOnce)?;
    Ok(true)
}

fn failed(conn: &Connection, id: &JobId) -> StoreResult<Option<Job>> {
    Ok(job::load(conn, id.as_str())?.filter(|job| job.state == JobState::Failed))
}
