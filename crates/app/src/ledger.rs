//! Where the books lie: with the jobs. They are read beside a running server.

use std::sync::Arc;

use verbatim_core::PortError;
use verbatim_core::ids::JobId;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::Ledger;
use verbatim_core::ports::ledger::{Charge, Day, DayTotal};
use verbatim_queue::{RedisConfig, RedisStore, SqliteBooks};

use crate::config::Config;
use crate::system::{SystemClock, SystemIds};

/// The books, for reading.
pub enum Books {
    /// Of a cluster.
    Redis(Box<RedisStore>),
    /// In a data folder.
    Folder(SqliteBooks),
}

impl Books {
    /// The books: in the cluster's Redis, or in the data folder.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let Some(url) = &config.redis.url else {
            let books = SqliteBooks::open(&config.storage.data_dir, Arc::new(SystemClock))?;
            return Ok(Self::Folder(books));
        };
        let store = RedisStore::connect(RedisConfig {
            url: url.expose().to_owned(),
            prefix: config.redis.prefix.clone(),
            policy: StorePolicy::default(),
            ids: Arc::new(SystemIds::default()),
        });
        Ok(Self::Redis(Box::new(store.await?)))
    }

    /// As [`Ledger::totals`].
    ///
    /// # Errors
    /// Those of the store.
    pub async fn totals(&self, from: Day, to: Day) -> Result<Vec<DayTotal>, PortError> {
        match self {
            Self::Redis(store) => store.totals(from, to).await,
            Self::Folder(books) => books.totals(from, to).await,
        }
    }

    /// As [`Ledger::of_job`].
    ///
    /// # Errors
    /// Those of the store.
    pub async fn of_job(&self, job: &JobId) -> Result<Vec<Charge>, PortError> {
        match self {
            Self::Redis(store) => store.of_job(job).await,
            Self::Folder(books) => books.of_job(job).await,
        }
    }
}
