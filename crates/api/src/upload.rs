//! An upload on its way into the blob store: hashed, recognised and measured while it arrives.

use std::sync::Arc;

use axum::extract::multipart::Field;
use axum::http::StatusCode;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use verbatim_audio::{AudioError, HEAD_BYTES};
use verbatim_core::audio::{AudioFormat, AudioInfo, AudioLimits, Findings};
use verbatim_core::ids::JobId;
use verbatim_core::ports::{BlobKey, BlobWriter};
use verbatim_telemetry::Metrics;

use crate::disk_guard::Expected;
use crate::error::ApiError;
use crate::extract::body::too_large;
use crate::stages::UploadPermit;
use crate::state::ApiState;

/// Audio that is written but not yet visible. Dropping it leaves nothing behind.
pub(crate) struct StagedAudio {
    /// The job that it is for, unless its submission attaches to another.
    pub(crate) job_id: JobId,
    /// Where it will lie.
    pub(crate) key: BlobKey,
    /// Makes it visible.
    pub(crate) writer: Box<dyn BlobWriter>,
    /// What it is.
    pub(crate) info: AudioInfo,
}

impl StagedAudio {
    /// Takes the field's content, of which `arriving` learns what has arrived; `broken` says why when the field breaks off.
    ///
    /// # Errors
    /// 413 over the limit, 415 for what is no audio, 422 for nothing, for what cannot be heard without what came before it,
    /// and for what is longer than it may be by its own header; 429 or 503 when too many bytes are under way, or what the blob
    /// store says.
    pub(crate) async fn receive(
        state: &ApiState,
        mut field: Field<'_>,
        arriving: &mut Arriving<'_>,
        broken: impl Fn() -> ApiError,
    ) -> Result<Self, ApiError> {
        let _in_flight = InFlight::enter(&state.metrics);
        let job_id = JobId::generate(state.ids.as_ref());
        let key = state.blobs.upload_key(&job_id);
        let mut writer = state.blobs.put_stream(&key).await?;
        let mut intake = Intake::new(state.limits.max_upload_bytes, state.limits.audio);
        while let Some(piece) = field.chunk().await.map_err(|_| broken())? {
            state.metrics.upload_bytes.inc_by(piece.len() as u64);
            intake.take(&piece)?;
            if !piece.is_empty() {
                let bytes = piece.len() as u64;
                arriving.permit.arrived(bytes).await?;
                writer.write(piece).await?;
                arriving.expected.arrived(bytes);
            }
        }
        Ok(Self { job_id, key, writer, info: intake.finish()? })
    }
}

/// What an upload takes up while it arrives: a permit with its bytes, and room on the disk.
pub(crate) struct Arriving<'a> {
    /// The permit, with what has arrived.
    pub(crate) permit: UploadPermit<'a>,
    /// What is still to come.
    pub(crate) expected: Expected,
}

/// What is learnt of the upload piece by piece.
struct Intake {
    limit: u64,
    audio: AudioLimits,
    bytes: u64,
    hasher: Sha256,
    /// The first bytes behind the tags, and where they are in the file.
    head: Vec<u8>,
    head_at: u64,
    /// Bytes of a tag that are still to pass by.
    tag_left: u64,
    tags: usize,
    format: Option<AudioFormat>,
}

/// Tags in a row that are passed over.
const MOST_TAGS: usize = 16;

impl Intake {
    fn new(limit: u64, audio: AudioLimits) -> Self {
        let (hasher, head) = (Sha256::new(), Vec::new());
        Self { limit, audio, bytes: 0, hasher, head, head_at: 0, tag_left: 0, tags: 0, format: None }
    }

    fn take(&mut self, piece: &Bytes) -> Result<(), ApiError> {
        self.bytes += piece.len() as u64;
        if self.bytes > self.limit {
            return Err(too_large(self.limit));
        }
        self.hasher.update(piece);
        if self.head.len() < HEAD_BYTES {
            self.gather(piece);
            // What is no audio is refused as soon as that can be told.
            if self.head.len() == HEAD_BYTES {
                self.format = Some(self.recognise()?);
            }
        }
        Ok(())
    }

    /// Adds to the head what is not part of a tag.
    fn gather(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && self.head.len() < HEAD_BYTES {
            let skipped = usize::try_from(self.tag_left).unwrap_or(usize::MAX).min(piece.len());
            self.tag_left -= skipped as u64;
            piece = &piece[skipped..];
            let count = piece.len().min(HEAD_BYTES - self.head.len());
            self.head.extend_from_slice(&piece[..count]);
            piece = &piece[count..];
            while self.tags < MOST_TAGS
                && let Some(tag) = verbatim_audio::tag_len(&self.head)
            {
                self.tags += 1;
                self.head_at += tag;
                let there = usize::try_from(tag).unwrap_or(usize::MAX).min(self.head.len());
                self.head.drain(..there);
                self.tag_left = tag - there as u64;
            }
        }
    }

    fn recognise(&self) -> Result<AudioFormat, ApiError> {
        // Between a tag and mp3 there may be padding.
        let behind_a_tag = (self.tags > 0).then_some(AudioFormat::Mp3);
        let format = verbatim_audio::sniff(&self.head).or(behind_a_tag);
        format.ok_or_else(|| refused(&verbatim_audio::refuse(&self.head)))
    }

    fn finish(self) -> Result<AudioInfo, ApiError> {
        if self.bytes == 0 {
            let detail = "the file is empty";
            return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "empty_audio", detail).about("file"));
        }
        let format = self.format.map_or_else(|| self.recognise(), Ok)?;
        let behind = self.bytes.saturating_sub(self.head_at);
        let duration = verbatim_audio::check_duration(&self.head, behind, &self.audio);
        Ok(AudioInfo {
            sha256: hex::encode(self.hasher.finalize()),
            bytes: self.bytes,
            format,
            duration_ms: duration.map_err(|error| refused(&error))?,
            findings: Findings::default(),
        })
    }
}

/// Audio that is refused for what its first bytes tell.
fn refused(error: &AudioError) -> ApiError {
    let refusal = match error {
        AudioError::UnsupportedFormat { .. } => ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media",
            format!("the file is not accepted, and its content decides, not its name: {error}"),
        ),
        AudioError::TooLong { .. } | AudioError::Implausible { .. } => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "audio_too_long", error.to_string())
        }
        _ => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_audio", error.to_string()),
    };
    refusal.about("file")
}

/// Counts an upload for as long as it arrives.
struct InFlight(Arc<Metrics>);

impl InFlight {
    fn enter(metrics: &Arc<Metrics>) -> Self {
        metrics.uploads_in_flight.inc();
        Self(metrics.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.uploads_in_flight.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_audio_is_refused_before_all_of_it_is_there() {
        let mut intake = Intake::new(u64::MAX, AudioLimits::default());
        let text = Bytes::from(vec![b'x'; 4 * 1024]);
        let refused = (0..1000).find_map(|_| intake.take(&text).err()).unwrap();
        assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(intake.bytes, HEAD_BYTES as u64);
    }

    #[test]
    fn the_limit_is_inclusive() {
        let mut intake = Intake::new(3, AudioLimits::default());
        assert!(intake.take(&Bytes::from_static(b"abc")).is_ok());
        assert_eq!(intake.take(&Bytes::from_static(b"d")).unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[test]
    fn an_empty_file_is_422_and_one_byte_is_no_audio() {
        assert_eq!(Intake::new(9, AudioLimits::default()).finish().unwrap_err().code, "empty_audio");
        let mut intake = Intake::new(9, AudioLimits::default());
        intake.take(&Bytes::from_static(b"R")).unwrap();
        assert_eq!(intake.finish().unwrap_err().code, "unsupported_media");
    }
    fn taken(pieces: &[&[u8]]) -> Result<AudioInfo, ApiError> {
        let mut intake = Intake::new(u64::MAX, AudioLimits::default());
        for piece in pieces {
            for part in piece.chunks(1000) {
                intake.take(&Bytes::copy_from_slice(part))?;
            }
        }
        intake.finish()
    }

    fn flac(rate: u64, samples: u64) -> Vec<u8> {
        [&b"fLaC\x80\0\0\x22"[..], &[0; 10], &(rate << 44 | samples).to_be_bytes(), &[0; 16]].concat()
    }

    #[test]
    fn a_tag_of_any_length_hides_neither_format_nor_length() {
        let tag = |len: usize| {
            let syncsafe = [21, 14, 7, 0].map(|shift| (len >> shift & 0x7f) as u8);
            [&b"ID3\x04\0\0"[..], &syncsafe, &vec![0; len]].concat()
        };
        for len in [0, 5, 990, 20_000, 200_000] {
            let info = taken(&[&tag(len), &tag(33), &flac(16_000, 32_000), &[0; 1000]]).unwrap();
            assert_eq!((info.format, info.duration_ms), (AudioFormat::Flac, Some(2_000)), "{len}");
        }
    }

    #[test]
    fn what_is_refused_by_its_first_bytes_is_told_why() {
        let refused = |bytes: &[u8]| taken(&[bytes]).unwrap_err();
        let aiff = refused(b"FORM\0\0\0\x10AIFFCOMM");
        assert_eq!((aiff.status, aiff.code), (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media"));
        let piece = refused(b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff\xe7\x81\0");
        assert_eq!((piece.status, piece.code), (StatusCode::UNPROCESSABLE_ENTITY, "bad_audio"));
        let long = taken(&[&flac(8_000, 8_000 * 30_000), &[0; 400_000]]).unwrap_err();
        assert_eq!((long.status, long.code), (StatusCode::UNPROCESSABLE_ENTITY, "audio_too_long"));
    }
}
