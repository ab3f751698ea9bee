//! The upkeep: ticks until there is no more to do, and deletes what nobody needs and nothing else.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::support::World;
use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use verbatim_core::ports::blobs::{BlobKey, put_bytes};
use verbatim_core::ports::jobs::{JobUpkeep, QueueStats, TickReport};
use verbatim_core::time::{Clock, Timestamp};
use verbatim_core::{CancellationToken, ErrorKind, PortError};
use verbatim_worker_lib::{Upkeep, UpkeepConfig};

#[derive(Default)]
struct FakeUpkeep {
    /// What the coming ticks do.
    due: Mutex<Vec<u64>>,
    orphans: Mutex<Vec<BlobKey>>,
    referenced: Mutex<HashSet<BlobKey>>,
    ticks: watch::Sender<u64>,
    down: watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panicked")
}

#[async_trait]
impl JobUpkeep for FakeUpkeep {
    async fn tick(&self) -> Result<TickReport, PortError> {
        self.ticks.send_modify(|ticks| *ticks += 1);
        if *self.down.borrow() {
            return Err(PortError::new(ErrorKind::Unavailable, "down"));
        }
        Ok(TickReport { promoted: lock(&self.due).pop().unwrap_or(0), ..TickReport::default() })
    }

    async fn orphaned_blobs(&self) -> Result<Vec<BlobKey>, PortError> {
        Ok(lock(&self.orphans).iter().take(2).cloned().collect())
    }

    async fn blobs_deleted(&self, keys: &[BlobKey]) -> Result<(), PortError> {
        lock(&self.orphans).retain(|key| !keys.contains(key));
        Ok(())
    }

    async fn is_referenced(&self, key: &BlobKey) -> Result<bool, PortError> {
        Ok(lock(&self.referenced).contains(key))
    }

    async fn stats(&self) -> Result<QueueStats, PortError> {
        Ok(QueueStats::default())
    }

    async fn ping(&self) -> Result<(), PortError> {
        Ok(())
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// So many hours after the blobs of these tests were written.
struct Later(u64);

impl Clock for Later {
    #[expect(clippy::disallowed_methods, reason = "the files carry the system's time")]
    fn now(&self) -> Timestamp {
        let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        Timestamp::from_millis(i64::try_from(age.as_millis()).expect("before the end of time"))
            .plus(Duration::from_secs(self.0 * 3600))
    }
}

fn upkeep(world: &World, store: &Arc<FakeUpkeep>, hours: u64) -> Upkeep {
    Upkeep {
        upkeep: store.clone(),
        blobs: world.blobs.clone(),
        clock: Arc::new(Later(hours)),
        ids: world.ids.clone(),
        metrics: world.metrics.clone(),
        config: UpkeepConfig::default(),
    }
}

async fn blob(world: &World, name: &str) -> Result<BlobKey> {
    let key = BlobKey::parse(name)?;
    put_bytes(world.blobs.as_ref(), &key, Bytes::from_static(b"x")).await?;
    Ok(key)
}

#[tokio::test]
async fn a_round_ends_when_the_store_is_in_order_and_orphans_are_gone() -> Result<()> {
    let world = World::new()?;
    let store = Arc::new(FakeUpkeep::default());
    *lock(&store.due) = vec![1, 256, 256];
    for name in ["audio/a", "audio/b", "results/work_1/1-x"] {
        let orphan = blob(&world, name).await?;
        lock(&store.orphans).push(orphan);
    }
    lock(&store.orphans).push(BlobKey::parse("audio/gone-already")?);
    let kept = blob(&world, "audio/kept").await?;

    let report = upkeep(&world, &store, 0).run_once().await?;
    assert_eq!((report.ticks.promoted, report.blobs_deleted), (513, 4));
    assert!(lock(&store.orphans).is_empty());
    let left = world.blobs.list("", None, 9).await?;
    assert_eq!(left.into_iter().map(|meta| meta.key).collect::<Vec<_>>(), [kept]);
    Ok(())
}

#[tokio::test]
async fn the_sweep_takes_old_blobs_that_nothing_refers_to() -> Result<()> {
    let world = World::new()?;
    let store = Arc::new(FakeUpkeep::default());
    let referenced = [blob(&world, "audio/needed").await?, blob(&world, "results/work_1/1-x").await?];
    lock(&store.referenced).extend(referenced.clone());
    // More than a page.
    for number in 0..300 {
        blob(&world, &format!("audio/lost-{number}")).await?;
    }
    blob(&world, "results/work_1/2-lost").await?;
    assert_eq!(upkeep(&world, &store, 23).sweep_once(DAY).await?, 0);
    assert_eq!(upkeep(&world, &store, 25).sweep_once(DAY).await?, 301);
    let left = world.blobs.list("", None, 9).await?;
    assert_eq!(left.into_iter().map(|meta| meta.key).collect::<Vec<_>>(), referenced);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_upkeep_goes_on_after_an_outage_and_stops_when_told() -> Result<()> {
    let world = World::new()?;
    let store = Arc::new(FakeUpkeep::default());
    store.down.send_replace(true);
    blob(&world, "audio/lost-before").await?;
    let stop = CancellationToken::new();
    let (keeper, token) = (upkeep(&world, &store, 25), stop.clone());
    let running = tokio::spawn(async move { keeper.run(token).await });
    store.ticks.subscribe().wait_for(|ticks| *ticks > 3).await?;
    assert!(world.metric("verbatim_store_errors_total{operation=\"tick\"}")? >= 3.0);
    store.down.send_replace(false);
    *lock(&store.due) = vec![7];
    assert_eq!(world.blobs.list("", None, 9).await?, []);
    blob(&world, "audio/lost-since").await?;
    // Rounds of half a second to one and a half, until the next sweep, in half an hour to one and a half, has come by.
    let before = *store.ticks.borrow();
    store.ticks.subscribe().wait_for(|ticks| *ticks > before + 1000).await?;
    assert!(lock(&store.due).is_empty());
    while !world.blobs.list("", None, 9).await?.is_empty() {
        store.ticks.subscribe().changed().await?;
        assert!(*store.ticks.borrow() < before + 11_000, "nobody swept for an hour and a half");
    }
    stop.cancel();
    running.await?;
    Ok(())
}
