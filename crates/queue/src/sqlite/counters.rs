//! Numbers that must survive a restart: both ends of the queue, the virtual times of its tiers, and what triggers count.

use rusqlite::{Connection, params};

use super::error::StoreResult;

/// The number called `name`.
pub(super) fn read(conn: &Connection, name: &str) -> StoreResult<i64> {
    let mut statement = conn.prepare_cached("SELECT value FROM counters WHERE name = ?1")?;
    Ok(statement.query_row([name], |row| row.get(0))?)
}

/// Sets it.
pub(super) fn write(conn: &Connection, name: &str, value: i64) -> StoreResult<()> {
    conn.prepare_cached("UPDATE counters SET value = ?2 WHERE name = ?1")?.execute(params![name, value])?;
    Ok(())
}

/// The next place behind all others.
pub(super) fn tail(conn: &Connection) -> StoreResult<i64> {
    add(conn, "queue_tail", 1)
}

/// The next place before all others.
pub(super) fn head(conn: &Connection) -> StoreResult<i64> {
    add(conn, "queue_head", -1)
}

/// Changes it, and returns what it is then.
pub(super) fn add(conn: &Connection, name: &str, by: i64) -> StoreResult<i64> {
    let mut statement =
        conn.prepare_cached("UPDATE counters SET value = value + ?2 WHERE name = ?1 RETURNING value")?;
    Ok(statement.query_row(params![name, by], |row| row.get(0))?)
}
