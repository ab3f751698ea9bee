//! Blobs that no job needs any more, until they are deleted.

use std::time::Duration;

use rusqlite::{Connection, params};
use verbatim_core::ids::JobId;
use verbatim_core::job::JobState;
use verbatim_core::ports::BlobKey;
use verbatim_core::ports::jobs::{BlobFate, GarbageRequest, LONGEST_HOLD, MAX_BLOBS_PER_CALL};
use verbatim_core::time::Timestamp;

use super::error::{self, StoreResult};
use super::job;
use super::writer::Step;
use crate::blobs::readable;

/// When a blob may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A client or an operator deleted what it belongs to.
    AtOnce,
    /// Its job is done or cancelled, or was forgotten.
    AfterGrace,
}

/// Lists a blob for deletion. What is listed already is never put off by it.
pub(super) fn discard(step: &Step<'_>, blob: &BlobKey, due: Due) -> StoreResult<()> {
    let since = match due {
        Due::AtOnce => 0,
        Due::AfterGrace => step.now.as_millis(),
    };
    step.conn
        .prepare_cached(
            "INSERT INTO garbage (key, since) VALUES (?1, ?2)
             ON CONFLICT (key) DO UPDATE SET since = min(since, excluded.since)",
        )?
        .execute(params![blob.as_str(), since])?;
    Ok(())
}

/// Ends the grace of a blob that is listed for deletion.
pub(super) fn hasten(step: &Step<'_>, blob: &BlobKey) -> StoreResult<()> {
    step.conn.prepare_cached("UPDATE garbage SET since = 0 WHERE key = ?1")?.execute([blob.as_str()])?;
    Ok(())
}

/// Does what [`verbatim_core::ports::JobUpkeep::take_garbage`] says.
pub(super) fn take(step: &Step<'_>, request: GarbageRequest) -> StoreResult<Vec<BlobKey>> {
    let GarbageRequest { most, grace, hold } = request;
    let due = before(step.now, grace);
    let hold = i64::try_from(hold.as_millis()).unwrap_or(i64::MAX / i64::from(LONGEST_HOLD));
    let keys: Vec<String> = step
        .conn
        .prepare_cached(
            "UPDATE garbage SET takes = takes + 1, since = ?1 + ?2 * (1 << min(takes, ?3))
             WHERE key IN (SELECT key FROM garbage WHERE since <= ?1 ORDER BY since, key LIMIT ?4) RETURNING key",
        )?
        .query_map(
            params![due, hold, LONGEST_HOLD.ilog2(), most.min(MAX_BLOBS_PER_CALL) as i64],
            |row| row.get(0),
        )?
        .collect::<Result<_, _>>()?;
    Ok(readable(keys))
}

/// Whether a blob is due.
pub(super) fn is_any(conn: &Connection, now: Timestamp, grace: Duration) -> StoreResult<bool> {
    job::exists(conn, "SELECT 1 FROM garbage WHERE since <= ?1", [before(now, grace)])
}

/// The time `grace` ago in milliseconds.
fn before(now: Timestamp, grace: Duration) -> i64 {
    now.as_millis().saturating_sub(i64::try_from(grace.as_millis()).unwrap_or(i64::MAX))
}

/// Takes blobs that are gone off the list.
pub(super) fn deleted(step: &Step<'_>, keys: &[BlobKey]) -> StoreResult<()> {
    let mut statement = step.conn.prepare_cached("DELETE FROM garbage WHERE key = ?1")?;
    for key in keys {
        statement.execute([key.as_str()])?;
    }
    Ok(())
}

/// What the blob is to the jobs: audio is needed until they have succeeded or their dead letters are forgotten, a result as
/// long as it is kept, and the result that the holder of a lease may be writing now.
pub(super) fn fate(conn: &Connection, key: &BlobKey) -> StoreResult<BlobFate> {
    let audio = "SELECT 1 FROM jobs WHERE blob = ?1 AND state IN ('queued','delayed','running','failed')";
    Ok(
        if job::exists(conn, audio, [key.as_str()])?
            || job::exists(conn, "SELECT 1 FROM jobs WHERE result = ?1", [key.as_str()])?
            || is_being_written(conn, key)?
        {
            BlobFate::Needed
        } else if job::exists(conn, "SELECT 1 FROM garbage WHERE key = ?1", [key.as_str()])? {
            BlobFate::ToBeDeleted
        } else {
            BlobFate::Unknown
        },
    )
}

fn is_being_written(conn: &Connection, key: &BlobKey) -> StoreResult<bool> {
    let Some((folder, name)) = key.as_str().rsplit_once('/') else { return Ok(false) };
    let job = folder.rsplit('/').next().and_then(|part| JobId::parse(part).ok());
    let Some(job) = job else { return Ok(false) };
    let job = match error::readable(job::load(conn, job.as_str()))? {
        Ok(Some(job)) => job,
        Ok(None) => return Ok(false),
        // It may hold a lease.
        Err(_) => return Ok(true),
    };
    let Some(nonce) = job.nonce.filter(|_| job.state == JobState::Running) else { return Ok(false) };
    Ok(name == format!("{}-{}", job.fence, nonce.as_str()))
}
