//! Opening a file gives way to others, can be cancelled and costs little, whatever lies before its first packet. Counted in
//! bytes read and steps, never in time.

use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use verbatim_audio::{AudioError, Conditions, Folder, Pace, decode_under};
use verbatim_core::CancellationToken;
use verbatim_core::audio::{AudioLimits, PcmSource};

use crate::support::{SWEEP, assert_sweep, decode_bytes, made};

/// Bytes that are read between two steps.
#[derive(Default)]
struct Between {
    now: AtomicU64,
    most: AtomicU64,
    read: AtomicU64,
}

impl Pace for Between {
    fn step(&self) {
        self.now.store(0, Ordering::Relaxed);
    }
}

struct Watched<'a>(Cursor<&'a [u8]>, &'a Between);

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        let now = self.1.now.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        self.1.most.fetch_max(now, Ordering::Relaxed);
        self.1.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Seek for Watched<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

fn watch(bytes: &[u8], cancel: &CancellationToken) -> (Result<u64, AudioError>, Between) {
    let (limits, scratch, between) =
        (AudioLimits::default(), Folder(std::env::temp_dir()), Between::default());
    let conditions = Conditions { pace: &between, ..Conditions::new(&limits, &scratch, cancel) };
    let outcome = decode_under(Watched(Cursor::new(bytes), &between), &conditions).map(|audio| audio.len());
    (outcome, between)
}

fn flac_block(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

/// FLAC with blocks of metadata behind the first.
fn flac_with(blocks: &[u8]) -> Result<Vec<u8>> {
    let plain = made(SWEEP, "-c:a flac", "a.flac")?;
    let mut at = 4;
    while plain[at] & 0x80 == 0 {
        at += 4 + u32::from_be_bytes([0, plain[at + 1], plain[at + 2], plain[at + 3]]) as usize;
    }
    let sound = at + 4 + u32::from_be_bytes([0, plain[at + 1], plain[at + 2], plain[at + 3]]) as usize;
    let mut info = plain[..42].to_vec();
    info[4] = 0;
    Ok([&info, blocks, &flac_block(0x81, &[0; 100]), &plain[sound..]].concat())
}

/// Points at random places.
fn points(count: u32) -> Vec<u8> {
    let mut random = 1_u64;
    let point = |number: u32| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        [&(random >> 24).to_be_bytes()[..], &u64::from(number).to_be_bytes(), &[0, 1]].concat()
    };
    (0..count).flat_map(point).collect()
}

/// Files with much before their sound, or with none.
fn slow_to_open() -> Result<Vec<(&'static str, Vec<u8>)>> {
    const MUCH: usize = 3 << 20;
    let boxes = [&b"\0\0\0\x10ftypM4A \0\0\0\0"[..], &b"\0\0\0\x10free12345678".repeat(MUCH / 16)].concat();
    let webm = made(SWEEP, "-c:a libopus", "a.webm")?;
    let opus = made(SWEEP, "-c:a libopus", "a.ogg")?;
    let flac = made(SWEEP, "-c:a flac", "a.flac")?;
    let chunks =
        [&b"RIFF\0\0\0\0WAVE"[..], &[&b"LIST\x00\x0c\0\0"[..], &[0; 3072]].concat().repeat(1000)].concat();
    Ok(vec![
        ("boxes", boxes),
        ("marks of Matroska", [webm.clone(), b"\x1a\x45\xdf\xa3webm".repeat(MUCH / 8)].concat()),
        ("zeros behind Opus", [opus, vec![0; MUCH]].concat()),
        ("zeros behind FLAC", [flac, vec![0; MUCH]].concat()),
        ("chunks", chunks),
        ("zeros behind a tag", [&b"ID3\x04\0\0\0\0\0\0"[..], &vec![0; MUCH]].concat()),
        ("zeros behind ADTS", [made(SWEEP, "-c:a aac", "a.aac")?, vec![0; MUCH]].concat()),
    ])
}

#[test]
fn whoever_opens_a_file_gives_way() -> Result<()> {
    for (name, bytes) in slow_to_open()? {
        let (outcome, between) = watch(&bytes, &CancellationToken::new());
        let most = between.most.into_inner();
        println!("{name}: {outcome:?}, {most} bytes between steps");
        ensure!(most <= 512 << 10, "{name}: {most} bytes were read without giving way");
    }
    Ok(())
}

#[test]
fn whoever_opens_a_file_can_be_stopped() -> Result<()> {
    let cancel = CancellationToken::new();
    cancel.cancel();
    for (name, bytes) in slow_to_open()? {
        let (outcome, between) = watch(&bytes, &cancel);
        ensure!(matches!(outcome, Err(AudioError::Cancelled)), "{name}: {outcome:?}");
        let read = between.read.into_inner();
        ensure!(read < 512 << 10, "{name}: {read} bytes were read all the same");
    }
    Ok(())
}

/// The reader puts each point of a seek table into its place: 600,000 of them held a slot for minutes.
#[test]
fn metadata_of_flac_is_passed_over() -> Result<()> {
    for (name, blocks) in [
        ("points", flac_block(3, &points(600_000))),
        ("tables", flac_block(3, &points(10)).repeat(20_000)),
        ("pictures", flac_block(6, &[0xff; 100_000]).repeat(60)),
        ("comments", flac_block(4, &[0xff; 100_000]).repeat(60)),
    ] {
        let bytes = flac_with(&blocks)?;
        assert_sweep(&decode_bytes(bytes.clone()).context(name)?, name, 1, 0.999)?;
        assert!(!decode_bytes(bytes)?.findings().any(), "{name}");
    }
    // Nothing may come before the first block.
    let plain = made(SWEEP, "-c:a flac", "a.flac")?;
    let bytes = [&plain[..4], &flac_block(3, &points(1000)), &plain[4..]].concat();
    assert!(matches!(decode_bytes(bytes), Err(AudioError::Malformed { .. })));
    Ok(())
}
