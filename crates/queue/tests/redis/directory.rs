//! The directory of keys in Redis, against the suite that every directory must pass.

use std::sync::Arc;

use async_trait::async_trait;
use verbatim_core::PortError;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::Directory;
use verbatim_core::time::Clock;
use verbatim_queue::RedisStore;
use verbatim_queue::conformance::SeededIds;
use verbatim_queue::conformance::directory::DirectoryHarness;

use crate::support::RedisHarness;

struct Keys(RedisHarness);

#[async_trait]
impl DirectoryHarness for Keys {
    async fn empty(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn Directory>, PortError> {
        let config = self.0.config(StorePolicy::default(), Arc::new(SeededIds::starting_at(1)));
        Ok(Arc::new(RedisStore::connect_with_clock(config, clock).await?))
    }
}

verbatim_queue::directory_conformance_suite!(Keys(RedisHarness::new()));
