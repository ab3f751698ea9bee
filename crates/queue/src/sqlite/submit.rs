//! Submitting: a new job, a live one to attach to, or a finished one that answers at once.

use rusqlite::{Connection, OptionalExtension, params};
use verbatim_admission::Holdings;
use verbatim_core::class::JobClass;
use verbatim_core::event::{EventKind, Stage};
use verbatim_core::ids::{Fence, TenantId};
use verbatim_core::job::{JobState, NewSubmission, SubmitOutcome, TenantCaps};
use verbatim_core::options::Priority;
use verbatim_core::time::Timestamp;
use verbatim_core::{ErrorKind, PortError, Refusal};

use super::caps;
use super::counters;
use super::error::{StoreError, StoreResult};
use super::job::{self, Job, signed, unsigned};
use super::lanes;
use super::submission;
use super::tenants::{self, Place};
use super::transitions;
use super::writer::Step;
use crate::ticket::Ticket;
use crate::{BACKLOG_RETRY, job_exists, no_share, too_many_remembered};

/// Does what [`verbatim_core::ports::JobClient::submit`] says; the place in the queue is left to a reader.
pub(super) fn submit(step: &mut Step<'_>, new: NewSubmission) -> StoreResult<SubmitOutcome> {
    if let Some((ticket, job)) = replayed(step.conn, step.now, &new)? {
        let blob_adopted = job.blob == new.blob;
        let submission = submission::view(ticket, job, None);
        return Ok(SubmitOutcome { submission, blob_adopted, replayed: true });
    }
    check_remembered(step, &new)?;
    let caps = caps::of_submission(step.conn, &new.tenant, new.caps)?;
    let (job, cached, deduplicated) = if let Some(job) = finished_work(step, new.dedupe_key.as_str())? {
        tenants::put_in_force(step.conn, &new.tenant, caps)?;
        (answering(step, job)?, true, false)
    } else if let Some(job) = live_work(step.conn, new.dedupe_key.as_str())? {
        tenants::put_in_force(step.conn, &new.tenant, caps)?;
        (raised(step, job, new.priority)?, false, true)
    } else {
        if job::exists(step.conn, "SELECT 1 FROM jobs WHERE id = ?1", [new.job_id.as_str()])? {
            return Err(job_exists().into());
        }
        check_room(step, &new.tenant, caps)?;
        tenants::put_in_force(step.conn, &new.tenant, caps)?;
        (new_job(step, &new)?, false, false)
    };
    let ticket = Ticket {
        id: new.id,
        tenant: new.tenant,
        created_at: step.now,
        metadata: new.metadata,
        cached,
        deduplicated,
        // A cached answer has no history of its own but its end.
        first_seq: if cached { job.last_seq } else { 0 },
        ended: None,
    };
    submission::insert(
        step.conn,
        &ticket,
        &job,
        new.deadline.filter(|_| !cached).map(|after| step.now.plus(after)),
    )?;
    if let Some(idempotency) = new.idempotency {
        step.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO idempotency (tenant, key, body_digest, submission_id, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                ticket.tenant.as_str(),
                idempotency.key,
                idempotency.body_digest,
                ticket.id.as_str(),
                step.now.plus(step.policy.idempotency_ttl).as_millis(),
            ])?;
    }
    let blob_adopted = job.blob == new.blob;
    Ok(SubmitOutcome { submission: submission::view(ticket, job, None), blob_adopted, replayed: false })
}

/// What this ticket or this idempotency key was answered before.
fn replayed(conn: &Connection, now: Timestamp, new: &NewSubmission) -> StoreResult<Option<(Ticket, Job)>> {
    if let Some((ticket, job)) = submission::load(conn, new.id.as_str())? {
        if ticket.tenant != new.tenant {
            return Err(PortError::new(ErrorKind::Conflict, "this job id is taken").into());
        }
        return Ok(Some((ticket, job)));
    }
    let Some(idempotency) = &new.idempotency else { return Ok(None) };
    match find_idempotent(conn, now, &new.tenant, &idempotency.key)? {
        Some((_, _, digest)) if digest != idempotency.body_digest => {
            let message =
                "this Idempotency-Key was used with another request; use a new key for a new request";
            Err(PortError::new(ErrorKind::Conflict, message).into())
        }
        found => Ok(found.map(|(ticket, job, _)| (ticket, job))),
    }
}

/// The submission that this key made, with the digest of the request's body.
pub(super) fn find_idempotent(
    conn: &Connection,
    now: Timestamp,
    tenant: &TenantId,
    key: &str,
) -> StoreResult<Option<(Ticket, Job, String)>> {
    let found: Option<(String, String)> = conn
        .prepare_cached(
            "SELECT submission_id, body_digest FROM idempotency WHERE tenant = ?1 AND key = ?2 AND expires_at > ?3",
        )?
        .query_row(params![tenant.as_str(), key, now.as_millis()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((id, digest)) = found else { return Ok(None) };
    Ok(submission::load(conn, &id)?.map(|(ticket, job)| (ticket, job, digest)))
}

/// The finished job that answers this work. One that cannot be read answers nobody.
pub(super) fn finished_work(step: &Step<'_>, dedupe_key: &str) -> StoreResult<Option<Job>> {
    let newest: Option<(String, i64)> = step
        .conn
        .prepare_cached(
            "SELECT id, finished_at FROM jobs WHERE dedupe_key = ?1 AND state = 'completed'
             ORDER BY finished_at DESC LIMIT 1",
        )?
        .query_row([dedupe_key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((id, finished_at)) = newest else { return Ok(None) };
    if Timestamp::from_millis(finished_at).plus(step.policy.dedupe_ttl) <= step.now {
        return Ok(None);
    }
    match job::load_existing(step.conn, &id) {
        Err(StoreError::Corrupt(why)) => {
            tracing::error!(job.id = id, why, "a finished job cannot be read and answers nobody");
            Ok(None)
        }
        loaded => loaded.map(Some),
    }
}

/// Keeps a finished job for as long as its newest submission may be fetched.
fn answering(step: &Step<'_>, mut job: Job) -> StoreResult<Job> {
    job.expires_at = job.expires_at.max(Some(step.now.plus(step.policy.result_retention)));
    job::save(step.conn, &mut job)?;
    Ok(job)
}

/// The live job that does this work. One that is being cancelled takes nobody. Nor does one that cannot be read, which leaves its
/// work to another; words of another version are left to a node that knows them.
pub(super) fn live_work(conn: &Connection, dedupe_key: &str) -> StoreResult<Option<Job>> {
    let found = job::ids(
        conn,
        "SELECT id FROM jobs
         WHERE dedupe_key = ?1 AND state IN ('queued','delayed','running') AND cancel_requested = 0",
        [dedupe_key],
    )?;
    let Some(id) = found.first() else { return Ok(None) };
    match job::load_existing(conn, id) {
        Err(StoreError::Corrupt(why)) => {
            tracing::error!(job.id = id, why, "a live job cannot be read and leaves its work to another");
            conn.prepare_cached("UPDATE jobs SET dedupe_key = 'unreadable:' || id WHERE id = ?1")?
                .execute([id])?;
            Ok(None)
        }
        loaded => loaded.map(Some),
    }
}

/// Who is in a hurry takes the others along.
fn raised(step: &Step<'_>, mut job: Job, priority: Priority) -> StoreResult<Job> {
    if job.tier < priority {
        job.tier = priority;
        job::save(step.conn, &mut job)?;
    }
    Ok(job)
}

/// Refuses any submission of a tenant of which as many are remembered as may be, or as is its share of all.
fn check_remembered(step: &Step<'_>, new: &NewSubmission) -> StoreResult<()> {
    let (of_tenant, of_all) = (step.policy.max_remembered, step.policy.max_remembered_of_all);
    if of_tenant.is_none() && of_all.is_none() {
        return Ok(());
    }
    let own = submission::remembered(step.conn, &new.tenant)?;
    if of_tenant.is_some_and(|most| own >= most) {
        return Err(too_many_remembered().into());
    }
    let Some(limit) = of_all else { return Ok(()) };
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let counter = |name| Ok::<_, StoreError>(count(unsigned(counters::read(step.conn, name)?)));
    let (total, holders) = (counter("submissions")?, counter("holders")?);
    let holdings = Holdings { limit: count(limit), total, own: count(own), holders };
    holdings.admit().map_err(|why| no_share(why, step.ids.fraction()).into())
}

/// Refuses a new job where too many wait already, of all or of the tenant's.
fn check_room(step: &Step<'_>, tenant: &TenantId, caps: TenantCaps) -> StoreResult<()> {
    let refuse = |message: String| {
        let error = PortError::new(ErrorKind::Throttled, message).because(Refusal::QueueFull);
        Err(error.with_retry_after(BACKLOG_RETRY).into())
    };
    if let Some(most) = step.policy.max_waiting {
        let waiting: i64 = step
            .conn
            .prepare_cached("SELECT sum(jobs) FROM counts WHERE state IN ('queued', 'delayed')")?
            .query_row([], |row| row.get(0))?;
        if unsigned(waiting) >= most {
            return refuse(format!("{most} jobs are waiting already; try again later"));
        }
    }
    if let Some(most) = caps.max_queued
        && tenants::takes_up(step.conn, tenant)?.waiting >= most
    {
        return refuse(format!("{most} of your jobs are waiting already; try again later"));
    }
    Ok(())
}

fn new_job(step: &mut Step<'_>, new: &NewSubmission) -> StoreResult<Job> {
    let mut job = Job {
        id: new.job_id.clone(),
        tenant: new.tenant.clone(),
        dedupe_key: new.dedupe_key.as_str().to_owned(),
        options: new.options.clone(),
        blob: new.blob.clone(),
        created_at: step.now,
        ends_at: step.now.plus(step.policy.max_age),
        state: JobState::Queued,
        tier: new.priority,
        class: lanes::told_apart(step.conn, JobClass::of(&new.options), false)?,
        position: counters::tail(step.conn)?,
        audio: new.audio.clone(),
        estimated_secs: new.estimated_secs,
        queued_at: step.now,
        run_at: None,
        started_at: None,
        finished_at: None,
        expires_at: None,
        attempt: 0,
        crashes: 0,
        deaths: 0,
        isolated: false,
        checkpoint_ms: 0,
        checkpoint_fence: Fence::new(0),
        cancel_requested: false,
        fence: Fence::new(0),
        nonce: None,
        lease: None,
        graces: 0,
        taken_back: Vec::new(),
        crowded: false,
        past_finish: None,
        engine: new.options.engine.clone(),
        model: None,
        progress: 0.0,
        stage: Stage::Queued,
        next_segment: 0,
        segments_from: None,
        last_seq: 0,
        failure: None,
        result: None,
        charge: None,
        trace: new.trace,
        counted: Place::default(),
    };
    job::insert(step.conn, &mut job)?;
    transitions::append(step, &mut job, &EventKind::Queued { attempt: 0 })?;
    step.conn
        .prepare_cached("UPDATE jobs SET last_seq = ?2 WHERE id = ?1")?
        .execute(params![job.id.as_str(), signed(job.last_seq)])?;
    step.work_arrived();
    Ok(job)
}
