//! The job store of one machine: an SQLite file in the data folder. One writer thread groups commits, a few
//! connections read beside it, and a lock on the folder keeps a second server away.

mod admin;
mod books;
mod cancel;
mod caps;
mod checkpoints;
mod claim;
mod counters;
mod directory;
#[cfg(test)]
mod disk_full_test;
mod error;
mod events;
mod garbage;
mod job;
mod lanes;
mod lapses;
mod leases;
mod ledger;
mod limiter;
mod lock;
mod owner;
mod ports;
mod position;
mod private;
mod readers;
mod schema;
mod shared_state;
mod snapshot;
mod submission;
mod submit;
mod tenants;
mod tick;
mod tiers;
mod transitions;
mod views;
mod watch;
mod writer;
#[cfg(test)]
mod writer_test;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use verbatim_core::ids::IdSource;
use verbatim_core::policy::StorePolicy;
use verbatim_core::time::Clock;
use verbatim_core::{ErrorKind, PortError};

pub use books::SqliteBooks;
pub use directory::SqliteDirectory;
pub use lock::FolderLock;
pub use owner::store_id;
pub use private::make_data_folder;
use readers::Readers;
pub use snapshot::{Schemas, Snapshot};
use watch::Signals;
use writer::{Writer, WriterContext};

use crate::checkpoints::Checkpoints;
use crate::limiter::Requests;

/// The name of the jobs' database in the data folder.
pub const DATABASE: &str = "jobs.db";
/// That of the API keys.
pub const KEYS_DATABASE: &str = "keys.db";
/// The name of the file whose lock tells that a server has the data folder.
pub const LOCK: &str = lock::LOCK;
/// The folder in the data folder where what a backup holds waits to be put in place; gone when all of it is.
pub const RESTORING: &str = "restoring";

/// Where the store lies and by which rules it works.
pub struct SqliteConfig {
    /// The data folder; made when it is missing. The store keeps `jobs.db` and `lock` in it.
    pub folder: PathBuf,
    /// The rules.
    pub policy: StorePolicy,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where jitter comes from.
    pub ids: Arc<dyn IdSource>,
}

/// The job store: [`verbatim_core::ports::JobClient`], [`verbatim_core::ports::JobLeases`],
/// [`verbatim_core::ports::JobAdmin`] and [`verbatim_core::ports::JobUpkeep`] on one SQLite file. Besides,
/// [`verbatim_core::ports::SharedState`] and [`verbatim_core::ports::Ledger`] in the same file, and
/// [`verbatim_core::ports::Limiter`] in memory.
pub struct SqliteStore {
    // Dropped in this order: the writer finishes what it accepted before the folder is given away.
    writer: Writer,
    readers: Readers,
    signals: Arc<Signals>,
    clock: Arc<dyn Clock>,
    requests: Mutex<Requests>,
    checkpoints: Checkpoints,
    policy: StorePolicy,
    _lock: FolderLock,
}

impl SqliteStore {
    /// Takes the folder, brings the schema up to date and takes back the leases of the process that had it before.
    /// Blocks on the disk for a moment.
    ///
    /// # Errors
    /// `Conflict` when another server holds the folder, a newer version wrote the database or a restore broke off;
    /// `OutOfSpace`,
    /// `Unavailable` and `Internal` as the disk and SQLite say.
    pub fn open(config: SqliteConfig) -> Result<Self, PortError> {
        let SqliteConfig { folder, policy, clock, ids } = config;
        make_data_folder(&folder)?;
        let lock = FolderLock::take(&folder)?;
        if folder.join(RESTORING).exists() {
            let message = format!(
                "a restore into {} broke off: empty the folder and restore again, or choose another --data-dir",
                folder.display()
            );
            return Err(PortError::new(ErrorKind::Conflict, message));
        }
        let path = folder.join(DATABASE);
        let conn = schema::open_writer(&path)?;
        let signals = Arc::new(Signals::default());
        let context = WriterContext { policy, clock: Arc::clone(&clock), ids, signals: Arc::clone(&signals) };
        writer::run_once(&conn, &context, owner::make)?;
        let taken_back = writer::run_once(&conn, &context, |step| {
            lapses::forget_ticks(step)?;
            transitions::take_back_all(step)
        })?;
        if taken_back > 0 {
            tracing::info!(jobs = taken_back, "took jobs back that were running when the last process ended");
        }
        let writer = Writer::start(conn, context)?;
        Ok(Self {
            writer,
            readers: Readers::new(&path),
            signals,
            clock,
            requests: Mutex::default(),
            checkpoints: Checkpoints::default(),
            policy,
            _lock: lock,
        })
    }
}
