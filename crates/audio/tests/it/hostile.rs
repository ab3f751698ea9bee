//! Files that are small and make a decoder work: tables that are searched, silence that fills disks, lengths that are
//! made up. What they may cost is counted in bytes read and packets, never in time.

use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;
use verbatim_audio::{AudioError, Conditions, Folder, Pace, ProcessorClock, check_duration, decode_under};
use verbatim_core::CancellationToken;
use verbatim_core::audio::{AudioLimits, PcmSource};
use verbatim_core::failure::FailureKind;

use crate::support::{SWEEP, decode_bytes, made};

/// A file that counts the bytes that are read of it.
struct Counting<'a> {
    inner: Cursor<&'a [u8]>,
    read: &'a AtomicU64,
    reads: &'a AtomicU64,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(count)
    }
}

impl Seek for Counting<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Counts the steps, at reads and between packets.
#[derive(Default)]
struct Steps(AtomicU64);

impl Pace for Steps {
    fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A clock that stands.
struct Still;

impl ProcessorClock for Still {
    fn thread_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// What decoding `bytes` came to, how often the file was read over, and the steps between packets.
fn cost(bytes: &[u8]) -> (Result<u64, AudioError>, f64, u64) {
    let (read, reads, steps) = (AtomicU64::new(0), AtomicU64::new(0), Steps::default());
    let (limits, cancel) = (AudioLimits::default(), CancellationToken::new());
    let scratch = Folder(std::env::temp_dir());
    let conditions =
        Conditions { pace: &steps, clock: &Still, ..Conditions::new(&limits, &scratch, &cancel) };
    let source = Counting { inner: Cursor::new(bytes), read: &read, reads: &reads };
    let outcome = decode_under(source, &conditions).map(|audio| audio.len());
    let between_packets = steps.0.into_inner().saturating_sub(reads.into_inner());
    (outcome, read.into_inner() as f64 / bytes.len() as f64, between_packets)
}

fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = (8 + body.len() as u32).to_be_bytes().to_vec();
    bytes.extend(kind);
    bytes.extend(body);
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// An MP4 file of 16-bit samples at 16 kHz with these tables and what follows them.
fn mp4(id: u32, stts: &[u32], stsc: &[u32], stsz: &[u32], stco: &[u32], extends: &[u8]) -> Vec<u8> {
    let mut entry = words(&[0, 1, 0, 0, 0x0001_0010, 0, 16_000 << 16]);
    entry = boxed(b"sowt", &entry);
    let full = |table: &[u32]| [&[0, 0, 0, 0][..], &words(table)].concat();
    let counted = |table: &[u32], width: usize| full(&[&[(table.len() / width) as u32], table].concat());
    let stbl = boxed(
        b"stbl",
        &[
            boxed(b"stsd", &[words(&[0, 1]), entry].concat()),
            boxed(b"stts", &counted(stts, 2)),
            boxed(b"stsc", &counted(stsc, 3)),
            boxed(b"stsz", &full(stsz)),
            boxed(b"stco", &counted(stco, 1)),
        ]
        .concat(),
    );
    let mdia = [
        boxed(b"mdhd", &words(&[0, 0, 0, 16_000, 0, 0])),
        boxed(b"hdlr", &[words(&[0, 0]), b"soun".to_vec(), words(&[0, 0, 0]), vec![0]].concat()),
        boxed(b"minf", &stbl),
    ];
    let track = [
        boxed(b"tkhd", &[words(&[1, 0, 0, id, 0, 0]), vec![0; 60]].concat()),
        boxed(b"mdia", &mdia.concat()),
    ]
    .concat();
    let movie = [
        boxed(b"mvhd", &[words(&[0, 0, 0, 16_000, 0]), vec![0; 80]].concat()),
        boxed(b"trak", &track),
        extends.to_vec(),
    ];
    [boxed(b"ftyp", b"M4A \0\0\0\0"), boxed(b"moov", &movie.concat())].concat()
}

/// A million entries of no samples before a million samples: a reader that searches its table for every packet takes
/// a million times a million steps, ten minutes of them.
#[test]
fn entries_of_no_samples_are_passed_once() -> Result<()> {
    const MILLION: u32 = 1_000_000;
    let mut stts = vec![0; 2 * MILLION as usize];
    stts.extend([MILLION, 1]);
    let samples = vec![2; MILLION as usize];
    // Each sample has a size of its own, so that none can be taken together.
    let stsz = [&[0, MILLION][..], &samples].concat();
    let mut bytes = mp4(1, &stts, &[1, MILLION, 1], &stsz, &[0], &[]);
    let at = bytes.len() as u32 + 8;
    let stco = bytes.windows(4).rposition(|window| window == b"stco").unwrap_or_default() + 12;
    bytes[stco..stco + 4].copy_from_slice(&at.to_be_bytes());
    bytes.extend(boxed(b"mdat", &vec![1; 2 * MILLION as usize]));
    let (outcome, read_over, steps) = cost(&bytes);
    assert_eq!(outcome?, u64::from(MILLION));
    ensure!(read_over < 4.0, "the file was read {read_over} times over");
    ensure!(steps <= u64::from(MILLION) + 2, "{steps} steps");
    Ok(())
}

/// The same in fragments: in one run of very many samples, and in very many runs of one.
#[test]
fn runs_of_fragments_are_passed_once() -> Result<()> {
    let extends = boxed(b"mvex", &boxed(b"trex", &words(&[0, 1, 1, 1, 2, 0])));
    let head = mp4(1, &[], &[], &[0, 0], &[], &extends);
    let samples = 300_000_u32;
    let each: Vec<u32> = (0..samples).flat_map(|_| [1, 2]).collect();
    let one_run = boxed(b"trun", &[words(&[0x300, samples]), words(&each)].concat());
    let one_each = boxed(b"trun", &words(&[0x300, 1, 1, 2])).repeat(samples as usize);
    for (name, runs) in [("one run", one_run), ("a run each", one_each)] {
        // The first run begins where the fragment does, so that the boxes themselves are what is heard.
        let part = [boxed(b"tfhd", &words(&[0x2_0000, 1])), runs].concat();
        let moof = boxed(b"moof", &[boxed(b"mfhd", &words(&[0, 1])), boxed(b"traf", &part)].concat());
        let bytes = [head.clone(), moof, boxed(b"mdat", &vec![1; 1000])].concat();
        let (outcome, read_over, steps) = cost(&bytes);
        assert_eq!(outcome?, u64::from(samples), "{name}");
        ensure!(read_over < 5.0, "{name}: the file was read {read_over} times over");
        ensure!(steps <= u64::from(samples) + 2, "{name}: {steps} steps");
    }
    Ok(())
}

/// A few bytes of a table can promise billions of samples, and a chunk can be heard again and again.
#[test]
fn promises_of_billions_end_where_the_file_does() {
    let extends = boxed(b"mvex", &boxed(b"trex", &words(&[0, 1, 1, 1, 0, 0])));
    let head = mp4(1, &[], &[], &[0, 0], &[], &extends);
    let part = [boxed(b"tfhd", &words(&[0x2_0000, 1])), boxed(b"trun", &words(&[0, u32::MAX]))].concat();
    let empty = boxed(b"moof", &boxed(b"traf", &part.repeat(1000)));
    let same_chunk = mp4(1, &[u32::MAX, 1], &[1, 4096, 1], &[2, u32::MAX], &vec![0; 20_000], &[]);
    for (name, bytes) in [("empty samples", [head, empty].concat()), ("the same chunk", same_chunk)] {
        let (outcome, read_over, steps) = cost(&bytes);
        let error = outcome.err().map(|error| error.failure_kind());
        assert_eq!(error, Some(FailureKind::BadAudio), "{name}");
        assert!(steps < 100_000 && read_over < 2_000.0, "{name}: {steps} steps, read {read_over} times over");
    }
}

/// A FLAC file of frames that each say "65,535 times the same sample".
fn constant_flac(frames: u32) -> Vec<u8> {
    let mut bytes = b"fLaC\x80\x00\x00\x22".to_vec();
    bytes.extend(65_535_u16.to_be_bytes());
    bytes.extend(65_535_u16.to_be_bytes());
    bytes.extend([0; 6]);
    // 8 kHz, one channel, 16 bits, length unknown.
    bytes.extend((8_000_u64 << 44 | 15 << 36).to_be_bytes());
    bytes.extend([0; 16]);
    for number in 0..frames {
        let mut frame = vec![0xff, 0xf8, 0x70, 0x08];
        let mut coded = [0; 4];
        frame.extend(char::from_u32(number).unwrap_or_default().encode_utf8(&mut coded).as_bytes());
        frame.extend(65_534_u16.to_be_bytes());
        frame.push(crc(&frame, 8, 0x07) as u8);
        frame.extend([0, 0, 0]);
        frame.extend((crc(&frame, 16, 0x8005) as u16).to_be_bytes());
        bytes.extend(frame);
    }
    bytes
}

fn crc(bytes: &[u8], bits: u32, polynomial: u32) -> u32 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << (bits - 8), |crc, _| {
            let shifted = crc << 1 & ((1_u64 << bits) - 1) as u32;
            if crc >> (bits - 1) == 1 { shifted ^ polynomial } else { shifted }
        })
    })
}

#[test]
fn silence_that_is_packed_too_densely_is_refused() -> Result<()> {
    let few = constant_flac(50);
    assert_eq!(decode_bytes(few.clone())?.duration_ms().div_ceil(1000), 410);
    let many = constant_flac(440);
    ensure!(many.len() < 6_200, "{} bytes", many.len());
    let error = decode_bytes(many.clone()).err();
    assert!(matches!(error, Some(AudioError::Implausible { .. })), "{error:?}");
    // The same from the header, before anything is decoded.
    let mut stated = many;
    stated[18..26].copy_from_slice(&(8_000_u64 << 44 | 15 << 36 | (440 * 65_535)).to_be_bytes());
    let limits = AudioLimits::default();
    let error = check_duration(&stated, stated.len() as u64, &limits).err();
    assert!(matches!(error, Some(AudioError::Implausible { .. })), "{error:?}");
    Ok(())
}

#[test]
fn what_a_header_says_is_compared_with_the_limit() -> Result<()> {
    let limits = AudioLimits { max_duration_secs: 5, ..AudioLimits::default() };
    for (name, args) in [
        ("a.wav", ""),
        ("a.flac", "-c:a flac"),
        ("a.mp3", "-c:a libmp3lame"),
        ("a.m4a", "-c:a aac -movflags +faststart"),
    ] {
        let bytes = made(SWEEP, args, name)?;
        let head = &bytes[..bytes.len().min(verbatim_audio::HEAD_BYTES)];
        let error = check_duration(head, bytes.len() as u64, &limits).err();
        assert!(matches!(error, Some(AudioError::TooLong { limit_secs: 5 })), "{name}: {error:?}");
        let long_enough = AudioLimits { max_duration_secs: 10, ..limits };
        assert!(check_duration(head, bytes.len() as u64, &long_enough)?.is_some(), "{name}");
    }
    Ok(())
}

/// A clock that goes on by a second whenever it is looked at.
#[derive(Default)]
struct Ticks(AtomicU64);

impl ProcessorClock for Ticks {
    fn thread_time(&self) -> Duration {
        Duration::from_secs(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

#[test]
fn a_file_that_takes_too_much_processor_time_is_refused_for_good() -> Result<()> {
    for (name, args) in [
        ("a.wav", ""),
        ("a.flac", "-c:a flac"),
        ("a.mp3", "-c:a libmp3lame"),
        ("a.ogg", "-c:a libopus"),
        ("a.webm", "-c:a libopus"),
        ("a.m4a", "-c:a aac"),
        ("a.aac", "-c:a aac"),
    ] {
        let bytes = made(SWEEP, args, name)?;
        let (limits, cancel, scratch) =
            (AudioLimits::default(), CancellationToken::new(), Folder(std::env::temp_dir()));
        let clock = Ticks::default();
        let conditions = Conditions { clock: &clock, ..Conditions::new(&limits, &scratch, &cancel) };
        let error = decode_under(Cursor::new(bytes), &conditions).err();
        assert!(matches!(error, Some(AudioError::TooCostly)), "{name}: {error:?}");
        assert!(error.is_some_and(|error| !error.failure_kind().is_retryable()), "{name}");
        assert!(clock.0.into_inner() < 20, "{name}");
    }
    Ok(())
}

/// The files from which the fuzzer sets out in search of work that grows faster than its input.
#[test]
fn large_files_that_make_much_of_little_cost_little() -> Result<()> {
    let dir = TempDir::new()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/large");
    let status = Command::new("python3").arg(script).current_dir(dir.path()).status()?;
    ensure!(status.success(), "fuzz/large: {status}");
    let mut files = 0;
    for entry in std::fs::read_dir(dir.path())? {
        let path = entry?.path();
        let bytes = std::fs::read(&path)?;
        let (outcome, read_over, steps) = cost(&bytes);
        let name = path.display();
        println!("{name}: {outcome:?}, read {read_over:.1} times over, {steps} steps");
        ensure!(read_over < 40.0, "{name} was read {read_over} times over");
        ensure!(steps <= bytes.len() as u64 / 4, "{name}: {steps} steps");
        files += 1;
    }
    ensure!(files >= 10, "{files} files");
    Ok(())
}
