//! Checkpoints, segment by segment.

use rusqlite::{Connection, OptionalExtension, params};
use verbatim_core::ids::JobId;
use verbatim_core::ports::engine::Checkpoint;

use super::error::StoreResult;
use crate::checkpoints::Changes;
use crate::newer;

/// Writes down what is new of a checkpoint. `false`, and nothing is changed, where it builds on what is not there.
pub(super) fn keep(conn: &Connection, job: &JobId, changes: &Changes) -> StoreResult<bool> {
    let here: Option<String> = conn
        .prepare_cached("SELECT mark FROM checkpoints WHERE job_id = ?1")?
        .query_row([job.as_str()], |row| row.get(0))
        .optional()?;
    let repeated = here.as_ref() == Some(&changes.mark);
    if changes.base.is_some() && here != changes.base && !repeated {
        return Ok(false);
    }
    conn.prepare_cached("INSERT OR REPLACE INTO checkpoints (job_id, body, mark) VALUES (?1, ?2, ?3)")?
        .execute(params![job.as_str(), changes.head, changes.mark])?;
    if changes.base.is_some() && repeated {
        return Ok(true);
    }
    conn.prepare_cached("DELETE FROM checkpoint_segments WHERE job_id = ?1 AND place >= ?2")?
        .execute(params![job.as_str(), changes.keep as i64])?;
    let mut add =
        conn.prepare_cached("INSERT INTO checkpoint_segments (job_id, place, body) VALUES (?1, ?2, ?3)")?;
    for (place, segment) in (changes.keep as i64..).zip(changes.added()) {
        add.execute(params![job.as_str(), place, segment])?;
    }
    Ok(true)
}

/// Where another worker may go on.
pub(super) fn load(conn: &Connection, job: &str) -> StoreResult<Option<Checkpoint>> {
    let body: Option<String> = conn
        .prepare_cached("SELECT body FROM checkpoints WHERE job_id = ?1")?
        .query_row([job], |row| row.get(0))
        .optional()?;
    let Some(body) = body else { return Ok(None) };
    let segments = conn
        .prepare_cached("SELECT body FROM checkpoint_segments WHERE job_id = ?1 ORDER BY place")?
        .query_map([job], |row| row.get(0))?
        .collect::<Result<Vec<String>, _>>()?;
    Ok(newer::checkpoint(&body, &segments))
}

/// Nobody goes on with the job.
pub(super) fn drop_of(conn: &Connection, job: &JobId) -> StoreResult<()> {
    for table in ["checkpoints", "checkpoint_segments"] {
        conn.prepare_cached(&format!("DELETE FROM {table} WHERE job_id = ?1"))?.execute([job.as_str()])?;
    }
    Ok(())
}
