//! How long isolated jobs wait in a busy cluster: 1,000 workers with 32 slots, jobs of ten minutes, on a Redis and a virtual
//! clock. `isolated_wait URL [WORKERS] [SLOTS] [JOB SECONDS] [ISOLATED JOBS]`; takes minutes of real time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use verbatim_core::PortError;
use verbatim_core::ids::IdSource;
use verbatim_core::options::Priority;
use verbatim_core::policy::StorePolicy;
use verbatim_core::time::Clock;
use verbatim_queue::conformance::service::{Cluster, Load, Place, keeps_to_it};
use verbatim_queue::conformance::{Harness, Verdict};
use verbatim_queue::{RedisConfig, RedisStore};

struct OnRedis(String);

#[async_trait]
impl Harness for OnRedis {
    type Store = RedisStore;

    async fn fresh(
        &self,
        policy: StorePolicy,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
    ) -> Result<RedisStore, PortError> {
        let prefix = format!("isolated-{}", std::process::id());
        RedisStore::connect_with_clock(RedisConfig { url: self.0.clone(), prefix, policy, ids }, clock).await
    }

    async fn audit(&self, _: &RedisStore) -> Verdict {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url =
        arguments.next().context("isolated_wait URL [WORKERS] [SLOTS] [JOB SECONDS] [ISOLATED JOBS]")?;
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse::<u64>());
    let (workers, slots, secs, isolated) = (number(1000)?, number(32)?, number(600)?, number(200)?);
    let cluster = Cluster { workers, slots, tenants: 3 };
    let load = Load {
        isolated: (0..isolated).map(|number| (number % 3, Priority::Normal)).collect(),
        backlog: (0..90).map(|number| (number % 3, Priority::Normal)).collect(),
        claims: 3 * workers * slots,
        job: Duration::from_secs(secs),
        cluster,
    };
    let last = Place { tier: Priority::Normal, ahead: isolated.div_ceil(3), isolated: Some(isolated) };
    println!("at most {} others before the last", load.cluster.most_before(last));
    let mut waits = keeps_to_it(&OnRedis(url), &load).await?;
    waits.sort();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    println!(
        "{workers} workers with {slots} slots, jobs of {secs} s: {} of {isolated} isolated jobs began, after {:.0?} at first, \
         {:.0?} in the median, {:.0?} at last",
        waits.len(),
        at(0.0),
        at(0.5),
        at(1.0)
    );
    Ok(())
}
