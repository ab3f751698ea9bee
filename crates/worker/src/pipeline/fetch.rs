//! Fetches a blob as a file, so that decoders can seek in it wherever it comes from: the store's own where it has one on
//! this machine, else a nameless copy. Room for the copy, and for what will be decoded, is taken first.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use futures::TryStreamExt;
use verbatim_admission::Holder;
use verbatim_audio::{HEAD_BYTES, probe_duration, scratch_bytes};
use verbatim_core::audio::AudioInfo;
use verbatim_core::ports::blobs::{BlobKey, BlobStore};
use verbatim_core::{ErrorKind, PortError};

use crate::scratch::JobScratch;
use crate::stages::Stages;

/// Bytes gathered before the disk is asked.
const GATHER: usize = 1024 * 1024;

/// An upload as a file, and the room that was taken for it.
pub(crate) struct Fetched {
    /// The file, at its beginning.
    pub(crate) file: File,
    /// The room.
    pub(crate) scratch: JobScratch,
}

/// The blob as a file; its room counts for `holder`.
pub(super) async fn to_file(
    blobs: &dyn BlobStore,
    key: &BlobKey,
    audio: &AudioInfo,
    holder: &Holder,
    stages: &Stages,
) -> Result<Fetched, PortError> {
    let decoded = scratch_bytes(audio.duration_ms, audio.bytes);
    if let Some(file) = blobs.open_local(key).await? {
        return Ok(Fetched { file, scratch: stages.scratch().reserve(holder, decoded, 0).await? });
    }
    let scratch = stages.scratch().reserve(holder, decoded, audio.bytes).await?;
    let mut pieces = blobs.get_stream(key).await?;
    let folder = stages.scratch().path();
    let mut file = on_disk(move || tempfile::tempfile_in(folder)).await?;
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
            return Ok(Fetched { file, scratch });
        }
    }
}

/// Room for what will be decoded from a file that nobody uploaded.
pub(super) async fn room_for_file(
    file: &File,
    stages: &Stages,
    holder: &Holder,
) -> Result<JobScratch, PortError> {
    let file =
        file.try_clone().map_err(|error| PortError::from_io("the audio cannot be opened again", error))?;
    let (duration, bytes) = on_disk(move || {
        let mut head = vec![0; HEAD_BYTES];
        let len = file.read_at(&mut head, 0)?;
        let bytes = file.metadata()?.len();
        Ok((probe_duration(&head[..len], bytes), bytes))
    })
    .await?;
    stages.scratch().reserve(holder, scratch_bytes(duration, bytes), 0).await
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, PortError> {
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
