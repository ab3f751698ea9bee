//! A job store's own part of a blob store: what is missing, what is lost, and what its marker tells.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use verbatim_blobs::{FolderStore, OwnedBlobs, conformance};
use verbatim_core::ids::{ClaimNonce, Fence, IdSource, JobId, StoreId};
use verbatim_core::job::LeaseToken;
use verbatim_core::ports::blobs::{BlobKey, BlobStore, get_bytes, put_bytes};
use verbatim_core::ports::ownership::{BlobMarker, BlobOwner, Identity, MarkOutcome};
use verbatim_core::{ErrorKind, PortError};

#[derive(Default)]
struct CountingIds(AtomicU64);

impl IdSource for CountingIds {
    fn ulid(&self) -> String {
        format!("{:026}", self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn fraction(&self) -> f64 {
        0.5
    }

    fn secret(&self) -> [u8; 32] {
        [7; 32]
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A job store of which only this is known; the second part says whether it is reached by who forbids sweeps.
struct Owner(Mutex<Identity>, AtomicBool);

impl Owner {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Identity { id: id(name), mark: 0 }), AtomicBool::new(true)))
    }

    fn become_as(&self, identity: &Identity) {
        *self.0.lock().expect("nobody panicked") = identity.clone();
    }

    fn now(&self) -> Identity {
        self.0.lock().expect("nobody panicked").clone()
    }
}

fn id(name: &str) -> StoreId {
    StoreId::parse(&format!("{name:0>26}")).expect("an id")
}

#[async_trait]
impl BlobOwner for Owner {
    async fn identity(&self) -> Result<Identity, PortError> {
        Ok(self.now())
    }

    async fn raise_mark(&self, above: u64) -> Result<u64, PortError> {
        let mut identity = self.0.lock().expect("nobody panicked");
        identity.mark = identity.mark.max(above) + 1;
        Ok(identity.mark)
    }

    async fn take_sweep(&self, _: &str, _: Duration) -> Result<bool, PortError> {
        Ok(true)
    }

    async fn forbid_sweeps(&self, _: Duration) -> Result<(), PortError> {
        let away = || PortError::new(ErrorKind::Unavailable, "the job store is away");
        self.1.load(Ordering::Relaxed).then_some(()).ok_or_else(away)
    }
}

struct World {
    folder: tempfile::TempDir,
    shared: Arc<FolderStore>,
    owner: Arc<Owner>,
    own: OwnedBlobs,
}

impl World {
    /// A folder that is marked as the job store's.
    async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let shared = Arc::new(FolderStore::open(folder.path().join("blobs"))?);
        let owner = Owner::new("A");
        let own = OwnedBlobs::open(shared.clone(), owner.clone()).await?;
        assert_eq!(own.mark(DAY).await?.outcome, MarkOutcome::First);
        Ok(Self { folder, shared, owner, own })
    }

    /// The share is not mounted any more, or is again.
    fn mount(&self, mounted: bool) -> Result<()> {
        let (here, away) = (self.folder.path().join("blobs"), self.folder.path().join("away"));
        if mounted {
            std::fs::rename(away, here)?
        } else {
            std::fs::rename(here, away)?
        }
        Ok(())
    }
}

fn kind<T>(outcome: Result<T, PortError>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

#[tokio::test]
async fn it_is_a_blob_store() -> Result<()> {
    let world = World::new().await?;
    conformance::check_all(&world.own, &CountingIds::default()).await;
    Ok(())
}

#[tokio::test]
async fn its_blobs_are_named_after_it() -> Result<()> {
    let world = World::new().await?;
    let job_id = JobId::generate(&CountingIds::default());
    let lease =
        LeaseToken { job_id: job_id.clone(), fence: Fence::new(1), nonce: ClaimNonce::from_stored("N") };
    let names = [world.own.upload_key(&job_id), world.own.result_key(&lease)];
    for (name, prefix) in names.iter().zip(world.own.own_prefixes()) {
        assert!(name.as_str().starts_with(&prefix), "{name} {prefix}");
        put_bytes(&world.own, name, Bytes::from_static(b"x")).await?;
    }
    let stores: Vec<_> =
        world.shared.list("", None, 9).await?.into_iter().map(|blob| blob.key.store()).collect();
    assert_eq!(stores, vec![Some(id("A")); 3], "audio, result, marker");
    Ok(())
}

#[tokio::test]
async fn what_is_not_found_is_missing_only_where_the_marker_is() -> Result<()> {
    let world = World::new().await?;
    let (there, missing) = (BlobKey::parse("audio/there")?, BlobKey::parse("audio/missing")?);
    put_bytes(&world.own, &there, Bytes::from_static(b"x")).await?;
    assert_eq!(kind(get_bytes(&world.own, &missing).await), Some(ErrorKind::NotFound));
    assert_eq!(world.own.head(&missing).await?, None);

    world.mount(false)?;
    for key in [&there, &missing] {
        assert_eq!(kind(get_bytes(&world.own, key).await), Some(ErrorKind::Unavailable), "{key}");
        assert_eq!(kind(world.own.open_local(key).await), Some(ErrorKind::Unavailable), "{key}");
        assert_eq!(kind(world.own.head(key).await), Some(ErrorKind::Unavailable), "{key}");
        assert_eq!(
            kind(world.own.delete(key).await),
            Some(ErrorKind::Unavailable),
            "{key} counts as deleted"
        );
    }
    let outcomes = world.own.delete_many(&[there.clone(), missing.clone()]).await;
    assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
    assert!(world.own.is_lost() && world.own.ping().await.is_err());
    assert_eq!(kind(world.own.put_stream(&missing).await), Some(ErrorKind::Unavailable));

    world.mount(true)?;
    world.own.found().await;
    assert!(!world.own.is_lost());
    assert_eq!(get_bytes(&world.own, &there).await?, b"x");
    assert_eq!(kind(get_bytes(&world.own, &missing).await), Some(ErrorKind::NotFound));
    Ok(())
}

#[tokio::test]
async fn a_node_that_sees_another_place_does_not_start_and_makes_nothing_there() -> Result<()> {
    let world = World::new().await?;
    let elsewhere = tempfile::tempdir()?;
    let root = elsewhere.path().join("blobs");
    let marker = BlobKey::marker(&id("A"));
    let refused = FolderStore::open_marked(&root, &marker).err().map(|error| error.to_string());
    assert!(refused.is_some_and(|why| why.contains("Is the share mounted?")));
    assert!(!root.exists());
    assert!(FolderStore::open_marked(world.folder.path().join("blobs"), &marker).is_ok());

    let empty = Arc::new(FolderStore::open(&root)?);
    let refused = OwnedBlobs::open(empty.clone(), world.owner.clone()).await.err().map(|error| error.kind());
    assert_eq!(refused, Some(ErrorKind::Unavailable));
    OwnedBlobs::adopt(empty.as_ref(), world.owner.as_ref()).await?;
    assert!(OwnedBlobs::open(empty, world.owner.clone()).await.is_ok(), "an operator said that it is right");
    Ok(())
}

#[tokio::test]
async fn the_marker_tells_when_the_job_store_went_back() -> Result<()> {
    let world = World::new().await?;
    let early = world.owner.now();
    assert_eq!(world.own.mark(DAY).await?.outcome, MarkOutcome::Renewed);
    assert_eq!(world.own.mark(DAY).await?.outcome, MarkOutcome::Renewed);
    world.owner.become_as(&early);
    assert_eq!(world.own.mark(DAY).await?.outcome, MarkOutcome::WentBack);
    assert_eq!(world.own.mark(DAY).await?.outcome, MarkOutcome::Renewed, "it is told once");
    // Who could not forbid sweeps has not told it.
    world.owner.become_as(&early);
    world.owner.1.store(false, Ordering::Relaxed);
    assert_eq!(kind(world.own.mark(DAY).await), Some(ErrorKind::Unavailable));
    world.owner.1.store(true, Ordering::Relaxed);
    assert_eq!(world.own.mark(DAY).await?.outcome, MarkOutcome::WentBack);
    // From before it had marked anything.
    world.owner.become_as(&Identity { mark: 0, ..early });
    assert_eq!(world.own.mark(DAY).await?.outcome, MarkOutcome::WentBack);
    Ok(())
}

#[tokio::test]
async fn another_job_store_in_its_place_has_blobs_of_its_own() -> Result<()> {
    let world = World::new().await?;
    world.owner.become_as(&Identity { id: id("B"), mark: 0 });
    assert_eq!(world.own.mark(DAY).await?.outcome, MarkOutcome::First);
    assert_eq!(world.own.own_prefixes(), BlobKey::prefixes_of(&id("B")).to_vec());
    let markers = world.shared.list("store/", None, 9).await?;
    assert_eq!(markers.len(), 2, "that of the one before stays");
    Ok(())
}

#[tokio::test]
async fn a_marker_that_is_gone_is_not_made_again() -> Result<()> {
    let world = World::new().await?;
    world.shared.delete(&BlobKey::marker(&id("A"))).await?;
    assert_eq!(kind(world.own.mark(DAY).await), Some(ErrorKind::Unavailable));
    assert!(world.own.is_lost());
    Ok(())
}
