//! Who this job store is, where it keeps blobs: a row that is made with the database.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use verbatim_core::PortError;
use verbatim_core::ids::StoreId;
use verbatim_core::ports::ownership::{BlobOwner, Identity};

use super::error::StoreResult;
use super::job::{parsed, signed, unsigned};
use super::writer::Step;
use super::{SqliteStore, books, schema};

/// Gives the store its id, unless it has one.
pub(super) fn make(step: &mut Step<'_>) -> StoreResult<()> {
    let id = StoreId::generate(step.ids);
    step.conn.execute("INSERT OR IGNORE INTO store (one, id) VALUES (1, ?1)", [id.as_str()])?;
    Ok(())
}

/// The id of the job store in a data folder, beside whatever server has it; `None` for one that was last written by a
/// version whose stores had none.
///
/// # Errors
/// `NotFound` when no server has ever run there; `Unavailable` and `Internal` as SQLite says.
pub fn store_id(folder: &Path) -> Result<Option<StoreId>, PortError> {
    let path = books::database_in(folder)?;
    let read = || id_where(&schema::open_reader(&path)?, "SELECT id FROM store");
    Ok(read()?)
}

/// The id of a store that has marked where its blobs lie.
pub(super) fn marked_id(conn: &Connection) -> StoreResult<Option<StoreId>> {
    id_where(conn, "SELECT id FROM store WHERE mark > 0")
}

/// What the query finds, unless the database is of a version whose stores had no ids.
fn id_where(conn: &Connection, query: &str) -> StoreResult<Option<StoreId>> {
    if !conn.prepare("SELECT 1 FROM sqlite_master WHERE name = 'store'")?.exists([])? {
        return Ok(None);
    }
    let id: Option<String> = conn.query_row(query, [], |row| row.get(0)).optional()?;
    id.map(|id| parsed(StoreId::parse(&id))).transpose()
}

fn until(step: &Step<'_>, time: Duration) -> i64 {
    step.now.plus(time).as_millis()
}

#[async_trait]
impl BlobOwner for SqliteStore {
    async fn identity(&self) -> Result<Identity, PortError> {
        self.readers
            .run(|conn| {
                let (id, mark): (String, i64) =
                    conn.query_row("SELECT id, mark FROM store", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
                Ok(Identity { id: parsed(StoreId::parse(&id))?, mark: unsigned(mark) })
            })
            .await
    }

    async fn raise_mark(&self, above: u64) -> Result<u64, PortError> {
        self.writer
            .call(move |step| {
                let mark = step.conn.query_row(
                    "UPDATE store SET mark = max(mark, ?1) + 1 RETURNING mark",
                    [signed(above)],
                    |row| row.get(0),
                )?;
                Ok(unsigned(mark))
            })
            .await
    }

    /// There is one process, and it is always its turn.
    async fn take_sweep(&self, _node: &str, _turn: Duration) -> Result<bool, PortError> {
        let now = self.clock.now().as_millis();
        self.readers
            .run(move |conn| {
                Ok(conn.query_row("SELECT quiet_until <= ?1 FROM store", [now], |row| row.get(0))?)
            })
            .await
    }

    async fn forbid_sweeps(&self, time: Duration) -> Result<(), PortError> {
        self.writer
            .call(move |step| {
                step.conn.execute(
                    "UPDATE store SET quiet_until = max(quiet_until, ?1)",
                    params![until(step, time)],
                )?;
                Ok(())
            })
            .await
    }
}
