//! The maintenance: ticks until there is no more to do whatever the blobs do, and deletes what nobody needs and nothing else.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::support::World;
use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::watch;
use verbatim_core::ids::StoreId;
use verbatim_core::ports::blobs::{BlobKey, BlobMeta, BlobStore, BlobWriter, put_bytes};
use verbatim_core::ports::jobs::{
    BlobFate, GarbageRequest, JobUpkeep, MAX_BLOBS_PER_CALL, QueueStats, TickReport,
};
use verbatim_core::ports::ownership::{BlobMarker, BlobOwner, Identity, MarkOutcome, Marked};
use verbatim_core::time::{Clock, Timestamp};
use verbatim_core::{CancellationToken, ErrorKind, PortError};
use verbatim_worker_lib::{Deleted, Maintenance, MaintenanceConfig, Sweep, Sweeper};

#[derive(Default)]
struct FakeStore {
    /// What the coming ticks do.
    due: Mutex<Vec<u64>>,
    garbage: Mutex<Vec<BlobKey>>,
    /// Taken, and not confirmed.
    held: Mutex<Vec<BlobKey>>,
    referenced: Mutex<HashSet<BlobKey>>,
    /// What happens before each of the coming questions for fates, the last one first.
    before_fates: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
    ticks: watch::Sender<u64>,
    down: watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panicked")
}

#[async_trait]
impl JobUpkeep for FakeStore {
    async fn tick(&self) -> Result<TickReport, PortError> {
        self.ticks.send_modify(|ticks| *ticks += 1);
        if *self.down.borrow() {
            return Err(PortError::new(ErrorKind::Unavailable, "down"));
        }
        Ok(TickReport { promoted: lock(&self.due).pop().unwrap_or(0), ..TickReport::default() })
    }

    async fn take_garbage(&self, request: GarbageRequest) -> Result<Vec<BlobKey>, PortError> {
        let mut garbage = lock(&self.garbage);
        let most = garbage.len().min(request.most);
        let taken: Vec<BlobKey> = garbage.drain(..most).collect();
        lock(&self.held).extend(taken.iter().cloned());
        Ok(taken)
    }

    async fn blobs_deleted(&self, keys: &[BlobKey]) -> Result<(), PortError> {
        lock(&self.held).retain(|key| !keys.contains(key));
        Ok(())
    }

    async fn fates(&self, keys: &[BlobKey]) -> Result<Vec<BlobFate>, PortError> {
        let happens = lock(&self.before_fates).pop();
        if let Some(happens) = happens {
            happens();
        }
        let fate = |key| {
            if lock(&self.referenced).contains(key) {
                BlobFate::Needed
            } else if lock(&self.garbage).contains(key) {
                BlobFate::ToBeDeleted
            } else {
                BlobFate::Unknown
            }
        };
        Ok(keys.iter().map(fate).collect())
    }

    async fn stats(&self) -> Result<QueueStats, PortError> {
        Ok(QueueStats::default())
    }

    async fn ping(&self) -> Result<(), PortError> {
        Ok(())
    }
}

/// A store in which some blobs cannot be deleted: those whose key ends with `poison` fail, those with `stuck` hang.
struct Stubborn(Arc<dyn BlobStore>);

#[async_trait]
impl BlobStore for Stubborn {
    async fn put_stream(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, PortError> {
        self.0.put_stream(key).await
    }

    async fn get_stream(
        &self,
        key: &BlobKey,
    ) -> Result<BoxStream<'static, Result<Bytes, PortError>>, PortError> {
        self.0.get_stream(key).await
    }

    async fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, PortError> {
        self.0.head(key).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), PortError> {
        match key.as_str() {
            name if name.ends_with("poison") => Err(PortError::new(ErrorKind::Internal, "denied")),
            name if name.ends_with("stuck") => std::future::pending().await,
            _ => self.0.delete(key).await,
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, PortError> {
        self.0.list(prefix, after, limit).await
    }

    async fn presign(&self, key: &BlobKey, ttl: Duration) -> Result<Option<String>, PortError> {
        self.0.presign(key, ttl).await
    }

    async fn ping(&self) -> Result<(), PortError> {
        self.0.ping().await
    }
}

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

fn maintenance(world: &World, store: &Arc<FakeStore>, hours: u64) -> Maintenance {
    Maintenance {
        store: store.clone(),
        blobs: Arc::new(Stubborn(world.blobs.clone())),
        // A clock of the node's own that is wrong by a week makes no blob older.
        clock: Arc::new(Later(hours + 7 * 24)),
        ids: world.ids.clone(),
        metrics: world.metrics.clone(),
        config: MaintenanceConfig::default(),
        sweeper: None,
    }
}

/// A job store that may have gone back, or be replaced; it is always our turn, unless sweeps are forbidden.
struct FakeOwner {
    identity: Mutex<Identity>,
    went_back: Mutex<bool>,
    forbidden: Mutex<Option<Duration>>,
}

fn identity(id: &str, mark: u64) -> Identity {
    Identity { id: StoreId::parse(&id.repeat(26)).expect("an id"), mark }
}

impl Default for FakeOwner {
    fn default() -> Self {
        Self {
            identity: Mutex::new(identity("A", 7)),
            went_back: Mutex::default(),
            forbidden: Mutex::default(),
        }
    }
}

#[async_trait]
impl BlobOwner for FakeOwner {
    async fn identity(&self) -> Result<Identity, PortError> {
        Ok(lock(&self.identity).clone())
    }

    async fn raise_mark(&self, _: u64) -> Result<u64, PortError> {
        Err(PortError::new(ErrorKind::Internal, "nobody asks"))
    }

    async fn take_sweep(&self, _: &str, _: Duration) -> Result<bool, PortError> {
        Ok(lock(&self.forbidden).is_none())
    }

    async fn forbid_sweeps(&self, time: Duration) -> Result<(), PortError> {
        *lock(&self.forbidden) = Some(time);
        Ok(())
    }
}

/// So many hours after the blobs of these tests were written.
struct FakeMarker(Arc<FakeOwner>, u64);

#[async_trait]
impl BlobMarker for FakeMarker {
    async fn mark(&self, unswept: Duration) -> Result<Marked, PortError> {
        let outcome = if *lock(&self.0.went_back) { MarkOutcome::WentBack } else { MarkOutcome::Renewed };
        if outcome == MarkOutcome::WentBack {
            self.0.forbid_sweeps(unswept).await?;
        }
        Ok(Marked { outcome, identity: self.0.identity().await?, at: Later(self.1).now() })
    }
}

fn sweeper(owner: &Arc<FakeOwner>, hours: u64) -> Sweeper {
    Sweeper {
        config: Sweep::default(),
        owner: owner.clone(),
        marker: Arc::new(FakeMarker(owner.clone(), hours)),
        node: "node".to_owned(),
    }
}

async fn blob(world: &World, name: &str) -> Result<BlobKey> {
    let key = BlobKey::parse(name)?;
    put_bytes(world.blobs.as_ref(), &key, Bytes::from_static(b"x")).await?;
    Ok(key)
}

#[tokio::test]
async fn a_round_ends_when_the_store_is_in_order() -> Result<()> {
    let world = World::new()?;
    let store = Arc::new(FakeStore::default());
    *lock(&store.due) = vec![1, 256, 256];
    assert_eq!(maintenance(&world, &store, 0).tick().await?.promoted, 513);
    assert_eq!(*store.ticks.borrow(), 4);
    Ok(())
}

#[tokio::test]
async fn one_blob_that_cannot_be_deleted_keeps_no_other_from_it() -> Result<()> {
    let world = World::new()?;
    let store = Arc::new(FakeStore::default());
    let poison = blob(&world, "audio/a-poison").await?;
    lock(&store.garbage).push(poison.clone());
    // More than a batch, and some that are gone already.
    for number in 0..1100 {
        let key = match number % 100 {
            0 => blob(&world, &format!("audio/b-{number}")).await?,
            _ => BlobKey::parse(&format!("audio/gone-{number}"))?,
        };
        lock(&store.garbage).push(key);
    }
    let kept = blob(&world, "audio/kept").await?;
    let maintenance = maintenance(&world, &store, 0);
    assert_eq!(maintenance.delete_due().await?, Deleted { gone: 999, left: 1 });
    assert_eq!(maintenance.delete_due().await?, Deleted { gone: 101, left: 0 });
    assert_eq!(maintenance.delete_due().await?, Deleted::default());
    assert_eq!(*lock(&store.held), std::slice::from_ref(&poison), "what was not deleted is not confirmed");
    let left = world.blobs.list("", None, 9).await?;
    assert_eq!(left.into_iter().map(|meta| meta.key).collect::<Vec<_>>(), [poison, kept]);
    let counted = |outcome| world.metric(&format!("verbatim_blob_deletions_total{{outcome=\"{outcome}\"}}"));
    assert_eq!((counted("deleted")?, counted("failed")?), (1100.0, 1.0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn due_work_never_waits_for_garbage() -> Result<()> {
    let world = World::new()?;
    for (name, outcome) in [("audio/stuck", "hangs"), ("audio/poison", "fails")] {
        let store = Arc::new(FakeStore::default());
        // As long as this lasts there is garbage.
        let garbage = || vec![BlobKey::parse(name).expect("a key"); 2000];
        *lock(&store.garbage) = garbage();
        let (stop, keeper) = (CancellationToken::new(), maintenance(&world, &store, 0));
        let (token, mut ticks) = (stop.clone(), store.ticks.subscribe());
        let running = tokio::spawn(async move { keeper.run(token).await });
        for round in 0..200 {
            *lock(&store.due) = vec![7];
            ticks.wait_for(|ticks| *ticks > 2 * round).await?;
            lock(&store.garbage).extend(garbage());
        }
        assert!(!lock(&store.held).is_empty(), "a deletion that {outcome} was tried");
        stop.cancel();
        running.await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_sweep_takes_old_blobs_that_nothing_refers_to() -> Result<()> {
    let world = World::new()?;
    let store = Arc::new(FakeStore::default());
    let referenced = [blob(&world, "audio/needed").await?, blob(&world, "results/work_1/1-x").await?];
    lock(&store.referenced).extend(referenced.clone());
    // More than a page.
    for number in 0..300 {
        blob(&world, &format!("audio/lost-{number}")).await?;
    }
    blob(&world, "results/work_1/2-lost").await?;
    let owner = Arc::default();
    let maintenance = maintenance(&world, &store, 0);
    for (hours, deleted) in [(23, 0), (25, 301)] {
        let sweeper = sweeper(&owner, hours);
        let marked = maintenance.mark_in_turn(&sweeper).await?.context("it is our turn")?;
        assert_eq!(maintenance.sweep_once(&sweeper, &marked).await?, deleted);
    }
    let left = world.blobs.list("", None, 9).await?;
    assert_eq!(left.into_iter().map(|meta| meta.key).collect::<Vec<_>>(), referenced);
    Ok(())
}

/// More than a page, all needed: what the sweep makes of them when the job store turns into `then` after the first page.
async fn left_by_a_sweep_during_which_the_store_becomes(then: Identity) -> Result<usize> {
    let world = World::new()?;
    let (store, owner) = (Arc::new(FakeStore::default()), Arc::new(FakeOwner::default()));
    let lost = blob(&world, "audio/a-lost").await?;
    for number in 0..MAX_BLOBS_PER_CALL + 9 {
        let needed = blob(&world, &format!("audio/b-{number}")).await?;
        lock(&store.referenced).insert(needed);
    }
    let (forgetful, becoming) = (store.clone(), owner.clone());
    let turns = move || {
        lock(&forgetful.referenced).clear();
        *lock(&becoming.identity) = then;
    };
    *lock(&store.before_fates) = vec![Box::new(turns), Box::new(|| {})];
    let (maintenance, sweeper) = (maintenance(&world, &store, 0), sweeper(&owner, 25));
    let marked = maintenance.mark_in_turn(&sweeper).await?.context("it is our turn")?;
    maintenance.sweep_once(&sweeper, &marked).await?;
    assert!(lock(&store.before_fates).is_empty(), "the sweep did not come to the second page");
    assert!(world.blobs.head(&lost).await?.is_none(), "the first page was swept");
    let first = world.blobs.list("", None, MAX_BLOBS_PER_CALL).await?;
    let last = first.last().map(|meta| meta.key.clone());
    Ok(first.len() + world.blobs.list("", last.as_ref(), MAX_BLOBS_PER_CALL).await?.len())
}

#[tokio::test]
async fn a_sweep_ends_when_the_job_store_is_replaced_or_put_back() -> Result<()> {
    for then in [identity("B", 8), identity("A", 6)] {
        let left = left_by_a_sweep_during_which_the_store_becomes(then.clone()).await?;
        assert_eq!(left, MAX_BLOBS_PER_CALL + 9, "{then:?}");
    }
    // One that only forgot them is not in doubt.
    let left = left_by_a_sweep_during_which_the_store_becomes(identity("A", 8)).await?;
    assert!(left < MAX_BLOBS_PER_CALL, "the second page was not swept");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn nothing_is_swept_while_the_store_may_be_older_than_its_blobs() -> Result<()> {
    let world = World::new()?;
    let store = Arc::new(FakeStore::default());
    let kept = blob(&world, "audio/of-a-job-that-the-store-forgot").await?;
    let owner = Arc::new(FakeOwner { went_back: Mutex::new(true), ..FakeOwner::default() });
    let (stop, mut ticks) = (CancellationToken::new(), store.ticks.subscribe());
    let keeper = Maintenance { sweeper: Some(sweeper(&owner, 25)), ..maintenance(&world, &store, 25) };
    let token = stop.clone();
    let running = tokio::spawn(async move { keeper.run(token).await });
    ticks.wait_for(|_| lock(&owner.forbidden).is_some()).await?;
    assert_eq!(*lock(&owner.forbidden), Some(Sweep::default().orphan_age));
    assert!(world.metric("verbatim_job_store_went_back_total")? >= 1.0);
    *lock(&owner.went_back) = false;
    // For two hours, by the ticks.
    ticks.wait_for(|ticks| *ticks > 7200).await?;
    assert_eq!(world.blobs.list("", None, 9).await?.len(), 1, "{kept}");
    *lock(&owner.forbidden) = None;
    while !world.blobs.list("", None, 9).await?.is_empty() {
        ticks.changed().await?;
        assert!(*ticks.borrow() < 15_000, "nobody swept when it was allowed again");
    }
    stop.cancel();
    running.await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_maintenance_goes_on_after_an_outage_and_stops_when_told() -> Result<()> {
    let world = World::new()?;
    let store = Arc::new(FakeStore::default());
    store.down.send_replace(true);
    blob(&world, "audio/lost-before").await?;
    let stop = CancellationToken::new();
    let sweeper = Some(sweeper(&Arc::default(), 25));
    let (keeper, token) = (Maintenance { sweeper, ..maintenance(&world, &store, 25) }, stop.clone());
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
