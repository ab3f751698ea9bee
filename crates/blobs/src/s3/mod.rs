//! Blobs as objects of a bucket, in AWS S3 or any store that speaks its protocol. `<prefix>audio/…` and
//! `<prefix>results/…` hold blobs under their keys; `<prefix>ping` is what readiness writes.
//!
//! An object appears whole or not at all, and is durable once the store has acknowledged it: both are S3's promises. A blob
//! of more than one part ([`PART_BYTES`]) is a multipart upload, which leaves parts behind when its process is killed:
//! [`S3Store::abort_stale_uploads`] is what takes them away.

mod buffer;
mod client;
mod config;
mod deletions;
mod errors;
mod listing;
mod multipart;
mod open;
mod reader;
mod writer;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use verbatim_core::ports::blobs::{BlobKey, BlobMeta, BlobStore, BlobWriter};
use verbatim_core::time::Timestamp;
use verbatim_core::{ErrorKind, PortError};

pub use buffer::{PART_BYTES, UPLOAD_MEMORY_BYTES};
pub use config::{DEFAULT_REGION, S3Config};

use buffer::Gauge;
use client::Bucket;
use errors::port_error;
use writer::S3Writer;

/// How old an unfinished upload should be before it is taken for one that nobody will finish: longer than any upload.
pub const STALE_UPLOAD_AGE: Duration = Duration::from_secs(24 * 3600);

/// How long a successful write speaks for the bucket when readiness is asked: writes cost more than looks.
const WRITTEN_LATELY: Duration = Duration::from_secs(60);

/// Blobs in a bucket.
#[derive(Debug)]
pub struct S3Store {
    bucket: Arc<Bucket>,
    /// Owns the tasks that complete and abort uploads.
    tracker: TaskTracker,
    gauge: Gauge,
    /// When readiness last wrote.
    written: Mutex<Option<Instant>>,
    /// Whether the store was seen to refuse deletions of many objects at once.
    deletes_one_by_one: AtomicBool,
}

impl S3Store {
    /// Opens a bucket, which must exist and let us in.
    ///
    /// # Errors
    /// `Invalid` for a configuration that cannot work; `NotFound` when there is no such bucket; `Internal` when the store
    /// denies access or there are no credentials; `Unavailable` when it does not answer. The message says what to do.
    pub async fn open(config: S3Config) -> Result<Self, PortError> {
        let prefix = config.checked_prefix()?;
        let bucket = Bucket::new(&config, prefix).await;
        open::look(&bucket, &config).await?;
        let tracker = TaskTracker::new();
        // It still takes tasks: only that waiting for it ends when there are none.
        tracker.close();
        Ok(Self {
            bucket: Arc::new(bucket),
            tracker,
            gauge: Gauge::default(),
            written: Mutex::new(None),
            deletes_one_by_one: AtomicBool::new(false),
        })
    }

    /// Aborts uploads that were begun more than `age` before `now`, and says how many. A process that is killed cannot
    /// abort its own, and their parts are paid for. For maintenance, every hour or so; see [`STALE_UPLOAD_AGE`].
    ///
    /// # Errors
    /// `Unavailable`, or `Internal` when the store knows no such list or denies it.
    pub async fn abort_stale_uploads(&self, age: Duration, now: Timestamp) -> Result<usize, PortError> {
        listing::abort_stale_uploads(&self.bucket, age, now).await
    }

    /// Waits until every upload whose writer is gone is out of the bucket. For the end of a process, when no writer is left;
    /// takes as long as the store takes to answer.
    pub async fn settle(&self) {
        self.tracker.wait().await;
    }

    /// How many bytes uploads hold in memory at present: at most [`UPLOAD_MEMORY_BYTES`] each.
    pub fn buffered_bytes(&self) -> usize {
        self.gauge.bytes()
    }

    async fn write_a_little(&self) -> Result<(), PortError> {
        let object = format!("{}ping", self.bucket.prefix);
        let body = ByteStream::from_static(b"verbatim writes here to see whether it can\n");
        let put =
            self.bucket.probe.put_object().bucket(&self.bucket.name).key(object).body(body).send().await;
        put.map(drop).map_err(|error| port_error("the bucket cannot be written to", error))
    }

    fn wrote(&self, at: Option<Instant>) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

#[async_trait]
impl BlobStore for S3Store {
    async fn put_stream(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, PortError> {
        let (bucket, tracker, gauge) = (Arc::clone(&self.bucket), self.tracker.clone(), self.gauge.clone());
        Ok(Box::new(S3Writer::new(bucket, tracker, gauge, key.clone())))
    }

    async fn get_stream(
        &self,
        key: &BlobKey,
    ) -> Result<BoxStream<'static, Result<Bytes, PortError>>, PortError> {
        reader::open(Arc::clone(&self.bucket), key.clone()).await
    }

    async fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, PortError> {
        let object = self.bucket.object(key);
        let found = match self.bucket.quick.head_object().bucket(&self.bucket.name).key(object).send().await {
            Ok(found) => found,
            Err(error) => {
                let error = port_error(format!("cannot look up blob {key}"), error);
                return if error.kind() == ErrorKind::NotFound { Ok(None) } else { Err(error) };
            }
        };
        Ok(Some(BlobMeta {
            key: key.clone(),
            bytes: found.content_length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0),
            modified_at: listing::timestamp(found.last_modified),
        }))
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), PortError> {
        let object = self.bucket.object(key);
        let deleted = self.bucket.quick.delete_object().bucket(&self.bucket.name).key(object).send().await;
        match deleted.map_err(|error| port_error(format!("cannot delete blob {key}"), error)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn delete_many(&self, keys: &[BlobKey]) -> Vec<Result<(), PortError>> {
        deletions::delete_many(self, keys).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, PortError> {
        listing::list(&self.bucket, prefix, after, limit).await
    }

    async fn presign(&self, key: &BlobKey, ttl: Duration) -> Result<Option<String>, PortError> {
        let message = || format!("cannot make a URL for blob {key}");
        let ttl = PresigningConfig::expires_in(ttl)
            .map_err(|error| PortError::new(ErrorKind::Invalid, message()).with_source(error))?;
        let object = self.bucket.object(key);
        let request = self.bucket.quick.get_object().bucket(&self.bucket.name).key(object);
        let signed = request.presigned(ttl).await.map_err(|error| port_error(message(), error))?;
        Ok(Some(signed.uri().to_owned()))
    }

    /// Writes a few bytes when it has not lately, looks at the bucket when it has.
    async fn ping(&self) -> Result<(), PortError> {
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.is_some_and(|at| at.elapsed() < WRITTEN_LATELY) {
            let look = self.bucket.probe.head_bucket().bucket(&self.bucket.name).send().await;
            return match look.map_err(|error| port_error("the bucket cannot be looked at", error)) {
                // To this question it is no answer that there is none.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    Err(PortError::new(ErrorKind::Unavailable, "the bucket is gone").with_source(error))
                }
                looked => looked.map(drop),
            }
            .inspect_err(|_| self.wrote(None));
        }
        self.write_a_little().await?;
        self.wrote(Some(Instant::now()));
        Ok(())
    }
}
