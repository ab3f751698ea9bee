//! A blob of several parts on its way into the bucket. A task of its own sends them, so that whatever becomes of the
//! writer, and of the call it was in, the upload is either completed or aborted after its last request was answered.

use std::sync::Arc;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;
use verbatim_core::ports::blobs::BlobKey;
use verbatim_core::{ErrorKind, PortError};

use super::buffer::{PART_BYTES, Part};
use super::client::Bucket;
use super::errors::port_error;

/// What S3 allows.
const MOST_PARTS: i32 = 10_000;

#[derive(Debug)]
enum Step {
    Send(Part),
    Complete,
}

/// The writer's end: dropping it aborts the upload.
#[derive(Debug)]
pub(super) struct Multipart {
    steps: mpsc::Sender<Step>,
    /// Room for the part that is being gathered. It is taken before the part's first byte, so that no more than one part
    /// waits while another is sent.
    room: Option<mpsc::OwnedPermit<Step>>,
    outcome: oneshot::Receiver<Result<(), PortError>>,
}

impl Multipart {
    /// Begins an upload. The tracker owns its task.
    pub(super) fn begin(bucket: Arc<Bucket>, key: BlobKey, tracker: &TaskTracker) -> Self {
        let (steps, wanted) = mpsc::channel(1);
        let (done, outcome) = oneshot::channel();
        tracker.spawn(run(
            Upload { bucket, key, id: String::new(), parts: Vec::new(), bytes: 0 },
            wanted,
            done,
        ));
        Self { steps, room: None, outcome }
    }

    /// Waits until another part may be gathered.
    ///
    /// # Errors
    /// What ended the upload.
    pub(super) async fn make_room(&mut self) -> Result<(), PortError> {
        if self.room.is_none() {
            match self.steps.clone().reserve_owned().await {
                Ok(room) => self.room = Some(room),
                Err(_) => return Err(self.failure().await),
            }
        }
        Ok(())
    }

    /// Hands over a part.
    ///
    /// # Errors
    /// What ended the upload.
    pub(super) async fn send(&mut self, part: Part) -> Result<(), PortError> {
        self.make_room().await?;
        if let Some(room) = self.room.take() {
            room.send(Step::Send(part));
        }
        Ok(())
    }

    /// Sends the rest and makes the blob.
    ///
    /// # Errors
    /// What ended the upload.
    pub(super) async fn complete(mut self, rest: Part) -> Result<(), PortError> {
        if !rest.is_empty() {
            self.send(rest).await?;
        }
        self.make_room().await?;
        if let Some(room) = self.room.take() {
            room.send(Step::Complete);
        }
        (&mut self.outcome).await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn failure(&mut self) -> PortError {
        match (&mut self.outcome).await {
            Ok(Err(error)) => error,
            _ => stopped(),
        }
    }
}

/// The task is gone without a word: the runtime is being shut down.
fn stopped() -> PortError {
    PortError::new(ErrorKind::Unavailable, "the upload was stopped")
}

struct Upload {
    bucket: Arc<Bucket>,
    key: BlobKey,
    id: String,
    parts: Vec<CompletedPart>,
    bytes: i64,
}

async fn run(
    mut upload: Upload,
    mut steps: mpsc::Receiver<Step>,
    done: oneshot::Sender<Result<(), PortError>>,
) {
    if let Err(error) = upload.create().await {
        let _ = done.send(Err(error));
        return;
    }
    let ended = upload.take(&mut steps).await;
    let completed = matches!(ended, Some(Ok(())));
    if let Some(outcome) = ended {
        // The writer learns of a failure before the clean-up, which may take as long as the store is down.
        let _ = done.send(outcome);
    }
    drop(steps);
    if !completed {
        upload.abort().await;
    }
}

impl Upload {
    async fn create(&mut self) -> Result<(), PortError> {
        let begun = self
            .bucket
            .quick
            .create_multipart_upload()
            .bucket(&self.bucket.name)
            .key(self.bucket.object(&self.key))
            .send()
            .await;
        let begun = begun.map_err(|error| port_error(self.doing(), error))?;
        let id = begun.upload_id.ok_or_else(|| {
            PortError::new(ErrorKind::Unavailable, format!("{}: the store gave no upload id", self.doing()))
        })?;
        self.id = id;
        Ok(())
    }

    /// Does what the writer asks for; `None` when the writer has gone.
    async fn take(&mut self, steps: &mut mpsc::Receiver<Step>) -> Option<Result<(), PortError>> {
        loop {
            match steps.recv().await? {
                Step::Complete => return Some(self.complete().await),
                Step::Send(part) => {
                    if let Err(error) = self.send(part).await {
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    async fn send(&mut self, part: Part) -> Result<(), PortError> {
        let number = i32::try_from(self.parts.len()).unwrap_or(i32::MAX).saturating_add(1);
        if number > MOST_PARTS {
            let most = PART_BYTES as u64 * u64::from(MOST_PARTS.unsigned_abs());
            let message = format!("{}: it has more than {most} bytes", self.doing());
            return Err(PortError::new(ErrorKind::Invalid, message));
        }
        // Counted as held until the request is over.
        let (bytes, _held) = part.into_bytes();
        let len = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let sent = self
            .bucket
            .patient
            .upload_part()
            .bucket(&self.bucket.name)
            .key(self.bucket.object(&self.key))
            .upload_id(&self.id)
            .part_number(number)
            .body(ByteStream::from(bytes))
            .send()
            .await
            .map_err(|error| port_error(self.doing(), error))?;
        self.parts.push(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build());
        self.bytes = self.bytes.saturating_add(len);
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), PortError> {
        let parts =
            CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.parts))).build();
        let completed = self
            .bucket
            .patient
            .complete_multipart_upload()
            .bucket(&self.bucket.name)
            .key(self.bucket.object(&self.key))
            .upload_id(&self.id)
            .multipart_upload(parts)
            .send()
            .await;
        match completed {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("NoSuchUpload") && self.is_there().await => Ok(()),
            Err(error) => Err(port_error(self.doing(), error)),
        }
    }

    /// Whether an earlier attempt completed the upload and only its answer was lost. Nobody else writes this key, so that
    /// its length tells.
    async fn is_there(&self) -> bool {
        let object = self.bucket.object(&self.key);
        let head = self.bucket.quick.head_object().bucket(&self.bucket.name).key(object).send().await;
        head.is_ok_and(|found| found.content_length == Some(self.bytes))
    }

    async fn abort(&self) {
        let aborted = self
            .bucket
            .quick
            .abort_multipart_upload()
            .bucket(&self.bucket.name)
            .key(self.bucket.object(&self.key))
            .upload_id(&self.id)
            .send()
            .await;
        match aborted {
            Err(error) if error.code() != Some("NoSuchUpload") => {
                let error = port_error("an unfinished upload stays in the bucket until the sweep", error);
                tracing::warn!(blob.key = %self.key, %error, "cannot abort an upload");
            }
            _ => {}
        }
    }

    fn doing(&self) -> String {
        format!("cannot write blob {}", self.key)
    }
}
