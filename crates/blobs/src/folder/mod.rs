//! Blobs as files under one folder: `audio/…`, `results/…` and `store/…` as their keys say, and `tmp/…` for those being written.
//! Several processes may share the folder.

mod disk;
mod listing;
mod staging;
mod writer;

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;
use verbatim_core::ports::blobs::{
    AUDIO_PREFIX, BlobKey, BlobMeta, BlobStore, BlobWriter, DELETIONS, MARKERS_PREFIX, RESULTS_PREFIX,
};
use verbatim_core::time::Timestamp;
use verbatim_core::{ErrorKind, PortError};

use crate::MarkerMissing;
pub use disk::FolderDisk;
use staging::Staging;
use writer::FolderWriter;

/// Bytes of one piece of a blob that is read.
const READ_PIECE: usize = 128 * 1024;
/// Bytes that [`FolderStore::ping`] writes: one block, so that a full disk says no.
const PING_BYTES: usize = 4096;

/// Blobs in a folder.
#[derive(Debug, Clone)]
pub struct FolderStore {
    root: Arc<Path>,
    staging: Arc<Staging>,
    /// Deletions under way, so that a share that hangs holds no more threads than this.
    deleting: Arc<Semaphore>,
}

impl FolderStore {
    /// Opens the folder, which is made when there is none, and removes what processes that are gone left half-written.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// `OutOfSpace` on a full disk, `Unavailable` when the folder cannot be made or written to.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, PortError> {
        let root: Arc<Path> = root.into().into();
        let staging = (|| {
            // What people say is nobody else's business: the folder, and what has to be made above it, is its owner's.
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
            for prefix in [AUDIO_PREFIX, RESULTS_PREFIX] {
                std::fs::create_dir_all(root.join(prefix))?;
            }
            let staging = Staging::open(&root.join("tmp"))?;
            sync_dir(&root)?;
            Ok(staging)
        })()
        .map_err(|error| io_error(&format!("cannot open the blob folder {}", root.display()), error))?;
        Ok(Self { root, staging: Arc::new(staging), deleting: Arc::new(Semaphore::new(DELETIONS)) })
    }

    /// The same for a folder that must hold this marker already: nothing is made where it does not.
    ///
    /// # Errors
    /// `Unavailable` when the marker is not there; else as [`Self::open`].
    pub fn open_marked(root: impl Into<PathBuf>, marker: &BlobKey) -> Result<Self, PortError> {
        let root = root.into();
        if !root.join(marker.as_str()).exists() {
            let message = format!(
                "{} does not hold the audio and results of this job store: there is no {marker} in it. Is the share mounted? If \
                 they were moved without it: `verbatim blobs adopt`",
                root.display()
            );
            return Err(PortError::new(ErrorKind::Unavailable, message).with_source(MarkerMissing));
        }
        Self::open(root)
    }

    /// Keys have no `.` and no empty part, so that the path stays under the root.
    fn path(&self, key: &BlobKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    async fn open_blob(&self, key: &BlobKey) -> Result<tokio::fs::File, PortError> {
        let opened = tokio::fs::File::open(self.path(key)).await;
        opened.map_err(|error| PortError::from_io(format!("cannot read blob {key}"), error))
    }
}

#[async_trait]
impl BlobStore for FolderStore {
    async fn put_stream(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, PortError> {
        let staging = Arc::clone(&self.staging);
        let temp = blocking("cannot begin a blob", move || staging.new_file()).await?;
        Ok(Box::new(FolderWriter::new(temp, self.path(key))))
    }

    async fn get_stream(
        &self,
        key: &BlobKey,
    ) -> Result<BoxStream<'static, Result<Bytes, PortError>>, PortError> {
        let file = self.open_blob(key).await?;
        let message = format!("reading blob {key} broke off");
        let pieces = ReaderStream::with_capacity(file, READ_PIECE);
        Ok(pieces.map(move |piece| piece.map_err(|error| io_error(&message, error))).boxed())
    }

    async fn open_local(&self, key: &BlobKey) -> Result<Option<std::fs::File>, PortError> {
        Ok(Some(self.open_blob(key).await?.into_std().await))
    }

    async fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, PortError> {
        match tokio::fs::metadata(self.path(key)).await {
            Ok(found) if found.is_file() => Ok(Some(meta(key.clone(), &found))),
            Ok(_) => Ok(None),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(io_error(&format!("cannot look up blob {key}"), error)),
        }
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), PortError> {
        let path = self.path(key);
        let shared = [AUDIO_PREFIX, RESULTS_PREFIX, MARKERS_PREFIX].map(|kind| self.root.join(kind));
        let permit = Arc::clone(&self.deleting).acquire_owned().await;
        blocking(&format!("cannot delete blob {key}"), move || {
            let _permit = permit;
            match std::fs::remove_file(&path) {
                Err(error) if !is_missing(&error) => return Err(error),
                _ => {}
            }
            // A job's own folder goes with its last result; the removal fails, as it should, while there are others.
            if let Some(parent) = path.parent().filter(|parent| !shared.iter().any(|dir| dir == parent)) {
                let _ = std::fs::remove_dir(parent);
            }
            Ok(())
        })
        .await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, PortError> {
        let (root, prefix, after) = (Arc::clone(&self.root), prefix.to_owned(), after.cloned());
        blocking("cannot list blobs", move || listing::list(&root, &prefix, after.as_ref(), limit)).await
    }

    async fn presign(&self, _key: &BlobKey, _ttl: Duration) -> Result<Option<String>, PortError> {
        Ok(None)
    }

    async fn ping(&self) -> Result<(), PortError> {
        let staging = Arc::clone(&self.staging);
        blocking("the blob folder cannot be written to", move || {
            let mut file = staging.nameless_file()?;
            file.write_all(&[0; PING_BYTES])
        })
        .await
    }
}

fn meta(key: BlobKey, found: &std::fs::Metadata) -> BlobMeta {
    let modified = found.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let millis = modified.and_then(|age| i64::try_from(age.as_millis()).ok()).unwrap_or(0);
    BlobMeta { key, bytes: found.len(), modified_at: Timestamp::from_millis(millis) }
}

/// No such file, or a file where a folder of the path should be.
fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// For calls to which `NotFound` is no answer: a folder that is gone means that the store is.
fn io_error(message: &str, error: std::io::Error) -> PortError {
    if is_missing(&error) {
        PortError::new(ErrorKind::Unavailable, message).with_source(error)
    } else {
        PortError::from_io(message, error)
    }
}

/// Runs `work` where it may block on the disk.
async fn blocking<T: Send + 'static>(
    message: &str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, PortError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| io_error(message, error)),
        Err(error) => Err(PortError::new(ErrorKind::Internal, message).with_source(error)),
    }
}

/// Makes the names in a folder durable.
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}
