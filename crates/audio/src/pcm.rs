//! Decoded samples: in memory while there are few of them, in an unlinked scratch file from then on.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use verbatim_core::PortError;
use verbatim_core::audio::{AudioFormat, PcmSource, SAMPLE_RATE};

use crate::damage::Damage;
use crate::error::AudioError;

/// So many samples are kept in memory, five minutes or 19 MB; longer audio goes to a scratch file.
pub const SAMPLES_IN_MEMORY: usize = 5 * 60 * SAMPLE_RATE as usize;

const BYTES: usize = size_of::<f32>();
/// Bytes of the scratch file that are turned into samples at a time.
const PIECE: usize = 64 * 1024;

/// Audio that has been decoded to 16 kHz mono. A scratch file, where there is one, is gone when this is dropped or the
/// process dies.
#[derive(Debug)]
pub struct DecodedAudio {
    samples: Samples,
    format: AudioFormat,
    damage: Damage,
}

#[derive(Debug)]
enum Samples {
    Memory(Vec<f32>),
    /// Little-endian `f32`, so many of them.
    Scratch(File, u64),
}

impl DecodedAudio {
    /// What the audio was decoded from.
    pub fn format(&self) -> AudioFormat {
        self.format
    }

    /// What could not be decoded.
    pub fn damage(&self) -> Damage {
        self.damage
    }

    /// Whether the samples are in a scratch file.
    pub fn is_spooled(&self) -> bool {
        matches!(self.samples, Samples::Scratch(..))
    }
}

impl PcmSource for DecodedAudio {
    fn len(&self) -> u64 {
        match &self.samples {
            Samples::Memory(samples) => samples.len() as u64,
            Samples::Scratch(_, len) => *len,
        }
    }

    fn read(&self, start: u64, out: &mut [f32]) -> Result<usize, PortError> {
        match &self.samples {
            Samples::Memory(samples) => samples.read(start, out),
            Samples::Scratch(file, len) => {
                let count = usize::try_from(len.saturating_sub(start)).unwrap_or(usize::MAX).min(out.len());
                read_at(file, start, &mut out[..count]).map_err(|error| {
                    PortError::from_io("reading decoded audio from the scratch folder failed", error)
                })?;
                Ok(count)
            }
        }
    }
}

fn read_at(file: &File, start: u64, out: &mut [f32]) -> io::Result<()> {
    let mut bytes = vec![0; (out.len() * BYTES).min(PIECE)];
    let mut at = start * BYTES as u64;
    for piece in out.chunks_mut(PIECE / BYTES) {
        let bytes = &mut bytes[..piece.len() * BYTES];
        file.read_exact_at(bytes, at)?;
        at += bytes.len() as u64;
        let (words, _) = bytes.as_chunks::<BYTES>();
        piece.iter_mut().zip(words).for_each(|(sample, word)| *sample = f32::from_le_bytes(*word));
    }
    Ok(())
}

/// Collects samples as they are decoded.
pub(crate) struct PcmWriter {
    scratch_dir: PathBuf,
    memory: Vec<f32>,
    spool: Option<(File, u64)>,
    bytes: Vec<u8>,
    limit_secs: u64,
}

impl PcmWriter {
    /// A writer that spools to `scratch_dir` and takes at most `limit_secs` of audio.
    pub(crate) fn new(scratch_dir: &Path, limit_secs: u64) -> Self {
        let scratch_dir = scratch_dir.to_owned();
        Self { scratch_dir, memory: Vec::new(), spool: None, bytes: Vec::new(), limit_secs }
    }

    /// Samples taken so far.
    pub(crate) fn len(&self) -> u64 {
        self.spool.as_ref().map_or(0, |(_, len)| *len) + self.memory.len() as u64
    }

    /// Takes the samples out of `from`.
    pub(crate) fn take(&mut self, from: &mut Vec<f32>) -> Result<(), AudioError> {
        let limit = self.limit_secs.saturating_mul(u64::from(SAMPLE_RATE));
        if self.len() + from.len() as u64 > limit {
            return Err(AudioError::TooLong { limit_secs: self.limit_secs });
        }
        self.memory.append(from);
        let room = if self.spool.is_some() { PIECE } else { SAMPLES_IN_MEMORY };
        if self.memory.len() > room {
            self.spill().map_err(|error| {
                AudioError::io("writing decoded audio to the scratch folder failed", error)
            })?;
        }
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        if self.spool.is_none() {
            self.spool = Some((tempfile::tempfile_in(&self.scratch_dir)?, 0));
        }
        if let Some((file, len)) = &mut self.spool {
            for piece in self.memory.chunks(PIECE) {
                self.bytes.clear();
                self.bytes.extend(piece.iter().flat_map(|sample| sample.to_le_bytes()));
                file.write_all(&self.bytes)?;
            }
            *len += self.memory.len() as u64;
        }
        // The first spill leaves five minutes of capacity behind that are not needed any more.
        self.memory = Vec::with_capacity(2 * PIECE);
        Ok(())
    }

    /// The samples, to be read from now on.
    pub(crate) fn finish(mut self, format: AudioFormat, damage: Damage) -> Result<DecodedAudio, AudioError> {
        if self.spool.is_some() {
            self.spill().map_err(|error| {
                AudioError::io("writing decoded audio to the scratch folder failed", error)
            })?;
        }
        let samples = match self.spool {
            Some((file, len)) => Samples::Scratch(file, len),
            None => {
                self.memory.shrink_to_fit();
                Samples::Memory(self.memory)
            }
        };
        Ok(DecodedAudio { samples, format, damage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spooled_samples_read_like_samples_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = PcmWriter::new(dir.path(), 3600);
        let total = SAMPLES_IN_MEMORY + 3 * PIECE + 17;
        let sample = |n: usize| n as f32 / total as f32;
        for start in (0..total).step_by(9_999) {
            writer.take(&mut (start..total.min(start + 9_999)).map(sample).collect()).unwrap();
        }
        let audio = writer.finish(AudioFormat::Wav, Damage::default()).unwrap();
        assert!(audio.is_spooled());
        assert_eq!(audio.len(), total as u64);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the scratch file has no name");

        let mut out = vec![0.0; 40_000];
        for start in [0, 1, SAMPLES_IN_MEMORY - 5, SAMPLES_IN_MEMORY + PIECE - 1, total - 40_000] {
            assert_eq!(audio.read(start as u64, &mut out).unwrap(), out.len());
            assert!(out.iter().enumerate().all(|(n, value)| *value == sample(start + n)), "from {start}");
        }
        assert_eq!(audio.read(total as u64 - 3, &mut out).unwrap(), 3, "short only at the end");
        assert_eq!(audio.read(total as u64 + 3, &mut out).unwrap(), 0);
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut writer =
            PcmWriter { spool: Some((full, 0)), ..PcmWriter::new(Path::new("/nonexistent"), 3600) };
        let error = writer.take(&mut vec![0.0; 10 * PIECE]).unwrap_err();
        assert!(error.is_out_of_space(), "{error:?}");
    }

    #[test]
    fn the_limit_holds() {
        let mut writer = PcmWriter::new(Path::new("/nonexistent"), 1);
        writer.take(&mut vec![0.0; 16_000]).unwrap();
        assert!(matches!(writer.take(&mut vec![0.0]), Err(AudioError::TooLong { limit_secs: 1 })));
    }
}
