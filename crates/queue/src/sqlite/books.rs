//! The books and what tenants take up, for reading only, beside whatever server has the data folder: not under its lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use verbatim_core::caps::TenantUse;
use verbatim_core::ids::{JobId, TenantId};
use verbatim_core::ports::ledger::{Charge, Day, DayTotal};
use verbatim_core::time::Clock;
use verbatim_core::{ErrorKind, PortError};

use super::DATABASE;
use super::ledger::{self, KEPT_DAYS};
use super::readers::Readers;
use super::tenants;

/// The books in a data folder.
pub struct SqliteBooks {
    readers: Readers,
    clock: Arc<dyn Clock>,
}

impl SqliteBooks {
    /// Finds the database in the folder; it is opened when it is first asked.
    ///
    /// # Errors
    /// `NotFound` when no server has ever run on this folder.
    pub fn open(folder: &Path, clock: Arc<dyn Clock>) -> Result<Self, PortError> {
        Ok(Self { readers: Readers::new(&database_in(folder)?), clock })
    }

    /// As [`verbatim_core::ports::Ledger::totals`].
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`; `Internal` also where only an older version of the server has ever run.
    pub async fn totals(&self, from: Day, to: Day) -> Result<Vec<DayTotal>, PortError> {
        let from = from.max(Day::of(self.clock.now()).earlier(KEPT_DAYS));
        self.readers.run(move |conn| ledger::totals(conn, from, to)).await
    }

    /// As [`verbatim_core::ports::Ledger::of_job`].
    ///
    /// # Errors
    /// As [`Self::totals`].
    pub async fn of_job(&self, job_id: &JobId) -> Result<Vec<Charge>, PortError> {
        let job_id = job_id.clone();
        self.readers.run(move |conn| ledger::of_job(conn, &job_id)).await
    }

    /// As [`verbatim_core::ports::JobAdmin::tenants`].
    ///
    /// # Errors
    /// As [`Self::totals`].
    pub async fn tenants(&self, tenants: &[TenantId]) -> Result<Vec<TenantUse>, PortError> {
        let all = tenants.to_vec();
        self.readers.run(move |conn| all.iter().map(|one| tenants::takes_up(conn, one)).collect()).await
    }
}

/// The database in a data folder; `NotFound` when no server has ever run on it.
pub(super) fn database_in(folder: &Path) -> Result<PathBuf, PortError> {
    let path = folder.join(DATABASE);
    if path.exists() {
        return Ok(path);
    }
    let message =
        format!("there is no {}: no server has run there; choose another --data-dir", path.display());
    Err(PortError::new(ErrorKind::NotFound, message))
}
