//! Jobs that must run alone, because they were there when a worker vanished: which of them a worker gets, and the worker
//! that is kept for one that has waited too long.

use rusqlite::{OptionalExtension, params};
use verbatim_core::ids::WorkerId;
use verbatim_core::options::Priority;

use super::error::StoreResult;
use super::job::tier_number;
use super::writer::Step;

/// The first suspect of the tier whose tenant is below its cap.
pub(super) fn first(step: &Step<'_>, tier: Priority) -> StoreResult<Option<String>> {
    let first = step
        .conn
        .prepare_cached(
            "SELECT id FROM jobs JOIN tenants USING (tenant)
             WHERE state = 'queued' AND isolated = 1 AND tier = ?1
               AND (max_running IS NULL OR running < max_running)
             ORDER BY position LIMIT 1",
        )?
        .query_row([tier_number(tier)], |row| row.get(0))
        .optional()?;
    Ok(first)
}

/// The suspect that has waited longest, if that is too long and its tenant is below its cap.
pub(super) fn overdue(step: &Step<'_>) -> StoreResult<Option<String>> {
    let patience = i64::try_from(step.policy.alone_patience.as_millis()).unwrap_or(i64::MAX);
    let longest = step
        .conn
        .prepare_cached(
            "SELECT id FROM jobs JOIN tenants USING (tenant)
             WHERE state = 'queued' AND isolated = 1 AND queued_at < ?1
               AND (max_running IS NULL OR running < max_running)
             ORDER BY queued_at, id LIMIT 1",
        )?
        .query_row([step.now.as_millis().saturating_sub(patience)], |row| row.get(0))
        .optional()?;
    Ok(longest)
}

/// Whether this busy worker is kept for a suspect that has waited too long. If no worker is, this one is from now on, for
/// as long as the policy's patience.
pub(super) fn keeps(step: &Step<'_>, worker: &WorkerId) -> StoreResult<bool> {
    let held: Option<String> = step
        .conn
        .prepare_cached("SELECT worker FROM reservation WHERE until > ?1")?
        .query_row([step.now.as_millis()], |row| row.get(0))
        .optional()?;
    if let Some(held) = held {
        return Ok(held == worker.as_str());
    }
    let until = step.now.plus(step.policy.alone_patience);
    step.conn
        .prepare_cached("INSERT OR REPLACE INTO reservation (one, worker, until) VALUES (1, ?1, ?2)")?
        .execute(params![worker.as_str(), until.as_millis()])?;
    Ok(true)
}

/// This worker is idle, so it is not kept any more: it takes a suspect now, or none has waited too long.
pub(super) fn let_go(step: &Step<'_>, worker: &WorkerId) -> StoreResult<()> {
    step.conn.prepare_cached("DELETE FROM reservation WHERE worker = ?1")?.execute([worker.as_str()])?;
    Ok(())
}
