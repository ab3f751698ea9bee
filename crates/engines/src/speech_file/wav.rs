//! RIFF WAVE with 16-bit PCM, 16 kHz, one channel (Microsoft, "Multimedia Programming Interface and Data
//! Specifications 1.0", 1991), made piece by piece while it is sent.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use futures::stream;
use verbatim_core::audio::{PcmSource, SAMPLE_RATE, SpeechSpan};
use verbatim_core::{ErrorKind, PortError};

use crate::http::AudioUnread;

/// Length of what precedes the samples.
pub(crate) const HEADER_BYTES: u64 = 44;
const SAMPLE_BYTES: u64 = 2;
/// Samples that are read and sent together: four seconds.
const PIECE: u64 = 4 * SAMPLE_RATE as u64;

/// Length of the file that holds so many samples.
pub(crate) fn wav_bytes(samples: u64) -> u64 {
    HEADER_BYTES + SAMPLE_BYTES * samples
}

fn header(samples: u64) -> Bytes {
    // A length that does not fit is that of 37 hours; no audio limit allows it.
    let length = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    let mut header = BytesMut::with_capacity(44);
    header.put_slice(b"RIFF");
    header.put_u32_le(length(wav_bytes(samples) - 8));
    header.put_slice(b"WAVEfmt ");
    header.put_u32_le(16);
    header.put_u16_le(1);
    header.put_u16_le(1);
    header.put_u32_le(SAMPLE_RATE);
    header.put_u32_le(SAMPLE_RATE * 2);
    header.put_u16_le(2);
    header.put_u16_le(16);
    header.put_slice(b"data");
    header.put_u32_le(length(SAMPLE_BYTES * samples));
    header.freeze()
}

/// The file of a stretch of audio, [`wav_bytes`] long, a few seconds in memory at a time. Samples are read on threads that
/// may block.
pub(crate) fn wav_stream(
    audio: Arc<dyn PcmSource>,
    span: SpeechSpan,
) -> impl Stream<Item = Result<Bytes, AudioUnread>> + Send + 'static {
    let samples = stream::try_unfold(span.start, move |at| {
        let audio = Arc::clone(&audio);
        async move {
            let count = span.end.saturating_sub(at).min(PIECE);
            if count == 0 {
                return Ok(None);
            }
            let piece = encode_off_runtime(audio, at, count).await.map_err(AudioUnread)?;
            Ok(Some((piece, at + count)))
        }
    });
    futures::StreamExt::chain(stream::iter([Ok(header(span.samples()))]), samples)
}

async fn encode_off_runtime(audio: Arc<dyn PcmSource>, at: u64, count: u64) -> Result<Bytes, PortError> {
    let encoding = tokio::task::spawn_blocking(move || encode(audio.as_ref(), at, count));
    encoding.await.unwrap_or_else(|error| {
        Err(PortError::new(ErrorKind::Internal, "reading the audio stopped").with_source(error))
    })
}

fn encode(audio: &dyn PcmSource, at: u64, count: u64) -> Result<Bytes, PortError> {
    let mut samples = vec![0.0; usize::try_from(count).unwrap_or(0)];
    if audio.read(at, &mut samples)? < samples.len() {
        return Err(PortError::new(ErrorKind::Internal, "the audio is shorter than it said"));
    }
    let mut bytes = BytesMut::with_capacity(samples.len() * 2);
    for sample in samples {
        // Sixteen-bit audio comes out as it went in; what is louder than full scale becomes full scale.
        bytes.put_i16_le((sample * 32_768.0).round() as i16);
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use futures::TryStreamExt;

    use super::*;

    async fn file(samples: Vec<f32>, span: SpeechSpan) -> Result<Vec<u8>> {
        let pieces: Vec<Bytes> = wav_stream(Arc::new(samples), span).try_collect().await?;
        Ok(pieces.concat())
    }

    #[tokio::test]
    async fn a_decoder_reads_back_the_very_samples() -> Result<()> {
        let values: Vec<i16> = (0..200_000).map(|at: i32| (at * 7919 % 65_536 - 32_768) as i16).collect();
        let samples: Vec<f32> = values.iter().map(|value| f32::from(*value) / 32_768.0).collect();
        let (start, end) = (16, 190_000);
        let file = file(samples, SpeechSpan { start, end }).await?;
        assert_eq!(file.len() as u64, wav_bytes(end - start));
        assert_eq!(&file[..4], b"RIFF");
        assert_eq!(file[4..8], u32::try_from(file.len() - 8)?.to_le_bytes());
        assert_eq!(file[40..44], u32::try_from(file.len() - 44)?.to_le_bytes());
        let read: Vec<i16> =
            file[44..].chunks(2).map(|bytes| i16::from_le_bytes([bytes[0], bytes[1]])).collect();
        assert_eq!(read, values[16..190_000]);
        Ok(())
    }

    #[tokio::test]
    async fn what_is_too_loud_is_full_scale() -> Result<()> {
        let file = file(vec![1.5, -1.5, 1.0, f32::NAN], SpeechSpan { start: 0, end: 4 }).await?;
        assert_eq!(file[44..], [0xff, 0x7f, 0x00, 0x80, 0xff, 0x7f, 0, 0]);
        Ok(())
    }

    #[tokio::test]
    async fn audio_that_ends_early_is_an_error_and_no_shorter_file() {
        let pieces = wav_stream(Arc::new(vec![0.0; 10]), SpeechSpan { start: 0, end: 11 });
        assert!(pieces.try_collect::<Vec<Bytes>>().await.is_err());
    }
}
