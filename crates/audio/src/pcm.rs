//! Decoded samples: in memory while there are few of them, in an unlinked scratch file from then on.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use verbatim_core::PortError;
use verbatim_core::audio::{AudioFormat, Findings, PcmSource, SAMPLE_RATE};

use crate::blocks::{self, BLOCK, BLOCK_BYTES};
use crate::conditions::{Reservation, Scratch};
use crate::error::AudioError;
use crate::plausible::Longest;

/// So many samples are kept in memory, five minutes or 19 MB; longer audio goes to a scratch file.
pub const SAMPLES_IN_MEMORY: usize = 5 * 60 * SAMPLE_RATE as usize;

/// Samples that are written at a time.
const PIECE: usize = 32 * BLOCK;
/// Room is reserved in steps of so many bytes, nine minutes of audio.
const STEP: u64 = 16 * 1024 * 1024;
/// Bytes that are reserved for so many samples.
pub(crate) fn reserved(samples: u64) -> u64 {
    blocks::bytes(samples).next_multiple_of(STEP)
}

/// Louder than this at no point is silence: two steps of 16 bits, which encoders make of it.
const SILENCE: f32 = 2.0 / 32_768.0;

/// Audio that has been decoded to 16 kHz mono. A scratch file, where there is one, is gone when this is dropped or the
/// process dies.
#[derive(Debug)]
pub struct DecodedAudio {
    pub(crate) findings: Findings,
    samples: Samples,
    format: AudioFormat,
    peak: f32,
}

#[derive(Debug)]
enum Samples {
    Memory(Vec<f32>),
    Scratch(Spool),
}

/// Blocks of 16 bits a sample, and the room that is reserved for them.
#[derive(Debug)]
struct Spool {
    file: File,
    /// Samples in it.
    len: u64,
    reserved: u64,
    /// Held until the file is gone.
    reservations: Vec<Reservation>,
}

impl DecodedAudio {
    /// What the audio was decoded from.
    pub fn format(&self) -> AudioFormat {
        self.format
    }

    /// What was noticed on the way.
    pub fn findings(&self) -> Findings {
        self.findings
    }

    /// Whether it is digital silence from beginning to end.
    pub fn is_silent(&self) -> bool {
        self.peak <= SILENCE
    }

    /// Whether the samples are in a scratch file.
    pub fn is_spooled(&self) -> bool {
        matches!(self.samples, Samples::Scratch(_))
    }

    /// Bytes that it takes in the scratch folder.
    pub fn scratch_bytes(&self) -> u64 {
        match &self.samples {
            Samples::Memory(_) => 0,
            Samples::Scratch(spool) => blocks::bytes(spool.len),
        }
    }
}

impl PcmSource for DecodedAudio {
    fn len(&self) -> u64 {
        match &self.samples {
            Samples::Memory(samples) => samples.len() as u64,
            Samples::Scratch(spool) => spool.len,
        }
    }

    fn read(&self, start: u64, out: &mut [f32]) -> Result<usize, PortError> {
        match &self.samples {
            Samples::Memory(samples) => samples.read(start, out),
            Samples::Scratch(spool) => {
                let there = usize::try_from(spool.len.saturating_sub(start)).unwrap_or(usize::MAX);
                let count = there.min(out.len());
                read_at(&spool.file, spool.len, start, &mut out[..count]).map_err(|error| {
                    PortError::from_io("reading decoded audio from the scratch folder failed", error)
                })?;
                Ok(count)
            }
        }
    }
}

fn read_at(file: &File, len: u64, mut start: u64, mut out: &mut [f32]) -> io::Result<()> {
    let mut bytes = [0; BLOCK_BYTES];
    let mut samples = [0.0; BLOCK];
    while !out.is_empty() {
        let (block, skipped) = (start / BLOCK as u64, (start % BLOCK as u64) as usize);
        let there = usize::try_from(len - block * BLOCK as u64).unwrap_or(usize::MAX).min(BLOCK);
        let bytes = &mut bytes[..blocks::bytes(there as u64) as usize];
        file.read_exact_at(bytes, block * BLOCK_BYTES as u64)?;
        blocks::unpack(bytes, &mut samples[..there]);
        let count = out.len().min(there - skipped);
        let (now, later) = out.split_at_mut(count);
        now.copy_from_slice(&samples[skipped..skipped + count]);
        out = later;
        start += count as u64;
    }
    Ok(())
}

/// Collects samples as they are decoded.
pub(crate) struct PcmWriter<'a> {
    scratch: &'a dyn Scratch,
    memory: Vec<f32>,
    spool: Option<Spool>,
    bytes: Vec<u8>,
    longest: Longest,
    peak: f32,
}

impl<'a> PcmWriter<'a> {
    /// A writer that spools to `scratch` and takes no more than the `longest`.
    pub(crate) fn new(scratch: &'a dyn Scratch, longest: Longest) -> Self {
        Self { scratch, memory: Vec::new(), spool: None, bytes: Vec::new(), longest, peak: 0.0 }
    }

    /// Samples taken so far.
    pub(crate) fn len(&self) -> u64 {
        self.spool.as_ref().map_or(0, |spool| spool.len) + self.memory.len() as u64
    }

    /// Takes the samples out of `from`.
    pub(crate) fn take(&mut self, from: &mut Vec<f32>) -> Result<(), AudioError> {
        let samples = self.len() + from.len() as u64;
        self.longest.check(samples.saturating_mul(1000).div_ceil(u64::from(SAMPLE_RATE)))?;
        self.peak = from.iter().fold(self.peak, |peak, sample| peak.max(sample.abs()));
        self.memory.append(from);
        let room = if self.spool.is_some() { PIECE } else { SAMPLES_IN_MEMORY };
        if self.memory.len() > room { self.spill(false) } else { Ok(()) }
    }

    /// Writes what is in memory, but for the rest of a block when more is to come.
    fn spill(&mut self, is_last: bool) -> Result<(), AudioError> {
        let whole = if is_last { self.memory.len() } else { self.memory.len() / BLOCK * BLOCK };
        let writing = |error| AudioError::io("writing decoded audio to the scratch folder failed", error);
        let mut spool = match self.spool.take() {
            Some(spool) => spool,
            None => {
                let reserved = self.scratch.reserve(STEP).map_err(AudioError::Storage)?;
                let file = tempfile::tempfile_in(self.scratch.folder()).map_err(writing)?;
                Spool { file, len: 0, reserved: STEP, reservations: vec![reserved] }
            }
        };
        for piece in self.memory[..whole].chunks(PIECE) {
            while blocks::bytes(spool.len + piece.len() as u64) > spool.reserved {
                spool.reservations.push(self.scratch.reserve(STEP).map_err(AudioError::Storage)?);
                spool.reserved += STEP;
            }
            self.bytes.clear();
            piece.chunks(BLOCK).for_each(|block| blocks::pack(block, &mut self.bytes));
            spool.file.write_all(&self.bytes).map_err(writing)?;
            spool.len += piece.len() as u64;
        }
        self.spool = Some(spool);
        // The first spill leaves five minutes of capacity behind that are not needed any more.
        let rest = self.memory.split_off(whole);
        self.memory = Vec::with_capacity(2 * PIECE);
        self.memory.extend(rest);
        Ok(())
    }

    /// The samples, to be read from now on.
    pub(crate) fn finish(
        mut self,
        format: AudioFormat,
        findings: Findings,
    ) -> Result<DecodedAudio, AudioError> {
        if self.spool.is_some() {
            self.spill(true)?;
        }
        let samples = match self.spool {
            Some(spool) => Samples::Scratch(spool),
            None => {
                self.memory.shrink_to_fit();
                Samples::Memory(self.memory)
            }
        };
        Ok(DecodedAudio { findings, samples, format, peak: self.peak })
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;

    use verbatim_core::ErrorKind;
    use verbatim_core::audio::AudioLimits;

    use super::*;
    use crate::conditions::Folder;

    fn longest(secs: u64) -> Longest {
        Longest::new(&AudioLimits { max_duration_secs: secs, ..AudioLimits::default() }, u64::MAX)
    }

    #[test]
    fn spooled_samples_read_like_samples_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Folder(dir.path().to_owned());
        let mut writer = PcmWriter::new(&scratch, longest(3600));
        let total = SAMPLES_IN_MEMORY + 3 * PIECE + 17;
        let sample = |n: usize| ((n % 65_536) as f32 - 32_768.0) / 32_768.0;
        for start in (0..total).step_by(9_999) {
            writer.take(&mut (start..total.min(start + 9_999)).map(sample).collect()).unwrap();
        }
        let audio = writer.finish(AudioFormat::Wav, Findings::default()).unwrap();
        assert!(audio.is_spooled());
        assert_eq!(audio.len(), total as u64);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the scratch file has no name");
        assert!(audio.scratch_bytes() < 2 * total as u64 + total as u64 / 500, "{}", audio.scratch_bytes());

        let mut out = vec![0.0; 40_000];
        for start in [0, 1, BLOCK - 1, SAMPLES_IN_MEMORY - 5, SAMPLES_IN_MEMORY + PIECE - 1, total - 40_000] {
            assert_eq!(audio.read(start as u64, &mut out).unwrap(), out.len());
            assert!(out.iter().enumerate().all(|(n, value)| *value == sample(start + n)), "from {start}");
        }
        assert_eq!(audio.read(total as u64 - 3, &mut out).unwrap(), 3, "short only at the end");
        assert_eq!(audio.read(total as u64 + 3, &mut out).unwrap(), 0);
    }

    /// Gives so many bytes and no more.
    struct Small(PathBuf, Mutex<u64>);

    impl Scratch for Small {
        fn folder(&self) -> &Path {
            &self.0
        }

        fn reserve(&self, bytes: u64) -> Result<Reservation, PortError> {
            let mut left = self.1.lock().unwrap();
            *left =
                left.checked_sub(bytes).ok_or_else(|| PortError::new(ErrorKind::OutOfSpace, "no room"))?;
            Ok(Box::new(()))
        }
    }

    #[test]
    fn room_is_asked_for_before_it_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let small = Small(dir.path().to_owned(), Mutex::new(2 * STEP));
        let mut writer = PcmWriter::new(&small, longest(36_000));
        let mut written = 0;
        let error = loop {
            match writer.take(&mut vec![0.1; PIECE]) {
                Ok(()) => {
                    written = writer.spool.as_ref().map_or(0, |spool| spool.file.metadata().unwrap().len())
                }
                Err(error) => break error,
            }
        };
        assert!(error.is_out_of_space(), "{error:?}");
        assert!((STEP..=2 * STEP).contains(&written), "{written} bytes of {}", 2 * STEP);
        let none = Small(PathBuf::from("/nonexistent"), Mutex::new(0));
        let mut writer = PcmWriter::new(&none, longest(36_000));
        writer.take(&mut vec![0.0; SAMPLES_IN_MEMORY]).unwrap();
        assert!(writer.take(&mut vec![0.0]).unwrap_err().is_out_of_space(), "no file before there is room");
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let file = File::options().write(true).open("/dev/full").unwrap();
        let scratch = Folder(PathBuf::from("/nonexistent"));
        let mut writer = PcmWriter::new(&scratch, longest(3600));
        writer.spool = Some(Spool { file, len: 0, reserved: STEP, reservations: Vec::new() });
        let error = writer.take(&mut vec![0.0; 10 * PIECE]).unwrap_err();
        assert!(error.is_out_of_space(), "{error:?}");
    }

    #[test]
    fn the_limits_hold() {
        let scratch = Folder(PathBuf::from("/nonexistent"));
        let mut writer = PcmWriter::new(&scratch, longest(1));
        writer.take(&mut vec![0.0; 16_000]).unwrap();
        assert!(matches!(writer.take(&mut vec![0.0]), Err(AudioError::TooLong { limit_secs: 1 })));
    }
}
