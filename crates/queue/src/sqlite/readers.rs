//! Read-only connections beside the writer. A read sees everything that was acknowledged before it began.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;
use verbatim_core::{ErrorKind, PortError};

use super::error::StoreResult;
use super::schema::open_reader;

/// Reads that run at once.
const CONNECTIONS: usize = 4;

/// A small pool; clones share it.
#[derive(Clone)]
pub(super) struct Readers {
    pool: Arc<Pool>,
}

struct Pool {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    fn take(&self) -> StoreResult<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(conn) => Ok(conn),
            None => open_reader(&self.path),
        }
    }

    fn put_back(&self, conn: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
    }
}

impl Readers {
    /// Connections are opened when they are first needed.
    pub(super) fn new(path: &Path) -> Self {
        let pool = Pool {
            path: path.to_owned(),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
            idle: Mutex::new(Vec::with_capacity(CONNECTIONS)),
        };
        Self { pool: Arc::new(pool) }
    }

    /// Runs `read` on a snapshot, on a thread that may block.
    pub(super) async fn run<T, R>(&self, read: R) -> Result<T, PortError>
    where
        T: Send + 'static,
        R: FnOnce(&Connection) -> StoreResult<T> + Send + 'static,
    {
        let stopped = |source: Box<dyn std::error::Error + Send + Sync>| {
            PortError::new(ErrorKind::Unavailable, "reading the job store was interrupted")
                .with_source(source)
        };
        let permit =
            Arc::clone(&self.pool.permits).acquire_owned().await.map_err(|error| stopped(error.into()))?;
        let pool = Arc::clone(&self.pool);
        let outcome = tokio::task::spawn_blocking(move || {
            let mut conn = pool.take()?;
            let snapshot = conn.transaction()?;
            let outcome = read(&snapshot);
            drop(snapshot);
            pool.put_back(conn);
            drop(permit);
            outcome
        })
        .await
        .map_err(|error| stopped(error.into()))?;
        Ok(outcome?)
    }
}
