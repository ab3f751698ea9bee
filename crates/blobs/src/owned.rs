//! The part of a blob store that is one job store's own: `audio/<store id>/…`, `results/<store id>/…`, and the marker
//! `store/<store id>`, by which it is told from an empty mount point or a wrong bucket. What is not found there is missing only
//! where the marker is; else the blob store is, and that passes.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::watch;
use verbatim_core::ids::{JobId, StoreId};
use verbatim_core::job::LeaseToken;
use verbatim_core::ports::blobs::{BlobKey, BlobMeta, BlobStore, BlobWriter, get_bytes, put_bytes};
use verbatim_core::ports::ownership::{BlobMarker, BlobOwner, Identity, MarkOutcome, Marked};
use verbatim_core::{ErrorKind, PortError};

/// How often a store that is lost is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One job store's own part of a blob store.
pub struct OwnedBlobs {
    blobs: Arc<dyn BlobStore>,
    owner: Arc<dyn BlobOwner>,
    identity: RwLock<Identity>,
    lost: watch::Sender<bool>,
}

impl OwnedBlobs {
    /// The part of `blobs` that is `owner`'s. The first marker is written by [`BlobMarker::mark`].
    ///
    /// # Errors
    /// `Unavailable` with what to do when the owner has a marker and it is not there; else what either store answers.
    pub async fn open(blobs: Arc<dyn BlobStore>, owner: Arc<dyn BlobOwner>) -> Result<Self, PortError> {
        let identity = owner.identity().await?;
        // Who waits for the right place asks again and again: it says itself that it is not there.
        if identity.mark > 0 && blobs.head(&BlobKey::marker(&identity.id)).await?.is_none() {
            return Err(lost(&identity.id));
        }
        Ok(Self { blobs, owner, identity: RwLock::new(identity), lost: watch::Sender::new(false) })
    }

    async fn write_marker(&self, id: &StoreId, mark: u64) -> Result<(), PortError> {
        put_bytes(self.blobs.as_ref(), &BlobKey::marker(id), Bytes::from(mark.to_string())).await
    }

    /// Writes the marker where there is none although there should be: for an operator who knows that this is the right place.
    ///
    /// # Errors
    /// What either store answers.
    pub async fn adopt(blobs: &dyn BlobStore, owner: &dyn BlobOwner) -> Result<StoreId, PortError> {
        let id = owner.identity().await?.id;
        let mark = owner.raise_mark(0).await?;
        put_bytes(blobs, &BlobKey::marker(&id), Bytes::from(mark.to_string())).await?;
        Ok(id)
    }

    fn known(&self) -> Identity {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, identity: Identity) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Asks the job store who it is: it may have been replaced by another one.
    async fn ask(&self) -> Result<Identity, PortError> {
        let (identity, known) = (self.owner.identity().await?, self.known());
        if identity.id != known.id {
            tracing::error!(
                store.id = %identity.id,
                store.id_before = %known.id,
                "the job store is another one than it was: its data were replaced"
            );
        }
        self.remember(identity.clone());
        Ok(identity)
    }

    async fn read_marker(&self, id: &StoreId) -> Result<Option<u64>, PortError> {
        match get_bytes(self.blobs.as_ref(), &BlobKey::marker(id)).await {
            // One that cannot be read is there all the same.
            Ok(text) => {
                Ok(Some(std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether this is the owner's blob store. Until its first marker is written nobody can tell.
    ///
    /// # Errors
    /// `Unavailable` when it is not; else what either store answers.
    async fn confirm(&self) -> Result<(), PortError> {
        let known = self.known();
        if known.mark > 0 && self.is_marked(&known.id).await? {
            return Ok(());
        }
        let identity = self.ask().await?;
        if identity.mark == 0 || self.is_marked(&identity.id).await? {
            return Ok(());
        }
        Err(self.is_lost_now(&identity.id))
    }

    async fn is_marked(&self, id: &StoreId) -> Result<bool, PortError> {
        let marked = self.blobs.head(&BlobKey::marker(id)).await?.is_some();
        if marked && self.lost.send_replace(false) {
            tracing::info!("the blob store is back");
        }
        Ok(marked)
    }

    fn is_lost_now(&self, id: &StoreId) -> PortError {
        let error = lost(id);
        if !self.lost.send_replace(true) {
            tracing::error!(%error, "the blob store is lost");
        }
        error
    }

    /// The answer of a store that did not find a blob, where it can be believed.
    async fn unless_lost<T>(&self, answer: Result<T, PortError>) -> Result<T, PortError> {
        match answer {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(self.confirm().await.err().unwrap_or(error))
            }
            answer => answer,
        }
    }

    /// Refuses what would be done to a store that is not the right one.
    fn check_lost(&self) -> Result<(), PortError> {
        if self.is_lost() { Err(lost(&self.known().id)) } else { Ok(()) }
    }
}

fn lost(id: &StoreId) -> PortError {
    let message = format!(
        "the audio and results of this job store are not here: there is no {}. Is the shared folder mounted, the bucket (and \
         its prefix) the right one? If they were moved without it: `verbatim blobs adopt`",
        BlobKey::marker(id)
    );
    PortError::new(ErrorKind::Unavailable, message).with_source(MarkerMissing)
}

/// The source of errors that say that a blob store is not that of the job store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkerMissing;

impl std::fmt::Display for MarkerMissing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the marker is missing")
    }
}

impl std::error::Error for MarkerMissing {}

impl MarkerMissing {
    /// Whether this is why.
    pub fn is_source_of(error: &PortError) -> bool {
        std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<Self>)
    }
}

#[async_trait]
impl BlobMarker for OwnedBlobs {
    async fn mark(&self, unswept: Duration) -> Result<Marked, PortError> {
        // The marker before the mark of which it holds a copy: nodes do this at the same time.
        let known = self.known().id;
        let mut held = self.read_marker(&known).await?;
        let identity = self.ask().await?;
        if held.is_none() || identity.id != known {
            held = self.read_marker(&identity.id).await?;
        }
        let outcome = match held {
            None if identity.mark == 0 => MarkOutcome::First,
            None => return Err(self.is_lost_now(&identity.id)),
            Some(held) if held > identity.mark => MarkOutcome::WentBack,
            Some(_) => MarkOutcome::Renewed,
        };
        if outcome == MarkOutcome::First {
            // A mark without a marker would mean that the blob store is lost.
            self.write_marker(&identity.id, 0).await?;
        }
        if outcome == MarkOutcome::WentBack {
            self.owner.forbid_sweeps(unswept).await?;
        }
        let mark = self.owner.raise_mark(held.unwrap_or(0)).await?;
        self.write_marker(&identity.id, mark).await?;
        let written = self.blobs.head(&BlobKey::marker(&identity.id)).await?;
        let at = written.ok_or_else(|| lost(&identity.id))?.modified_at;
        let identity = Identity { mark, ..identity };
        self.remember(identity.clone());
        Ok(Marked { outcome, identity, at })
    }
}

#[async_trait]
impl BlobStore for OwnedBlobs {
    async fn put_stream(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, PortError> {
        self.check_lost()?;
        self.blobs.put_stream(key).await
    }

    async fn get_stream(
        &self,
        key: &BlobKey,
    ) -> Result<BoxStream<'static, Result<Bytes, PortError>>, PortError> {
        self.unless_lost(self.blobs.get_stream(key).await).await
    }

    async fn open_local(&self, key: &BlobKey) -> Result<Option<std::fs::File>, PortError> {
        self.unless_lost(self.blobs.open_local(key).await).await
    }

    async fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, PortError> {
        let found = self.blobs.head(key).await?;
        if found.is_none() {
            self.confirm().await?;
        }
        Ok(found)
    }

    /// Not found counts as deleted, which only the right store can say.
    async fn delete(&self, key: &BlobKey) -> Result<(), PortError> {
        self.confirm().await?;
        self.blobs.delete(key).await
    }

    async fn delete_many(&self, keys: &[BlobKey]) -> Vec<Result<(), PortError>> {
        match self.confirm().await {
            Ok(()) => self.blobs.delete_many(keys).await,
            Err(error) => {
                let (kind, message) = (error.kind(), error.to_string());
                keys.iter().map(|_| Err(PortError::new(kind, message.clone()))).collect()
            }
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, PortError> {
        self.blobs.list(prefix, after, limit).await
    }

    async fn presign(&self, key: &BlobKey, ttl: Duration) -> Result<Option<String>, PortError> {
        self.blobs.presign(key, ttl).await
    }

    async fn ping(&self) -> Result<(), PortError> {
        self.blobs.ping().await?;
        self.ask().await?;
        self.confirm().await
    }

    fn upload_key(&self, job: &JobId) -> BlobKey {
        BlobKey::upload_of(&self.known().id, job)
    }

    fn result_key(&self, lease: &LeaseToken) -> BlobKey {
        BlobKey::result_of(&self.known().id, lease)
    }

    fn own_prefixes(&self) -> Vec<String> {
        BlobKey::prefixes_of(&self.known().id).to_vec()
    }

    fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    async fn found(&self) {
        while self.is_lost() {
            tokio::time::sleep(LOOK_AGAIN).await;
            // An error is one more reason to look again.
            let _ = self.confirm().await;
        }
    }
}
