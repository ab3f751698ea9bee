//! API keys and the caps of their tenants: a database of their own beside the job store, and not under its lock, so that keys are made and revoked
//! while a server runs.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use rusqlite_migration::M;
use verbatim_core::PortError;
use verbatim_core::api_key::{KeyRecord, NewKey};
use verbatim_core::ids::{KeyId, TenantId};
use verbatim_core::job::TenantCaps;
use verbatim_core::ports::Directory;
use verbatim_core::time::{Clock, Timestamp};

use super::error::StoreResult;
use super::job::{parsed, signed, unsigned};
use super::readers::Readers;
use super::{KEYS_DATABASE, private, schema};

pub(super) const MIGRATIONS: &[M<'static>] =
    &[M::up(include_str!("migrations/keys_0001.sql")), M::up(include_str!("migrations/keys_0002.sql"))];

/// The keys of one machine, on one SQLite file that several processes may have open.
pub struct SqliteDirectory {
    /// Keys are made by hand, one at a time.
    writer: Arc<Mutex<Connection>>,
    readers: Readers,
    clock: Arc<dyn Clock>,
}

impl SqliteDirectory {
    /// Opens `keys.db` in the data folder, which is made when it is missing. Blocks on the disk for a moment.
    ///
    /// # Errors
    /// `Conflict` when a newer version wrote the database; `OutOfSpace`, `Unavailable` and `Internal` as the disk and
    /// SQLite say.
    pub fn open(folder: &Path, clock: Arc<dyn Clock>) -> Result<Self, PortError> {
        private::make_data_folder(folder)?;
        let path = folder.join(KEYS_DATABASE);
        let conn = schema::open_database(&path, MIGRATIONS).map_err(about_keys)?;
        Ok(Self { writer: Arc::new(Mutex::new(conn)), readers: Readers::new(&path), clock })
    }

    /// Runs `write`, which is one statement and so one step, on a thread that may block.
    async fn write<T, W>(&self, write: W) -> Result<T, PortError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> StoreResult<T> + Send + 'static,
    {
        let writer = Arc::clone(&self.writer);
        let written = tokio::task::spawn_blocking(move || {
            write(&writer.lock().unwrap_or_else(PoisonError::into_inner)).map_err(PortError::from)
        });
        let interrupted = |error: tokio::task::JoinError| {
            PortError::new(verbatim_core::ErrorKind::Internal, "writing was interrupted").with_source(error)
        };
        written.await.map_err(interrupted).flatten().map_err(about_keys)
    }
}

/// The same error, told apart in the log from one of the job store.
fn about_keys(error: PortError) -> PortError {
    PortError::new(error.kind(), format!("the database of API keys, {KEYS_DATABASE}, cannot be used"))
        .with_source(error)
}

#[async_trait]
impl Directory for SqliteDirectory {
    async fn add(&self, key: NewKey) -> Result<(), PortError> {
        self.write(move |conn| {
            conn.execute(
                "INSERT INTO keys (id, tenant, created_at, record) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO NOTHING",
                params![
                    key.id.as_str(),
                    key.principal.tenant.as_str(),
                    key.created_at.as_millis(),
                    serde_json::to_string(&key)?
                ],
            )?;
            Ok(())
        })
        .await
    }

    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, PortError> {
        let id = id.clone();
        let read = move |conn: &Connection| {
            let row = conn
                .prepare_cached("SELECT record, revoked_at FROM keys WHERE id = ?1")?
                .query_row([id.as_str()], columns)
                .optional()?;
            row.map(record).transpose()
        };
        self.readers.run(read).await.map_err(about_keys)
    }

    async fn list(&self, tenant: Option<&TenantId>) -> Result<Vec<KeyRecord>, PortError> {
        let tenant = tenant.cloned();
        let read = move |conn: &Connection| {
            let rows = match tenant {
                Some(tenant) => conn
                    .prepare_cached(
                        "SELECT record, revoked_at FROM keys WHERE tenant = ?1 ORDER BY created_at, id",
                    )?
                    .query_map([tenant.as_str()], columns)?
                    .collect::<Result<Vec<_>, _>>()?,
                None => conn
                    .prepare_cached("SELECT record, revoked_at FROM keys ORDER BY created_at, id")?
                    .query_map([], columns)?
                    .collect::<Result<Vec<_>, _>>()?,
            };
            rows.into_iter().map(record).collect()
        };
        self.readers.run(read).await.map_err(about_keys)
    }

    async fn revoke(&self, id: &KeyId) -> Result<bool, PortError> {
        let (id, now) = (id.clone(), self.clock.now());
        self.write(move |conn| {
            let revoked = conn.execute(
                "UPDATE keys SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1",
                params![id.as_str(), now.as_millis()],
            )?;
            Ok(revoked > 0)
        })
        .await
    }

    async fn cap(&self, tenant: &TenantId, caps: TenantCaps) -> Result<(), PortError> {
        let tenant = tenant.clone();
        let TenantCaps { max_running, max_queued } = caps;
        self.write(move |conn| {
            conn.execute(
                "INSERT INTO tenants (tenant, max_running, max_queued) VALUES (?1, ?2, ?3)
                 ON CONFLICT (tenant) DO UPDATE SET max_running = excluded.max_running, max_queued = excluded.max_queued",
                params![tenant.as_str(), max_running.map(signed), max_queued.map(signed)],
            )?;
            Ok(())
        })
        .await
    }

    async fn caps(&self) -> Result<Vec<(TenantId, TenantCaps)>, PortError> {
        let read = |conn: &Connection| {
            let mut statement =
                conn.prepare_cached("SELECT tenant, max_running, max_queued FROM tenants ORDER BY tenant")?;
            let rows = statement.query_map([], |row| {
                let (running, queued): (Option<i64>, Option<i64>) = (row.get(1)?, row.get(2)?);
                let caps =
                    TenantCaps { max_running: running.map(unsigned), max_queued: queued.map(unsigned) };
                Ok((row.get::<_, String>(0)?, caps))
            })?;
            rows.map(|row| {
                let (tenant, caps) = row?;
                Ok((parsed(TenantId::parse(&tenant))?, caps))
            })
            .collect::<StoreResult<_>>()
        };
        self.readers.run(read).await.map_err(about_keys)
    }

    async fn revision(&self) -> Result<u64, PortError> {
        let read = |conn: &Connection| {
            let number: i64 =
                conn.prepare_cached("SELECT number FROM revision")?.query_row([], |row| row.get(0))?;
            Ok(unsigned(number))
        };
        self.readers.run(read).await.map_err(about_keys)
    }
}

fn columns(row: &Row<'_>) -> rusqlite::Result<(String, Option<i64>)> {
    Ok((row.get(0)?, row.get(1)?))
}

fn record((key, revoked_at): (String, Option<i64>)) -> StoreResult<KeyRecord> {
    Ok(KeyRecord { key: serde_json::from_str(&key)?, revoked_at: revoked_at.map(Timestamp::from_millis) })
}
