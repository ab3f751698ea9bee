//! One blob being read: in pieces, of one version, and past connections that break.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use verbatim_core::ports::blobs::BlobKey;
use verbatim_core::{ErrorKind, PortError};

use super::client::Bucket;
use super::errors::{chain, port_error};

/// The largest piece that a reader is given.
const PIECE: usize = 1024 * 1024;
/// A download that gives nothing for so long is broken.
const STALLED: Duration = Duration::from_secs(20);
/// How often a download is taken up again without getting any further. Each try is several attempts of the SDK.
const RESUMES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Begins to read a blob.
pub(super) async fn open(
    bucket: Arc<Bucket>,
    key: BlobKey,
) -> Result<BoxStream<'static, Result<Bytes, PortError>>, PortError> {
    let found = bucket.quick.get_object().bucket(&bucket.name).key(bucket.object(&key)).send().await;
    let found = found.map_err(|error| port_error(format!("cannot read blob {key}"), error))?;
    let length = found.content_length.and_then(|length| u64::try_from(length).ok()).ok_or_else(|| {
        let message = format!("cannot read blob {key}: the store does not say how long it is");
        PortError::new(ErrorKind::Unavailable, message)
    })?;
    let download = Download {
        bucket,
        key,
        version: found.e_tag,
        length,
        read: 0,
        body: found.body,
        ready: Bytes::new(),
        setbacks: 0,
    };
    let next =
        |mut download: Download| async move { Ok(download.next().await?.map(|piece| (piece, download))) };
    Ok(stream::try_unfold(download, next).boxed())
}

struct Download {
    bucket: Arc<Bucket>,
    key: BlobKey,
    /// The entity tag of what was begun.
    version: Option<String>,
    length: u64,
    /// How many bytes came from the store.
    read: u64,
    body: ByteStream,
    /// What came and was not passed on yet.
    ready: Bytes,
    /// Breaks since the last byte.
    setbacks: u32,
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>, PortError> {
        while self.ready.is_empty() {
            if self.read == self.length {
                return Ok(None);
            }
            match self.receive().await {
                Ok(bytes) => {
                    self.setbacks = 0;
                    self.read += bytes.len() as u64;
                    self.ready = bytes;
                }
                Err(cause) => self.resume(cause).await?,
            }
        }
        Ok(Some(self.ready.split_to(self.ready.len().min(PIECE))))
    }

    /// More bytes of the body, or why there are none.
    async fn receive(&mut self) -> Result<Bytes, String> {
        match tokio::time::timeout(STALLED, self.body.next()).await {
            Ok(Some(Ok(bytes))) if bytes.len() as u64 > self.length - self.read => {
                Err("the store sent more than it said".to_owned())
            }
            Ok(Some(Ok(bytes))) => Ok(bytes),
            Ok(Some(Err(error))) => Err(chain(&error)),
            Ok(None) => Err("the store sent less than it said".to_owned()),
            Err(_) => Err(format!("nothing came for {} s", STALLED.as_secs())),
        }
    }

    /// Asks for the rest.
    async fn resume(&mut self, cause: String) -> Result<(), PortError> {
        tracing::debug!(blob.key = %self.key, cause, at = self.read, "a download broke off");
        let broken = |cause: String| {
            let message = format!("reading blob {} broke off", self.key);
            PortError::new(ErrorKind::Unavailable, message).with_source(cause)
        };
        let Some(version) = self.version.clone() else { return Err(broken(cause)) };
        let mut last = broken(cause);
        while self.setbacks < RESUMES {
            tokio::time::sleep(FIRST_PAUSE * 2u32.pow(self.setbacks)).await;
            self.setbacks += 1;
            let rest = self
                .bucket
                .quick
                .get_object()
                .bucket(&self.bucket.name)
                .key(self.bucket.object(&self.key))
                .range(format!("bytes={}-", self.read))
                .if_match(&version)
                .send()
                .await;
            match rest {
                Ok(rest) if self.is_the_rest(&rest) => {
                    self.body = rest.body;
                    return Ok(());
                }
                Ok(_) => return Err(self.replaced()),
                Err(error) => last = port_error(format!("reading blob {} broke off", self.key), error),
            }
            match last.kind() {
                ErrorKind::Unavailable => {}
                ErrorKind::Conflict => return Err(self.replaced()),
                _ => return Err(last),
            }
        }
        Err(last)
    }

    /// Not every store heeds `If-Match` and `Range`.
    fn is_the_rest(&self, rest: &GetObjectOutput) -> bool {
        let from = format!("bytes {}-", self.read);
        let range_fits = rest.content_range.as_ref().is_some_and(|range| range.starts_with(&from));
        let length = rest.content_length.and_then(|length| u64::try_from(length).ok());
        range_fits && rest.e_tag == self.version && length == Some(self.length - self.read)
    }

    fn replaced(&self) -> PortError {
        let message = format!("blob {} was replaced while it was being read", self.key);
        PortError::new(ErrorKind::Unavailable, message)
    }
}
