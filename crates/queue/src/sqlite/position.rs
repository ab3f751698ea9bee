//! The place in the queue that clients see.

use rusqlite::{Connection, params};
use verbatim_core::job::JobState;

use super::error::StoreResult;
use super::job::{Job, tier_number, unsigned};

/// Nobody needs to know how many more thousands are ahead.
const LONGEST_COUNT: i64 = 10_000;
/// Jobs that may have come after one before they are worth no counting.
const SHORT_COUNT: i64 = 256;

/// How many jobs are ahead of one that is queued: those of stronger tiers, those before it of its own tenant, and as many
/// of the other tenants' as are served while they take turns. Exact for one tenant, an estimate for several.
pub(super) fn of(conn: &Connection, job: &Job) -> StoreResult<Option<u64>> {
    if job.state != JobState::Queued {
        return Ok(None);
    }
    let tier = tier_number(job.tier);
    let (stronger, same): (i64, i64) = conn
        .prepare_cached(
            "SELECT coalesce(sum(jobs) FILTER (WHERE tier > ?1), 0), coalesce(sum(jobs) FILTER (WHERE tier = ?1), 0)
             FROM counts WHERE state = 'queued'",
        )?
        .query_row([tier], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (own, others_active): (i64, i64) = conn
        .prepare_cached(
            "SELECT (SELECT jobs FROM shares WHERE tier = ?1 AND tenant = ?2),
                    (SELECT count(*) FROM shares WHERE tier = ?1 AND active = 1 AND tenant <> ?2)",
        )?
        .query_row(params![tier, job.tenant.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rank = rank(conn, job, own)?;
    Ok(Some(unsigned(stronger + rank + (same - own).min((rank + 1) * others_active))))
}

/// The job's place among the `own` of its tenant. Exact near both ends, which is where it is asked for: just submitted, or
/// about to be served; elsewhere counted up to [`LONGEST_COUNT`].
fn rank(conn: &Connection, job: &Job, own: i64) -> StoreResult<i64> {
    let count = |sql: &str, most: i64| -> StoreResult<i64> {
        let params = params![tier_number(job.tier), job.tenant.as_str(), job.position, most];
        Ok(conn.prepare_cached(sql)?.query_row(params, |row| row.get(0))?)
    };
    let behind = count(
        "SELECT count(*) FROM (
             SELECT 1 FROM jobs INDEXED BY jobs_places
             WHERE state = 'queued' AND tier = ?1 AND tenant = ?2 AND position > ?3 LIMIT ?4)",
        SHORT_COUNT,
    )?;
    if behind < SHORT_COUNT {
        return Ok(own - 1 - behind);
    }
    count(
        "SELECT count(*) FROM (
             SELECT 1 FROM jobs INDEXED BY jobs_places
             WHERE state = 'queued' AND tier = ?1 AND tenant = ?2 AND position < ?3 LIMIT ?4)",
        LONGEST_COUNT,
    )
}
