//! Fetches a blob as a file, so that decoders can seek in it wherever it comes from: the store's own where it has one on
//! this machine, else a nameless copy.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use futures::TryStreamExt;
use verbatim_core::ports::blobs::{BlobKey, BlobStore};
use verbatim_core::{ErrorKind, PortError};

/// Bytes gathered before the disk is asked.
const GATHER: usize = 1024 * 1024;

/// The blob as a file, at its beginning.
pub(super) async fn to_file(blobs: &dyn BlobStore, key: &BlobKey, scratch: &Path) -> Result<File, PortError> {
    if let Some(file) = blobs.open_local(key).await? {
        return Ok(file);
    }
    let mut pieces = blobs.get_stream(key).await?;
    let scratch = scratch.to_owned();
    let mut file = on_disk(move || tempfile::tempfile_in(scratch)).await?;
    loop {
        let mut gathered = Vec::new();
        while gathered.len() < GATHER {
            match pieces.try_next().await? {
                Some(piece) => gathered.extend_from_slice(&piece),
                None => break,
            }
        }
        let last = gathered.len() < GATHER;
        file = on_disk(move || {
            file.write_all(&gathered)?;
            if last {
                file.seek(SeekFrom::Start(0))?;
            }
            Ok(file)
        })
        .await?;
        if last {
            return Ok(file);
        }
    }
}

async fn on_disk(work: impl FnOnce() -> std::io::Result<File> + Send + 'static) -> Result<File, PortError> {
    let failed = "the scratch folder cannot be written to";
    match tokio::task::spawn_blocking(work).await {
        // A missing scratch folder must not look like missing audio.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(PortError::new(ErrorKind::Unavailable, failed).with_source(error))
        }
        Ok(done) => done.map_err(|error| PortError::from_io(failed, error)),
        Err(error) => Err(PortError::new(ErrorKind::Internal, failed).with_source(error)),
    }
}
