//! Upkeep: what happens because time passes. Every kind of work is bounded per round.

use std::time::Duration;

use rusqlite::params;
use verbatim_core::ids::WorkerId;
use verbatim_core::job::JobState;
use verbatim_core::ports::jobs::{MAX_JOBS_PER_CALL, TickReport};
use verbatim_core::time::Timestamp;

use super::claim::REPEATABLE;
use super::error::{self, StoreResult};
use super::garbage::Due;
use super::job::{self, Job};
use super::submission;
use super::tenants;
use super::transitions::{self, End};
use super::writer::Step;
use super::{lapses, ledger, shared_state};
use crate::ticket::{EndedHow, too_old};

const MOST: i64 = MAX_JOBS_PER_CALL as i64;

/// One round.
pub(super) fn tick(step: &mut Step<'_>) -> StoreResult<TickReport> {
    let (back, away) = lapses::note_tick(step)?;
    let mut report = TickReport { away, ..TickReport::default() };
    end_late_submissions(step, &mut report)?;
    end_old_jobs(step, &mut report)?;
    take_back_lapsed(step, back, &mut report)?;
    promote_due(step, &mut report)?;
    forget_expired(step, back, &mut report)?;
    Ok(report)
}

/// When a record that cannot be read is looked at again.
pub(super) const PUT_OFF: Duration = Duration::from_secs(600);

/// What was loaded; nothing where it cannot be read. It is left as it is then, but for the time at which it is due, so that it
/// keeps no other from its turn.
fn readable<T>(
    step: &Step<'_>,
    loaded: StoreResult<T>,
    due: (&str, &str, &str),
    report: &mut TickReport,
) -> StoreResult<Option<T>> {
    let why = match error::readable(loaded)? {
        Ok(record) => return Ok(Some(record)),
        Err(why) => why,
    };
    let (table, column, id) = due;
    tracing::error!(record = id, why, "what is due cannot be read and stays as it is");
    report.unreadable += 1;
    step.conn.execute(
        &format!("UPDATE {table} SET {column} = ?2 WHERE id = ?1"),
        params![id, step.now.plus(PUT_OFF).as_millis()],
    )?;
    Ok(None)
}

fn due(step: &Step<'_>, sql: &str) -> StoreResult<Vec<String>> {
    job::ids(step.conn, sql, params![step.now.as_millis(), MOST])
}

/// A submission ends at its own deadline, and never another's job with it.
fn end_late_submissions(step: &mut Step<'_>, report: &mut TickReport) -> StoreResult<()> {
    let late = due(
        step,
        "SELECT id FROM submissions WHERE deadline <= ?1 AND ended IS NULL ORDER BY deadline, id LIMIT ?2",
    )?;
    for id in late {
        let loaded = submission::load(step.conn, &id);
        let due = ("submissions", "deadline", id.as_str());
        let Some((mut ticket, mut job)) = readable(step, loaded, due, report)?.flatten() else { continue };
        if ticket.status(job.state).is_terminal() {
            // It ended in time; its deadline no longer matters.
            step.conn
                .prepare_cached("UPDATE submissions SET deadline = NULL WHERE id = ?1")?
                .execute([id])?;
            continue;
        }
        submission::end_apart(step, &mut ticket, &mut job, EndedHow::Expired)?;
        report.failed += u64::from(job.state == JobState::Failed);
    }
    Ok(())
}

fn end_old_jobs(step: &mut Step<'_>, report: &mut TickReport) -> StoreResult<()> {
    let old = due(
        step,
        "SELECT id FROM jobs WHERE state IN ('queued','delayed','running') AND ends_at <= ?1 ORDER BY ends_at, id LIMIT ?2",
    )?;
    for id in old {
        let loaded = job::load_existing(step.conn, &id);
        let Some(mut job) = readable(step, loaded, ("jobs", "ends_at", &id), report)? else { continue };
        if job.cancel_requested {
            transitions::end(step, &mut job, End::Cancelled)?;
        } else {
            transitions::end(step, &mut job, End::Failed(too_old()))?;
            report.failed += 1;
        }
        job::save(step.conn, &mut job)?;
    }
    Ok(())
}

fn take_back_lapsed(step: &mut Step<'_>, back: Timestamp, report: &mut TickReport) -> StoreResult<()> {
    let lapsed = due(
        step,
        "SELECT id FROM jobs WHERE state = 'running' AND lease_ends_at <= ?1 ORDER BY lease_ends_at, id LIMIT ?2",
    )?;
    for id in lapsed {
        // Loaded one by one: taking back the one before may have marked this one.
        let loaded = job::load_existing(step.conn, &id);
        let Some(mut job) = readable(step, loaded, ("jobs", "lease_ends_at", &id), report)? else { continue };
        if lapses::is_given_grace(step, &mut job, back) {
            job::save(step.conn, &mut job)?;
            report.extended += 1;
            continue;
        }
        let (held, before) = (job.lease.clone(), lapses::Counted::of(&job));
        let alone = !mark_company(step, &job)? && !job.crowded;
        transitions::take_back(step, &mut job, alone, true)?;
        if let Some(held) = held {
            lapses::note_taken_back(&mut job, held, before);
        }
        job::save(step.conn, &mut job)?;
        report.lapsed += 1;
        report.failed += u64::from(job.state == JobState::Failed);
    }
    Ok(())
}

/// Whether the worker that lost this job held others; they remember it, for their leases lapse when this one is no
/// longer beside them.
fn mark_company(step: &Step<'_>, job: &Job) -> StoreResult<bool> {
    let Some(worker) = job.lease.as_ref().map(|held| WorkerId::as_str(&held.worker)) else {
        return Ok(false);
    };
    let marked = step
        .conn
        .prepare_cached("UPDATE jobs SET crowded = 1 WHERE state = 'running' AND worker = ?1 AND id <> ?2")?
        .execute(params![worker, job.id.as_str()])?;
    Ok(marked > 0)
}

fn promote_due(step: &mut Step<'_>, report: &mut TickReport) -> StoreResult<()> {
    let ready = due(
        step,
        "SELECT id FROM jobs WHERE state = 'delayed' AND run_at <= ?1 ORDER BY run_at, id LIMIT ?2",
    )?;
    for id in ready {
        let loaded = job::load_existing(step.conn, &id);
        let Some(mut job) = readable(step, loaded, ("jobs", "run_at", &id), report)? else { continue };
        transitions::enqueue(step, &mut job)?;
        job::save(step.conn, &mut job)?;
        report.promoted += 1;
    }
    Ok(())
}

fn forget_expired(step: &mut Step<'_>, back: Timestamp, report: &mut TickReport) -> StoreResult<()> {
    let expired = due(step, "SELECT id FROM jobs WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2")?;
    for id in expired {
        let loaded = job::load_existing(step.conn, &id);
        let Some(job) = readable(step, loaded, ("jobs", "expires_at", &id), report)? else { continue };
        let submissions: u32 = step
            .conn
            .prepare_cached("SELECT count(*) FROM submissions WHERE job_id = ?1")?
            .query_row([job.id.as_str()], |row| row.get(0))?;
        transitions::forget(step, &job, Due::AfterGrace)?;
        report.expired += 1 + u64::from(submissions);
    }
    step.conn
        .prepare_cached(
            "DELETE FROM idempotency WHERE (tenant, key) IN (
                 SELECT tenant, key FROM idempotency WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
        )?
        .execute(params![step.now.as_millis(), MOST])?;
    // After an outage workers may be about to repeat the claim under which they lost the store.
    if step.now >= back.plus(REPEATABLE) {
        step.conn
            .prepare_cached(
                "DELETE FROM claims WHERE worker IN (
                     SELECT worker FROM claims WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
            )?
            .execute(params![step.now.as_millis(), MOST])?;
    }
    shared_state::forget_expired(step, MOST)?;
    ledger::forget_old(step, MOST)?;
    tenants::forget_idle(step.conn, MOST)
}
