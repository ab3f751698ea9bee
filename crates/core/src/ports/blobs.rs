//! The port of the blob store: audio and results, by key.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde::{Deserialize, Serialize};

use crate::error::PortError;
use crate::ids::{JobId, StoreId};
use crate::job::LeaseToken;
use crate::time::Timestamp;

/// The name of a blob: `audio/<store>/<job>` or `results/<store>/<job>/<fence>-<nonce>`, without the store for those of before
/// stores had ids; or of a store's marker, `store/<store>`. Lower- and upper-case letters, digits, `-`, `_` and `/`, so that it
/// is a safe path and a safe object name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobKey(String);

/// Why a text is not a blob key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a blob key")]
pub struct ParseBlobKeyError(String);

/// How many blobs [`BlobStore::delete_many`] deletes at once.
pub const DELETIONS: usize = 32;

/// Where uploads lie.
pub const AUDIO_PREFIX: &str = "audio/";
/// Where results lie.
pub const RESULTS_PREFIX: &str = "results/";

/// Where the markers of job stores lie.
pub const MARKERS_PREFIX: &str = "store/";

impl BlobKey {
    /// The only name under which a node of this job store writes the upload for this job, so that the job store can tell from
    /// the name alone whose it is. A submission that attaches to another job deletes its own upload, which no job ever owned.
    pub fn upload_of(store: &StoreId, job: &JobId) -> Self {
        Self(format!("{AUDIO_PREFIX}{store}/{}", job.ulid()))
    }

    /// The only name under which the holder of this lease of this job store writes a result.
    pub fn result_of(store: &StoreId, lease: &LeaseToken) -> Self {
        Self(format!("{RESULTS_PREFIX}{store}/{}/{}-{}", lease.job_id, lease.fence, lease.nonce.as_str()))
    }

    /// The name of an upload where job stores have no ids.
    pub fn for_upload(job: &JobId) -> Self {
        Self(format!("{AUDIO_PREFIX}{}", job.ulid()))
    }

    /// The name of a result where job stores have no ids.
    pub fn for_result(lease: &LeaseToken) -> Self {
        Self(format!("{RESULTS_PREFIX}{}/{}-{}", lease.job_id, lease.fence, lease.nonce.as_str()))
    }

    /// The name of a job store's marker.
    pub fn marker(store: &StoreId) -> Self {
        Self(format!("{MARKERS_PREFIX}{store}"))
    }

    /// Whether it names a marker.
    pub fn is_marker(&self) -> bool {
        self.0.starts_with(MARKERS_PREFIX)
    }

    /// What the names of all audio and of all results of this job store begin with.
    pub fn prefixes_of(store: &StoreId) -> [String; 2] {
        [AUDIO_PREFIX, RESULTS_PREFIX].map(|kind| format!("{kind}{store}/"))
    }

    /// The job store whose it is; `None` for one of before stores had ids.
    pub fn store(&self) -> Option<StoreId> {
        let (_, rest) = self.0.split_once('/')?;
        let store = match rest.split_once('/') {
            Some((store, _)) => store,
            None if self.is_marker() => rest,
            None => return None,
        };
        StoreId::parse(store).ok()
    }

    /// The key written as text.
    pub fn parse(text: &str) -> Result<Self, ParseBlobKeyError> {
        let known = [AUDIO_PREFIX, RESULTS_PREFIX, MARKERS_PREFIX].iter().any(|kind| text.starts_with(kind));
        let part_ok = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if known && text.len() <= 256 && text.split('/').all(part_ok) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseBlobKeyError(text.chars().take(64).collect()))
        }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BlobKey {
    type Error = ParseBlobKeyError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<BlobKey> for String {
    fn from(key: BlobKey) -> Self {
        key.0
    }
}

/// What is known of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobMeta {
    /// Its name.
    pub key: BlobKey,
    /// Its length.
    pub bytes: u64,
    /// When it was written.
    pub modified_at: Timestamp,
}

/// A blob being written. Dropping it without [`BlobWriter::finish`] leaves nothing behind.
#[async_trait]
pub trait BlobWriter: Send {
    /// Appends a piece.
    ///
    /// # Errors
    /// `OutOfSpace` when the store is full; `Unavailable` else.
    async fn write(&mut self, piece: Bytes) -> Result<(), PortError>;

    /// Makes the blob durable and visible under its key, all at once.
    ///
    /// # Errors
    /// As [`Self::write`]; the blob does not exist then.
    async fn finish(self: Box<Self>) -> Result<(), PortError>;
}

/// Stores blobs. What [`BlobWriter::finish`] has acknowledged survives a crash.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// Begins a blob.
    ///
    /// # Errors
    /// `OutOfSpace` or `Unavailable`.
    async fn put_stream(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, PortError>;

    /// The blob's bytes in pieces.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Unavailable` else, also in the middle of the stream.
    async fn get_stream(
        &self,
        key: &BlobKey,
    ) -> Result<BoxStream<'static, Result<Bytes, PortError>>, PortError>;

    /// The blob as an open file at its beginning, where the store keeps blobs on this machine; `None` where they must be
    /// streamed. Saves readers that need to seek a copy, and the room for it on a full disk.
    ///
    /// # Errors
    /// As [`Self::get_stream`].
    async fn open_local(&self, _key: &BlobKey) -> Result<Option<std::fs::File>, PortError> {
        Ok(None)
    }

    /// What is known of the blob, `None` when there is none.
    ///
    /// # Errors
    /// Only `Unavailable`.
    async fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, PortError>;

    /// Removes the blob; fine when there is none.
    ///
    /// # Errors
    /// Only `Unavailable`.
    async fn delete(&self, key: &BlobKey) -> Result<(), PortError>;

    /// Removes these blobs; the answers are in the order of the keys. One that cannot be removed keeps no other from it.
    /// Unless the store has a better way, [`DELETIONS`] at a time.
    ///
    /// # Errors
    /// For each blob, as [`Self::delete`].
    async fn delete_many(&self, keys: &[BlobKey]) -> Vec<Result<(), PortError>> {
        let mut deletions = Vec::with_capacity(keys.len());
        for key in keys {
            deletions.push(self.delete(key));
        }
        stream::iter(deletions).buffered(DELETIONS).collect().await
    }

    /// Blobs whose key begins with `prefix`, in order of key, after `after`, at most `limit`.
    ///
    /// # Errors
    /// Only `Unavailable`.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, PortError>;

    /// A URL under which anyone can read the blob for `ttl`; `None` when the store has no such thing.
    ///
    /// # Errors
    /// Only `Unavailable`.
    async fn presign(&self, key: &BlobKey, ttl: Duration) -> Result<Option<String>, PortError>;

    /// Whether the store can be written to.
    ///
    /// # Errors
    /// `Unavailable` or `OutOfSpace` when it cannot.
    async fn ping(&self) -> Result<(), PortError>;

    /// The name under which the upload for this job is written.
    fn upload_key(&self, job: &JobId) -> BlobKey {
        BlobKey::for_upload(job)
    }

    /// The name under which the holder of this lease writes a result.
    fn result_key(&self, lease: &LeaseToken) -> BlobKey {
        BlobKey::for_result(lease)
    }

    /// What the names of all audio and of all results begin with that are the job store's own.
    fn own_prefixes(&self) -> Vec<String> {
        [AUDIO_PREFIX, RESULTS_PREFIX].map(str::to_owned).to_vec()
    }

    /// Whether it was seen that this is not the store that it should be (a share is not mounted, a bucket is another one), and
    /// not yet that it is again. Asks nobody.
    fn is_lost(&self) -> bool {
        false
    }

    /// Returns when the store is not lost, or not any more.
    async fn found(&self) {}
}

/// Writes a blob that is in memory.
///
/// # Errors
/// As [`BlobStore::put_stream`] and [`BlobWriter::finish`].
pub async fn put_bytes(store: &dyn BlobStore, key: &BlobKey, bytes: Bytes) -> Result<(), PortError> {
    let mut writer = store.put_stream(key).await?;
    writer.write(bytes).await?;
    writer.finish().await
}

/// Reads a blob that is known to be small.
///
/// # Errors
/// As [`BlobStore::get_stream`].
pub async fn get_bytes(store: &dyn BlobStore, key: &BlobKey) -> Result<Vec<u8>, PortError> {
    use futures::TryStreamExt;
    let stream = store.get_stream(key).await?;
    stream
        .try_fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClaimNonce, Fence, JobId};

    #[test]
    fn keys_are_safe_as_paths() {
        for bad in ["", "audio/", "audio/../x", "audio//x", "/audio/x", "other/x", "audio/x y", "audio/x\0"] {
            assert!(BlobKey::parse(bad).is_err(), "{bad:?}");
        }
        assert!(BlobKey::parse("audio/01JD").is_ok());
    }

    #[test]
    fn a_name_tells_whose_it_is() {
        let store = StoreId::parse("01STORE0000000000000000000").unwrap();
        let job_id = JobId::parse("work_01JD0000000000000000000000").unwrap();
        let lease = LeaseToken {
            job_id: job_id.clone(),
            fence: Fence::new(3),
            nonce: ClaimNonce::from_stored("01N"),
        };
        let marker = BlobKey::marker(&store);
        let own = [BlobKey::upload_of(&store, &job_id), BlobKey::result_of(&store, &lease), marker.clone()];
        for key in &own {
            assert_eq!(BlobKey::parse(key.as_str()).as_ref(), Ok(key));
            assert_eq!(key.store().as_ref(), Some(&store), "{key}");
        }
        assert!(marker.is_marker() && !own[0].is_marker());
        let prefixes = BlobKey::prefixes_of(&store);
        assert!(own[..2].iter().zip(&prefixes).all(|(key, prefix)| key.as_str().starts_with(prefix)));
        for before in [BlobKey::for_upload(&job_id), BlobKey::for_result(&lease)] {
            assert_eq!(before.store(), None, "{before}");
        }
    }

    #[test]
    fn each_claim_writes_its_result_under_a_name_of_its_own() {
        let job_id = JobId::parse("work_01JD0000000000000000000000").unwrap();
        let lease = |fence, nonce: &str| LeaseToken {
            job_id: job_id.clone(),
            fence: Fence::new(fence),
            nonce: ClaimNonce::from_stored(nonce),
        };
        let keys = [lease(1, "A"), lease(1, "B"), lease(2, "A")].map(|lease| BlobKey::for_result(&lease));
        assert!(keys[0] != keys[1] && keys[0] != keys[2]);
        for key in keys {
            assert_eq!(BlobKey::parse(key.as_str()), Ok(key));
        }
    }
}
