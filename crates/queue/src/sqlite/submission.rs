//! One row of `submissions`, and the job behind it.

use rusqlite::{Connection, OptionalExtension, Row, params};
use verbatim_core::class::JobClass;
use verbatim_core::ids::{JobId, SubmissionId, TenantId};
use verbatim_core::job::{JobState, Submission};
use verbatim_core::time::Timestamp;

use super::error::{StoreError, StoreResult};
use super::job::{self, Job, json, parsed, signed, time, time_of, unsigned};
use super::transitions::{self, End};
use super::writer::Step;
use crate::ticket::{Ended, EndedHow, JobFacts, Ticket, missed_deadline};

/// What the client of this submission sees but for what it waits for: whether a worker can do it is known to the process,
/// not to the database.
pub(super) fn view(ticket: Ticket, job: Job, queue_position: Option<u64>) -> Submission {
    view_beside(|_| true, ticket, job, queue_position)
}

/// The same with what it waits for, beside workers that serve these classes.
pub(super) fn view_beside(
    serves: impl Fn(&JobClass) -> bool,
    ticket: Ticket,
    job: Job,
    queue_position: Option<u64>,
) -> Submission {
    let unserved = !serves(&job.class);
    let facts = JobFacts {
        id: job.id,
        state: job.state,
        tier: job.tier,
        progress: job.progress,
        stage: job.stage,
        started_at: job.started_at,
        finished_at: job.finished_at,
        attempt: job.attempt,
        engine: job.engine,
        model: job.model,
        options: job.options,
        audio: job.audio,
        failure: job.failure,
        result: job.result,
    };
    ticket.view(facts, queue_position, unserved)
}

/// Reads the columns of `submissions`: the submission and the job that it points at.
fn from_row(row: &Row<'_>) -> StoreResult<(Ticket, JobId)> {
    let how = match row.get::<_, Option<String>>("ended")?.as_deref() {
        None => None,
        Some("cancelled") => Some(EndedHow::Cancelled),
        Some("expired") => Some(EndedHow::Expired),
        Some(other) => return Err(StoreError::OtherVersion(format!("a submission ended as `{other}`"))),
    };
    let seq: Option<i64> = row.get("ended_seq")?;
    let ended = match (how, time(row, "ended_at")?, seq) {
        (Some(how), Some(at), Some(seq)) => Some(Ended { how, at, seq: unsigned(seq) }),
        _ => None,
    };
    let ticket = Ticket {
        id: parsed(SubmissionId::parse(&row.get::<_, String>("id")?))?,
        tenant: parsed(TenantId::parse(&row.get::<_, String>("tenant")?))?,
        created_at: time_of(row, "created_at")?,
        metadata: json(row, "metadata")?,
        cached: row.get("cached")?,
        deduplicated: row.get("deduplicated")?,
        first_seq: unsigned(row.get("first_seq")?),
        ended,
    };
    Ok((ticket, parsed(JobId::parse(&row.get::<_, String>("job_id")?))?))
}

/// The submission with its job, whoever it belongs to.
pub(super) fn load(conn: &Connection, id: &str) -> StoreResult<Option<(Ticket, Job)>> {
    let mut statement = conn.prepare_cached("SELECT * FROM submissions WHERE id = ?1")?;
    let Some((ticket, job_id)) =
        statement.query_row([id], |row| Ok(from_row(row))).optional()?.transpose()?
    else {
        return Ok(None);
    };
    let job = job::load_existing(conn, job_id.as_str())?;
    Ok(Some((ticket, job)))
}

/// The submission with its job, if it is this tenant's.
pub(super) fn load_own(conn: &Connection, tenant: &TenantId, id: &str) -> StoreResult<Option<(Ticket, Job)>> {
    Ok(load(conn, id)?.filter(|(ticket, _)| ticket.tenant == *tenant))
}

/// How many submissions of the tenant there are.
pub(super) fn remembered(conn: &Connection, tenant: &TenantId) -> StoreResult<u64> {
    let known: Option<i64> = conn
        .prepare_cached("SELECT submissions FROM remembered WHERE tenant = ?1")?
        .query_row([tenant.as_str()], |row| row.get(0))
        .optional()?;
    Ok(known.map_or(0, unsigned))
}

/// Adds the submission of this job, which is of use until `deadline`.
pub(super) fn insert(
    conn: &Connection,
    ticket: &Ticket,
    job: &Job,
    deadline: Option<Timestamp>,
) -> StoreResult<()> {
    conn.prepare_cached(
        "INSERT INTO submissions (id, job_id, tenant, created_at, deadline, metadata, cached, deduplicated, first_seq)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        ticket.id.as_str(),
        job.id.as_str(),
        ticket.tenant.as_str(),
        ticket.created_at.as_millis(),
        deadline.map(Timestamp::as_millis),
        serde_json::to_string(&ticket.metadata)?,
        ticket.cached,
        ticket.deduplicated,
        signed(ticket.first_seq),
    ])?;
    Ok(())
}

/// Ends a submission that has not ended, and its job when it was the last that waited for it. A running job is asked
/// to stop when it was cancelled, and stopped when it is too late anyway.
pub(super) fn end_apart(
    step: &mut Step<'_>,
    ticket: &mut Ticket,
    job: &mut Job,
    how: EndedHow,
) -> StoreResult<()> {
    // The number is taken from the job's stream, but only this submission's watchers see the event.
    job.last_seq += 1;
    let ended = Ended { how, at: step.now, seq: job.last_seq };
    step.conn
        .prepare_cached("UPDATE submissions SET ended = ?2, ended_at = ?3, ended_seq = ?4 WHERE id = ?1")?
        .execute(params![ticket.id.as_str(), how.as_str(), ended.at.as_millis(), signed(ended.seq)])?;
    ticket.ended = Some(ended);
    step.touched(&job.id);
    let wanted = job::exists(
        step.conn,
        "SELECT 1 FROM submissions WHERE job_id = ?1 AND ended IS NULL",
        [job.id.as_str()],
    )?;
    if !wanted {
        match how {
            EndedHow::Cancelled if job.state == JobState::Running => job.cancel_requested = true,
            EndedHow::Cancelled => transitions::end(step, job, End::Cancelled)?,
            EndedHow::Expired => transitions::end(step, job, End::Failed(missed_deadline()))?,
        }
    }
    job::save(step.conn, job)
}
