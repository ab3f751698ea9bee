//! The upload itself, beside its decoded form.

use std::fs::File;
use std::os::unix::fs::FileExt;

use verbatim_audio::{HEAD_BYTES, sniff};
use verbatim_core::audio::AudioFormat;
use verbatim_core::ports::engine::Upload;

/// An upload on disk, read by position: whoever else reads the file moves nothing here.
pub(super) struct UploadFile {
    file: File,
    format: Option<AudioFormat>,
    bytes: u64,
}

impl UploadFile {
    /// A second handle on `file`.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn open(file: &File) -> std::io::Result<Self> {
        let file = file.try_clone()?;
        let mut head = [0; HEAD_BYTES];
        let length = file.read_at(&mut head, 0)?;
        let format = sniff(&head[..length]);
        let bytes = file.metadata()?.len();
        Ok(Self { file, format, bytes })
    }
}

impl Upload for UploadFile {
    fn format(&self) -> Option<AudioFormat> {
        self.format
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> std::io::Result<usize> {
        self.file.read_at(out, offset)
    }
}
