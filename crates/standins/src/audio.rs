//! The audio that a stand-in receives.

use std::io::Cursor;

use verbatim_core::CancellationToken;
use verbatim_core::audio::{AudioFormat, AudioLimits, PcmSource, SAMPLE_RATE};

/// Audio that could be read.
#[derive(Debug)]
pub(crate) struct Audio {
    pub(crate) rate: u32,
    /// Samples by channel. Formats other than WAV come out as one channel at 16 kHz.
    pub(crate) channels: Vec<Vec<f32>>,
    pub(crate) duration_ms: u64,
}

impl Audio {
    /// Reads a file. WAV with 16-bit samples is held to the letter of its header; the rest is decoded as far as it can be.
    pub(crate) fn read(file: &[u8]) -> Result<Self, String> {
        let format = verbatim_audio::sniff(file).ok_or("the audio has no known format")?;
        if format == AudioFormat::Wav
            && let Some(read) = pcm16(file)
        {
            return read;
        }
        let (cancel, scratch) = (CancellationToken::new(), std::env::temp_dir());
        let source = Cursor::new(file.to_vec());
        let decoded = verbatim_audio::decode(source, &AudioLimits::default(), &scratch, &cancel);
        let decoded = decoded.map_err(|error| error.to_string())?;
        let mut samples = vec![0.0; usize::try_from(decoded.len()).unwrap_or(0)];
        decoded.read(0, &mut samples).map_err(|error| error.to_string())?;
        let duration_ms = decoded.duration_ms();
        Ok(Self { rate: SAMPLE_RATE, channels: vec![samples], duration_ms })
    }

    /// All channels mixed into one.
    pub(crate) fn mono(&self) -> Vec<f32> {
        let frames = self.channels.first().map_or(0, Vec::len);
        let count = self.channels.len().max(1) as f32;
        (0..frames).map(|at| self.channels.iter().map(|channel| channel[at]).sum::<f32>() / count).collect()
    }

    /// One channel; the first where there is no such.
    pub(crate) fn channel(&self, index: usize) -> &[f32] {
        self.channels.get(index).or(self.channels.first()).map_or(&[], Vec::as_slice)
    }
}

/// A RIFF file with 16-bit PCM, strictly: chunks that fit, sizes that are true. `None` for other encodings.
fn pcm16(file: &[u8]) -> Option<Result<Audio, String>> {
    let format = chunk(file, b"fmt ").ok()?;
    let (encoding, channels) = (u16_at(format, 0)?, u16_at(format, 2)?);
    let (rate, bits) = (u32::from_le_bytes(format.get(4..8)?.try_into().ok()?), u16_at(format, 14)?);
    (encoding == 1 && bits == 16).then(|| {
        let riff = file.get(4..8).and_then(|size| size.try_into().ok()).map_or(0, u32::from_le_bytes);
        if riff as usize + 8 != file.len() {
            return Err(format!("RIFF says {riff} bytes, the file has {}", file.len().saturating_sub(8)));
        }
        if channels == 0 || rate == 0 {
            return Err("no channels or no rate".to_owned());
        }
        let frame = usize::from(channels) * 2;
        if u16_at(format, 12) != Some(channels * 2) {
            return Err("the block alignment is wrong".to_owned());
        }
        let data = chunk(file, b"data")?;
        if data.is_empty() || !data.len().is_multiple_of(frame) {
            return Err(format!("{} bytes of samples are no whole frames", data.len()));
        }
        let sample = |frame: &[u8], channel: usize| {
            f32::from(i16::from_le_bytes([frame[2 * channel], frame[2 * channel + 1]])) / 32_768.0
        };
        let channels: Vec<Vec<f32>> = (0..usize::from(channels))
            .map(|channel| data.chunks_exact(frame).map(|frame| sample(frame, channel)).collect())
            .collect();
        let duration_ms = (data.len() / frame) as u64 * 1000 / u64::from(rate);
        Ok(Audio { rate, channels, duration_ms })
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn chunk<'a>(file: &'a [u8], wanted: &[u8; 4]) -> Result<&'a [u8], String> {
    let mut at = 12;
    while let Some(header) = file.get(at..at + 8) {
        let size = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let body = file.get(at + 8..at + 8 + size).ok_or("a chunk is longer than the file")?;
        if header.starts_with(wanted) {
            return Ok(body);
        }
        at += 8 + size + size % 2;
    }
    Err(format!("there is no `{}` chunk", String::from_utf8_lossy(wanted)))
}
