//! Where API keys and the caps of tenants lie: with the jobs.

use std::path::PathBuf;
use std::sync::Arc;

use verbatim_core::caps::{AllCaps, MAX_TENANTS_PER_CALL, TenantUse};
use verbatim_core::ids::TenantId;
use verbatim_core::job::TenantCaps;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::{Directory, JobAdmin};
use verbatim_core::time::Clock;
use verbatim_core::{ErrorKind, PortError};
use verbatim_queue::{RedisConfig, RedisStore, SqliteBooks, SqliteDirectory};

use crate::config::Config;
use crate::system::{SystemClock, SystemIds};

/// The directory of keys and the jobs beside it, for commands.
pub struct Administration {
    /// The directory: in the cluster's Redis, or in a file of the data folder, which a server may have open as well.
    pub directory: Arc<dyn Directory>,
    jobs: Jobs,
}

/// Where the jobs are.
enum Jobs {
    Cluster(Arc<RedisStore>),
    /// In a data folder, where only the server writes.
    Folder(PathBuf),
}

impl Administration {
    /// What the configuration names.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let Some(url) = &config.redis.url else {
            let folder = config.storage.data_dir.clone();
            let directory = Arc::new(SqliteDirectory::open(&folder, Arc::new(SystemClock))?);
            return Ok(Self { directory, jobs: Jobs::Folder(folder) });
        };
        let store = RedisStore::connect(RedisConfig {
            url: url.expose().to_owned(),
            prefix: config.redis.prefix.clone(),
            policy: StorePolicy::default(),
            ids: Arc::new(SystemIds::default()),
        });
        let store = Arc::new(store.await?);
        Ok(Self { directory: store.clone(), jobs: Jobs::Cluster(store) })
    }

    /// Puts in force what the directory says now. In a data folder the server does that, within a second; in a cluster its
    /// API nodes would, so that a failure is told and no more.
    pub async fn put_in_force(&self) {
        let Jobs::Cluster(store) = &self.jobs else { return };
        let applying =
            async { AllCaps::read(store.as_ref(), SystemClock.now()).await?.apply(store.as_ref()).await };
        if let Err(error) = applying.await {
            eprintln!("the API nodes put it in force, within seconds: from here it failed ({error})");
        }
    }

    /// What these tenants take up.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn tenants(&self, tenants: &[TenantId]) -> Result<Vec<TenantUse>, PortError> {
        let mut found = Vec::with_capacity(tenants.len());
        for some in tenants.chunks(MAX_TENANTS_PER_CALL) {
            found.extend(match &self.jobs {
                Jobs::Cluster(store) => store.tenants(some).await?,
                Jobs::Folder(folder) => match SqliteBooks::open(folder, Arc::new(SystemClock)) {
                    Ok(books) => books.tenants(some).await?,
                    Err(error) if error.kind() == ErrorKind::NotFound => nothing_yet(some),
                    Err(error) => return Err(error),
                },
            });
        }
        Ok(found)
    }
}

/// Of tenants whose server has never run.
fn nothing_yet(tenants: &[TenantId]) -> Vec<TenantUse> {
    let nothing = |tenant: &TenantId| TenantUse {
        tenant: tenant.clone(),
        running: 0,
        waiting: 0,
        submissions: 0,
        caps: TenantCaps::default(),
    };
    tenants.iter().map(nothing).collect()
}
