//! One blob being written: pieces are gathered so that the disk sees few large writes, and at the end the file is made
//! durable and renamed into place.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use tempfile::{NamedTempFile, PersistError};
use verbatim_core::ports::blobs::BlobWriter;
use verbatim_core::{ErrorKind, PortError};

use super::{blocking, sync_dir};

/// Bytes gathered before the disk is asked: the memory that one upload costs.
const GATHER: usize = 256 * 1024;
/// How often the rename is tried when the job's folder vanishes under it, because its last result is deleted just then.
const RENAMES: u32 = 8;

/// A blob on its way to `target`. Its temporary file goes away with it.
pub(super) struct FolderWriter {
    /// Gone once a write has failed: what follows would be a blob with a hole.
    temp: Option<NamedTempFile>,
    target: PathBuf,
    gathered: Vec<u8>,
}

impl FolderWriter {
    pub(super) fn new(temp: NamedTempFile, target: PathBuf) -> Self {
        Self { temp: Some(temp), target, gathered: Vec::new() }
    }

    fn take_temp(&mut self) -> Result<NamedTempFile, PortError> {
        let broken = || PortError::new(ErrorKind::Unavailable, "an earlier write of this blob failed");
        self.temp.take().ok_or_else(broken)
    }
}

#[async_trait]
impl BlobWriter for FolderWriter {
    async fn write(&mut self, piece: Bytes) -> Result<(), PortError> {
        if self.gathered.len() + piece.len() < GATHER {
            self.gathered.reserve_exact(GATHER.saturating_sub(self.gathered.len()));
            self.gathered.extend_from_slice(&piece);
            return Ok(());
        }
        let mut temp = self.take_temp()?;
        let mut gathered = std::mem::take(&mut self.gathered);
        // The file comes back only when the write succeeded, and is removed otherwise.
        (self.temp, self.gathered) = blocking("cannot write a blob", move || {
            temp.write_all(&gathered)?;
            temp.write_all(&piece)?;
            gathered.clear();
            Ok((Some(temp), gathered))
        })
        .await?;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), PortError> {
        let mut temp = self.take_temp()?;
        let (gathered, target) = (std::mem::take(&mut self.gathered), std::mem::take(&mut self.target));
        blocking("cannot finish a blob", move || {
            temp.write_all(&gathered)?;
            temp.as_file().sync_all()?;
            rename(temp, &target)
        })
        .await
    }
}

/// Puts the file into place and makes its name durable. When that fails, the blob does not exist.
fn rename(mut temp: NamedTempFile, target: &Path) -> io::Result<()> {
    let parent = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut tries = 0;
    loop {
        if !parent.is_dir() {
            std::fs::create_dir_all(parent)?;
            parent.parent().map_or(Ok(()), sync_dir)?;
        }
        tries += 1;
        match temp.persist(target) {
            Ok(_) => break,
            Err(PersistError { error, file })
                if error.kind() == io::ErrorKind::NotFound && tries < RENAMES =>
            {
                temp = file;
            }
            Err(failed) => return Err(failed.error),
        }
    }
    sync_dir(parent).inspect_err(|_| {
        let _ = std::fs::remove_file(target);
    })
}
