//! An upload on its way into the blob store: hashed, recognised and measured while it arrives.

use std::sync::Arc;

use axum::extract::multipart::Field;
use axum::http::StatusCode;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use verbatim_audio::HEAD_BYTES;
use verbatim_core::audio::{AudioFormat, AudioInfo};
use verbatim_core::ids::JobId;
use verbatim_core::ports::{BlobKey, BlobWriter};
use verbatim_telemetry::Metrics;

use crate::error::ApiError;
use crate::extract::body::too_large;
use crate::stages::UploadPermit;
use crate::state::ApiState;
use crate::watermark::Expected;

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
    /// 413 over the limit, 415 for what is no audio, 422 for nothing, 429 or 503 when too many bytes are under way, or what
    /// the blob store says.
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
        let mut intake = Intake::new(state.limits.max_upload_bytes);
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
    bytes: u64,
    hasher: Sha256,
    head: Vec<u8>,
    format: Option<AudioFormat>,
}

impl Intake {
    fn new(limit: u64) -> Self {
        Self { limit, bytes: 0, hasher: Sha256::new(), head: Vec::new(), format: None }
    }

    fn take(&mut self, piece: &Bytes) -> Result<(), ApiError> {
        self.bytes += piece.len() as u64;
        if self.bytes > self.limit {
            return Err(too_large(self.limit));
        }
        self.hasher.update(piece);
        if self.head.len() < HEAD_BYTES {
            self.head.extend_from_slice(&piece[..piece.len().min(HEAD_BYTES - self.head.len())]);
            // What is no audio is refused as soon as that can be told.
            if self.head.len() == HEAD_BYTES {
                self.format = Some(verbatim_audio::sniff(&self.head).ok_or_else(unsupported_media)?);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<AudioInfo, ApiError> {
        if self.bytes == 0 {
            let detail = "the file is empty";
            return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "empty_audio", detail).about("file"));
        }
        let format =
            self.format.or_else(|| verbatim_audio::sniff(&self.head)).ok_or_else(unsupported_media)?;
        Ok(AudioInfo {
            sha256: hex::encode(self.hasher.finalize()),
            bytes: self.bytes,
            format,
            duration_ms: verbatim_audio::probe_duration(&self.head, self.bytes),
        })
    }
}

fn unsupported_media() -> ApiError {
    ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media",
        "the file is none of wav, flac, mp3, ogg, m4a, mp4, aac and webm; its content decides, not its name",
    )
    .about("file")
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
        let mut intake = Intake::new(u64::MAX);
        let text = Bytes::from(vec![b'x'; 4 * 1024]);
        let refused = (0..1000).find_map(|_| intake.take(&text).err()).unwrap();
        assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(intake.bytes, HEAD_BYTES as u64);
    }

    #[test]
    fn the_limit_is_inclusive() {
        let mut intake = Intake::new(3);
        assert!(intake.take(&Bytes::from_static(b"abc")).is_ok());
        assert_eq!(intake.take(&Bytes::from_static(b"d")).unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[test]
    fn an_empty_file_is_422_and_one_byte_is_no_audio() {
        assert_eq!(Intake::new(9).finish().unwrap_err().code, "empty_audio");
        let mut intake = Intake::new(9);
        intake.take(&Bytes::from_static(b"R")).unwrap();
        assert_eq!(intake.finish().unwrap_err().code, "unsupported_media");
    }
}
