//! Opening connections and bringing the schema up to date.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::{Error as MigrationError, M, MigrationDefinitionError, Migrations};
use verbatim_core::{ErrorKind, PortError};

use super::error::{StoreError, StoreResult};
use super::private;

pub(super) const MIGRATIONS: &[M<'static>] = &[
    M::up(include_str!("migrations/0001_jobs.sql")),
    M::up(include_str!("migrations/0002_tenants.sql")),
    M::up(include_str!("migrations/0003_providers.sql")),
    M::up(include_str!("migrations/0004_traces.sql")),
    M::up(include_str!("migrations/0005_isolation.sql")),
    M::up(include_str!("migrations/0007_blobs.sql")),
    M::up(include_str!("migrations/0008_lanes.sql")),
    M::up(include_str!("migrations/0009_outages.sql")),
    M::up(include_str!("migrations/0010_checkpoints.sql")),
    M::up(include_str!("migrations/0011_shares.sql")),
    M::up(include_str!("migrations/0012_caps.sql")),
];

/// Readers and the writer do not wait for each other in WAL mode, except for moments of recovery.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a database that another process is just making is tried again, and after how long.
const OPEN_TRIES: u32 = 100;
const OPEN_PAUSE: Duration = Duration::from_millis(20);

/// Prepared statements kept per connection; there are about a hundred.
const STATEMENTS: usize = 128;

fn tune(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.pragma_update(None, "foreign_keys", true)
}

/// The one connection that writes the job store, with the newest schema.
pub(super) fn open_writer(path: &Path) -> Result<Connection, PortError> {
    open_database(path, MIGRATIONS)
}

/// A connection that writes, with these migrations done.
pub(super) fn open_database(path: &Path, migrations: &[M<'static>]) -> Result<Connection, PortError> {
    let mut tries = 0;
    loop {
        match try_to_open(path, migrations) {
            // Another process is making the same file: SQLite does not wait for that, whatever its busy timeout says.
            Err(error) if error.kind() == ErrorKind::Unavailable && tries < OPEN_TRIES => {
                tries += 1;
                std::thread::sleep(OPEN_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn try_to_open(path: &Path, migrations: &[M<'static>]) -> Result<Connection, PortError> {
    let mut conn = prepare_writer(path)?;
    Migrations::from_slice(migrations).to_latest(&mut conn).map_err(|error| match error {
        MigrationError::MigrationDefinition(MigrationDefinitionError::DatabaseTooFarAhead) => too_new(path),
        MigrationError::RusqliteError { err, .. } => StoreError::from(err).into(),
        other => {
            PortError::new(ErrorKind::Internal, "the database's schema cannot be upgraded").with_source(other)
        }
    })?;
    Ok(conn)
}

/// What is said of a database with migrations that this version does not know.
pub(super) fn too_new(path: &Path) -> PortError {
    let message = format!(
        "{} was written by a newer version of Verbatim: upgrade this one, or choose another --data-dir",
        path.display()
    );
    PortError::new(ErrorKind::Conflict, message)
}

fn prepare_writer(path: &Path) -> StoreResult<Connection> {
    private::make_database(path)?;
    let conn = Connection::open(path)?;
    tune(&conn)?;
    let mode: String = conn.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        let message = format!(
            "{} lies on a file system without the shared memory that SQLite's WAL needs",
            path.display()
        );
        return Err(PortError::new(ErrorKind::Invalid, message).into());
    }
    // Every acknowledged write has reached the disk.
    conn.pragma_update(None, "synchronous", "full")?;
    Ok(conn)
}

/// A connection that only reads.
pub(super) fn open_reader(path: &Path) -> StoreResult<Connection> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    tune(&conn)?;
    Ok(conn)
}
