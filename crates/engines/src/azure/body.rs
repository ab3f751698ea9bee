//! Audio as it is sent: the upload as it came, or the decoded samples as WAV; read piece by piece, off the runtime.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, TryStreamExt, try_unfold};
use reqwest::Body;
use reqwest::multipart::Part;
use verbatim_core::PortError;
use verbatim_core::audio::{AudioFormat, PcmSource, SpeechSpan};
use verbatim_core::failure::FailureKind;
use verbatim_core::ports::engine::{EngineError, Upload};

use crate::http::AudioUnread;
use crate::speech_file::{wav_bytes, wav_stream};

/// How much of an upload is read at once.
const PIECE: usize = 256 << 10;

/// Audio to be sent, as often as it takes.
#[derive(Clone)]
pub(super) enum Sending {
    /// The decoded samples, as WAV.
    Samples(Arc<dyn PcmSource>),
    /// The upload as it came.
    Upload(Arc<dyn Upload>),
}

impl Sending {
    /// Its length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Samples(audio) => wav_bytes(audio.len()),
            Self::Upload(upload) => upload.bytes(),
        }
    }

    /// As a part of a form.
    pub(super) fn part(&self) -> Result<Part, EngineError> {
        let format = match self {
            Self::Samples(_) => Some(AudioFormat::Wav),
            Self::Upload(upload) => upload.format(),
        };
        let (name, kind) = name_and_type(format);
        let part = Part::stream_with_length(Body::wrap_stream(self.pieces()), self.bytes());
        part.file_name(name).mime_str(kind).map_err(|error| {
            EngineError::new(FailureKind::Internal, "the request cannot be made").with_source(error)
        })
    }

    /// All of it; for short audio.
    pub(super) async fn whole(&self) -> Result<Bytes, EngineError> {
        let pieces: Vec<Bytes> = self.pieces().try_collect().await.map_err(|error| {
            EngineError::new(FailureKind::StorageUnavailable, "the audio cannot be read").with_source(error)
        })?;
        Ok(pieces.concat().into())
    }

    fn pieces(&self) -> BoxStream<'static, Result<Bytes, AudioUnread>> {
        match self {
            Self::Samples(audio) => {
                let all = SpeechSpan { start: 0, end: audio.len() };
                Box::pin(wav_stream(Arc::clone(audio), all))
            }
            Self::Upload(upload) => {
                let upload = Arc::clone(upload);
                Box::pin(try_unfold(0, move |offset| read_piece(Arc::clone(&upload), offset)))
            }
        }
    }
}

async fn read_piece(upload: Arc<dyn Upload>, offset: u64) -> Result<Option<(Bytes, u64)>, AudioUnread> {
    let left = upload.bytes().saturating_sub(offset);
    if left == 0 {
        return Ok(None);
    }
    let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
    let reading = tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; size];
        let count = upload.read_at(offset, &mut piece)?;
        piece.truncate(count);
        Ok::<_, io::Error>(piece)
    });
    let unread = |error| AudioUnread(PortError::from_io("the upload cannot be read", error));
    let piece = reading.await.map_err(|error| unread(io::Error::other(error)))?.map_err(unread)?;
    if piece.is_empty() {
        return Err(unread(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the upload is shorter than it was",
        )));
    }
    let next = offset + piece.len() as u64;
    Ok(Some((piece.into(), next)))
}

fn name_and_type(format: Option<AudioFormat>) -> (&'static str, &'static str) {
    match format {
        Some(AudioFormat::Wav) => ("audio.wav", "audio/wav"),
        Some(AudioFormat::Flac) => ("audio.flac", "audio/flac"),
        Some(AudioFormat::Mp3) => ("audio.mp3", "audio/mpeg"),
        Some(AudioFormat::Ogg) => ("audio.ogg", "audio/ogg"),
        Some(AudioFormat::M4a) => ("audio.m4a", "audio/mp4"),
        Some(AudioFormat::Aac) => ("audio.aac", "audio/aac"),
        Some(AudioFormat::Webm) => ("audio.webm", "audio/webm"),
        None => ("audio", "application/octet-stream"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Shrinking {
        says: u64,
        has: Vec<u8>,
    }

    impl Upload for Shrinking {
        fn format(&self) -> Option<AudioFormat> {
            None
        }

        fn bytes(&self) -> u64 {
            self.says
        }

        fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
            let rest = &self.has[usize::try_from(offset).unwrap_or(usize::MAX).min(self.has.len())..];
            // In small pieces, as files may be read.
            let count = rest.len().min(out.len()).min(3);
            out[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }
    }

    #[tokio::test]
    async fn an_upload_is_sent_byte_by_byte_as_it_came() {
        let has: Vec<u8> = (0..100).collect();
        let sending = Sending::Upload(Arc::new(Shrinking { says: 100, has: has.clone() }));
        assert_eq!(sending.whole().await.expect("readable"), has);
    }

    #[tokio::test]
    async fn one_that_became_shorter_is_an_error_of_the_storage() {
        let sending = Sending::Upload(Arc::new(Shrinking { says: 100, has: vec![0; 99] }));
        let error = sending.whole().await.expect_err("shorter");
        assert_eq!(error.kind, FailureKind::StorageUnavailable);
    }
}
