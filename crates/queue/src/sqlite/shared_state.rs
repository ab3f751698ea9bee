//! Small values that change by compare-and-set, and survive a restart.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use verbatim_core::PortError;
use verbatim_core::ports::SharedState;
use verbatim_core::ports::shared_state::{Reading, Replacement, Versioned};
use verbatim_core::time::Timestamp;

use super::error::StoreResult;
use super::job::unsigned;
use super::writer::Step;
use super::{SqliteStore, counters};

#[async_trait]
impl SharedState for SqliteStore {
    async fn read(&self, name: &str) -> Result<Reading, PortError> {
        let (name, now) = (name.to_owned(), self.clock.now());
        let current = self.readers.run(move |conn| current(conn, &name, now)).await?;
        Ok(Reading { current, now })
    }

    async fn replace(&self, name: &str, replacement: Replacement) -> Result<bool, PortError> {
        let name = name.to_owned();
        self.writer.call(move |step| replace(step, &name, &replacement)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>, PortError> {
        let (prefix, now) = (prefix.to_owned(), self.clock.now());
        self.readers.run(move |conn| list(conn, &prefix, now)).await
    }
}

fn current(conn: &Connection, name: &str, now: Timestamp) -> StoreResult<Option<Versioned>> {
    let found: Option<(i64, String)> = conn
        .prepare_cached("SELECT version, value FROM shared_values WHERE name = ?1 AND expires_at > ?2")?
        .query_row(params![name, now.as_millis()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(found.map(|(version, value)| Versioned { version: unsigned(version), value }))
}

fn replace(step: &mut Step<'_>, name: &str, replacement: &Replacement) -> StoreResult<bool> {
    let version = current(step.conn, name, step.now)?.map(|current| current.version);
    if version != replacement.expected {
        return Ok(false);
    }
    let next = counters::add(step.conn, "shared_version", 1)?;
    step.conn
        .prepare_cached(
            "INSERT OR REPLACE INTO shared_values (name, version, value, expires_at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![name, next, replacement.value, step.now.plus(replacement.ttl).as_millis()])?;
    Ok(true)
}

fn list(conn: &Connection, prefix: &str, now: Timestamp) -> StoreResult<Vec<(String, String)>> {
    // Not LIKE: names may hold its wildcards.
    let mut statement = conn.prepare_cached(
        "SELECT name, value FROM shared_values
         WHERE name >= ?1 AND substr(name, 1, length(?1)) = ?1 AND expires_at > ?2 ORDER BY name",
    )?;
    let rows = statement.query_map(params![prefix, now.as_millis()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Forgets at most so many values that have expired.
pub(super) fn forget_expired(step: &Step<'_>, most: i64) -> StoreResult<()> {
    step.conn
        .prepare_cached(
            "DELETE FROM shared_values WHERE name IN (
                 SELECT name FROM shared_values WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
        )?
        .execute(params![step.now.as_millis(), most])?;
    Ok(())
}
