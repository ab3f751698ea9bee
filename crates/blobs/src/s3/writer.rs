//! One blob being written: gathered into parts; one request when a single part holds it all, a multipart upload else.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio_util::task::TaskTracker;
use verbatim_core::ports::blobs::{BlobKey, BlobWriter};
use verbatim_core::{ErrorKind, PortError};

use super::buffer::{Gauge, Part};
use super::client::Bucket;
use super::errors::port_error;
use super::multipart::Multipart;

/// A blob on its way to `key`. Nothing of it is in the bucket before there is more than one part.
pub(super) struct S3Writer {
    bucket: Arc<Bucket>,
    tracker: TaskTracker,
    gauge: Gauge,
    key: BlobKey,
    gathered: Part,
    upload: Option<Multipart>,
    /// Set once a write has failed or was given up: what follows would be a blob with a hole.
    broken: bool,
}

impl S3Writer {
    pub(super) fn new(bucket: Arc<Bucket>, tracker: TaskTracker, gauge: Gauge, key: BlobKey) -> Self {
        let gathered = Part::empty(&gauge);
        Self { bucket, tracker, gauge, key, gathered, upload: None, broken: false }
    }

    async fn gather(&mut self, mut piece: Bytes) -> Result<(), PortError> {
        while !piece.is_empty() {
            // A full part is only sent when more follows: a blob of exactly one part takes one request.
            if self.gathered.is_full() {
                let full = std::mem::replace(&mut self.gathered, Part::empty(&self.gauge));
                let begin = || Multipart::begin(Arc::clone(&self.bucket), self.key.clone(), &self.tracker);
                let upload = self.upload.get_or_insert_with(begin);
                upload.send(full).await?;
                upload.make_room().await?;
            }
            self.gathered.fill_from(&mut piece);
        }
        Ok(())
    }

    async fn put(&mut self) -> Result<(), PortError> {
        let whole = std::mem::replace(&mut self.gathered, Part::empty(&self.gauge));
        let (bytes, _held) = whole.into_bytes();
        self.bucket
            .patient
            .put_object()
            .bucket(&self.bucket.name)
            .key(self.bucket.object(&self.key))
            .body(ByteStream::from(bytes))
            .send()
            .await
            .map_err(|error| port_error(format!("cannot write blob {}", self.key), error))?;
        Ok(())
    }

    /// Marks the writer broken until the caller says that all went well.
    fn enter(&mut self) -> Result<(), PortError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(PortError::new(ErrorKind::Unavailable, "an earlier write of this blob failed"));
        }
        Ok(())
    }
}

#[async_trait]
impl BlobWriter for S3Writer {
    async fn write(&mut self, piece: Bytes) -> Result<(), PortError> {
        self.enter()?;
        if let Err(error) = self.gather(piece).await {
            // Ends the upload, so that it is aborted now and not when the caller gets round to dropping us.
            self.upload = None;
            self.gathered = Part::empty(&self.gauge);
            return Err(error);
        }
        self.broken = false;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), PortError> {
        self.enter()?;
        match self.upload.take() {
            None => self.put().await,
            Some(upload) => {
                let rest = std::mem::replace(&mut self.gathered, Part::empty(&self.gauge));
                upload.complete(rest).await
            }
        }
    }
}
