//! What readers ask: lists, figures and references.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::{Connection, params};
use verbatim_core::class::JobClass;
use verbatim_core::ids::{SubmissionId, TenantId};
use verbatim_core::job::{JobState, Submission, SubmissionStatus};
use verbatim_core::options::Priority;
use verbatim_core::ports::jobs::{ListQuery, Listing, MAX_JOBS_PER_CALL, QueueStats, TierStats};
use verbatim_core::time::Timestamp;

use super::error::{StoreResult, readable};
use super::job::{self, parsed, tier_number, unsigned};
use super::{lanes, position, submission};

/// The submission as its tenant sees it, beside workers that serve these classes.
pub(super) fn get(
    conn: &Connection,
    tenant: &TenantId,
    id: &str,
    serves: &impl Fn(&JobClass) -> bool,
) -> StoreResult<Option<Submission>> {
    let Some((ticket, job)) = submission::load_own(conn, tenant, id)? else { return Ok(None) };
    let position = position::of(conn, &job)?;
    Ok(Some(submission::view_beside(serves, ticket, job, position)))
}

/// Submissions that one call looks at for a page of those with some status.
const LOOK_AT: i64 = 4096;

/// A page of submissions, newest first: ids begin with the time of their making.
pub(super) fn list(
    conn: &Connection,
    tenant: &TenantId,
    query: &ListQuery,
    serves: &impl Fn(&JobClass) -> bool,
) -> StoreResult<Listing> {
    let most = query.limit.min(MAX_JOBS_PER_CALL);
    let before = query.before.as_ref().map(|id| id.as_str());
    let page = job::ids(
        conn,
        "SELECT s.id FROM (SELECT * FROM submissions WHERE tenant = ?1 AND id < coalesce(?2, '~')
                           ORDER BY id DESC LIMIT ?5) AS s
         JOIN jobs j ON j.id = s.job_id
         WHERE ?3 IS NULL OR ?3 = CASE
                WHEN s.ended = 'cancelled' THEN 'cancelled'
                WHEN s.ended = 'expired' THEN 'failed'
                WHEN j.state = 'delayed' THEN 'queued'
                WHEN j.state = 'running' THEN 'processing'
                ELSE j.state END
         ORDER BY s.id DESC LIMIT ?4",
        params![
            tenant.as_str(),
            before,
            query.status.map(SubmissionStatus::as_str),
            i64::try_from(most).unwrap_or(i64::MAX),
            LOOK_AT,
        ],
    )?;
    let mut listing = Listing::default();
    for id in &page {
        match readable(get(conn, tenant, id, serves))? {
            Ok(found) => listing.submissions.extend(found),
            Err(why) => tracing::warn!(job.id = id, why, "a submission cannot be read and is left out"),
        }
    }
    if page.len() == most && listing.len() < most {
        // One that is left out makes room for another, which the next page has.
        listing.next = page.last().map(|id| parsed(SubmissionId::parse(id))).transpose()?;
    } else if page.len() < most {
        // Where the search ended, if it did not end with the last submission.
        let last = job::ids(
            conn,
            "SELECT id FROM submissions WHERE tenant = ?1 AND id < coalesce(?2, '~')
             ORDER BY id DESC LIMIT 1 OFFSET ?3",
            params![tenant.as_str(), before, LOOK_AT - 1],
        )?;
        listing.next = last.first().map(|id| parsed(SubmissionId::parse(id))).transpose()?;
    }
    Ok(listing)
}

/// The queue in figures; `workers` are counted by the process, which also knows whom of `unserved` they serve.
pub(super) fn stats(conn: &Connection, now: Timestamp, workers: u64) -> StoreResult<QueueStats> {
    let count = |sql: &str| -> StoreResult<u64> {
        Ok(unsigned(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?))
    };
    let mut counted = conn.prepare_cached("SELECT coalesce(sum(jobs), 0) FROM counts WHERE state = ?1")?;
    let states = [
        JobState::Queued,
        JobState::Delayed,
        JobState::Running,
        JobState::Completed,
        JobState::Failed,
        JobState::Cancelled,
    ]
    .into_iter()
    .map(|state| Ok((state, unsigned(counted.query_row([state.as_str()], |row| row.get(0))?))))
    .collect::<StoreResult<_>>()?;
    let tiers =
        Priority::ALL.into_iter().map(|tier| tier_stats(conn, now, tier)).collect::<StoreResult<_>>()?;
    Ok(QueueStats {
        tiers,
        states,
        submissions: count("SELECT value FROM counters WHERE name = 'submissions'")?,
        max_submissions: None,
        holders: count("SELECT value FROM counters WHERE name = 'holders'")?,
        workers,
        garbage: count("SELECT count(*) FROM garbage")?,
        isolated: lanes::isolated(conn)?,
        unserved: merged(lanes::classes(conn)?),
    })
}

/// A class may have two lanes.
fn merged(lanes: Vec<(JobClass, u64)>) -> Vec<(JobClass, u64)> {
    let mut classes: BTreeMap<JobClass, u64> = BTreeMap::new();
    for (class, jobs) in lanes {
        *classes.entry(class).or_default() += jobs;
    }
    classes.into_iter().collect()
}

fn tier_stats(conn: &Connection, now: Timestamp, priority: Priority) -> StoreResult<TierStats> {
    let tier = tier_number(priority);
    let depth: i64 = conn
        .prepare_cached("SELECT jobs FROM counts WHERE state = 'queued' AND tier = ?1")?
        .query_row([tier], |row| row.get(0))?;
    let oldest: Option<i64> = conn
        .prepare_cached("SELECT min(queued_at) FROM jobs WHERE state = 'queued' AND tier = ?1")?
        .query_row([tier], |row| row.get(0))?;
    let oldest_age = oldest.map_or(Duration::ZERO, |since| now.since(Timestamp::from_millis(since)));
    Ok(TierStats { priority, depth: unsigned(depth), oldest_age })
}
