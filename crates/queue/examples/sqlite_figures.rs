//! How fast the SQLite store is on this machine and disk: `cargo run --release -p verbatim-queue --example sqlite_figures`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use verbatim_core::PortError;
use verbatim_core::ids::IdSource;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::{JobClient, JobLeases, JobUpkeep};
use verbatim_core::time::Clock;
use verbatim_queue::conformance::{Harness, Verdict, World};
use verbatim_queue::{SqliteConfig, SqliteStore};

struct Folder(PathBuf);

#[async_trait::async_trait]
impl Harness for Folder {
    type Store = SqliteStore;

    async fn fresh(
        &self,
        policy: StorePolicy,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
    ) -> Result<SqliteStore, PortError> {
        SqliteStore::open(SqliteConfig { folder: self.0.clone(), policy, clock, ids })
    }

    async fn audit(&self, _store: &SqliteStore) -> Verdict {
        Ok(())
    }
}

fn per_second(what: &str, count: usize, since: Instant) {
    println!(
        "{what}: {count} in {:.2?}, {:.0}/s",
        since.elapsed(),
        count as f64 / since.elapsed().as_secs_f64()
    );
}

fn percentiles(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{what}: median {:.2?}, 99 % within {:.2?}, all within {:.2?}", at(0.5), at(0.99), at(1.0));
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let temporary = tempfile::tempdir_in(".")?;
    let harness = Folder(temporary.path().to_owned());
    let world = &World::open(&harness).await?;

    let start = Instant::now();
    for number in 0..200 {
        world.ticket(&format!("sequential {number}")).await?;
    }
    per_second("submits, one after the other", 200, start);

    let start = Instant::now();
    let submits =
        stream::iter(0..100_000).map(|number| async move { world.ticket(&format!("talk {number}")).await });
    submits.buffer_unordered(256).for_each(|outcome| async move { drop(outcome.expect("submitted")) }).await;
    per_second("submits, 256 at once", 100_000, start);

    let worker = world.worker();
    let (mut claims, mut completions) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        let start = Instant::now();
        let leases = world.claim(&worker, 1).await?;
        claims.push(start.elapsed());
        let start = Instant::now();
        for lease in &leases {
            world.complete(lease).await?;
        }
        completions.push(start.elapsed());
    }
    percentiles("claim of one among 100,000 queued", claims);
    percentiles("complete", completions);

    let start = Instant::now();
    let leases = world.claim(&worker, 256).await?;
    println!("claim of {}: {:.2?}", leases.len(), start.elapsed());
    let start = Instant::now();
    let tokens: Vec<_> = leases.iter().map(|lease| lease.token.clone()).collect();
    world.store.renew(&tokens, Duration::from_secs(30)).await?;
    println!("renewal of 256: {:.2?}", start.elapsed());
    let start = Instant::now();
    world.store.tick().await?;
    println!("tick with nothing due: {:.2?}", start.elapsed());
    let start = Instant::now();
    world.store.stats().await?;
    println!("stats: {:.2?}", start.elapsed());
    let last = world.ticket("last").await?;
    let start = Instant::now();
    let position =
        world.store.get(&world.tenant(), &last).await?.and_then(|submission| submission.queue_position);
    println!("get of the last in the queue (place {position:?}): {:.2?}", start.elapsed());
    Ok(())
}
