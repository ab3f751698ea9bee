//! Where the API keys lie: with the jobs.

use std::sync::Arc;

use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::Directory;
use verbatim_queue::{RedisConfig, RedisStore, SqliteDirectory};

use crate::config::Config;
use crate::system::{SystemClock, SystemIds};

/// The directory of keys: in the cluster's Redis, or in a file of the data folder, which a server may have open as well.
///
/// # Errors
/// When it cannot be opened.
pub async fn open_directory(config: &Config) -> anyhow::Result<Arc<dyn Directory>> {
    let Some(url) = &config.redis.url else {
        return Ok(Arc::new(SqliteDirectory::open(&config.storage.data_dir, Arc::new(SystemClock))?));
    };
    let store = RedisStore::connect(RedisConfig {
        url: url.expose().to_owned(),
        prefix: config.redis.prefix.clone(),
        policy: StorePolicy::default(),
        ids: Arc::new(SystemIds::default()),
    });
    Ok(Arc::new(store.await?))
}
