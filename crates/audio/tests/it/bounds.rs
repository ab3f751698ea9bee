//! Memory, disk, cancellation and failing storage.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use verbatim_audio::{AudioError, SAMPLES_IN_MEMORY, VadConfig, decode, find_speech};
use verbatim_core::CancellationToken;
use verbatim_core::audio::{AudioLimits, PcmSource};
use verbatim_core::failure::FailureKind;

use crate::support::{SWEEP, decode_path, ffmpeg, made};

/// The most memory that this process has ever had, in KiB. Each test is a process of its own under nextest.
fn peak_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM")?;
    Ok(line.split_whitespace().nth(1).context("no figure")?.parse()?)
}

#[test]
fn two_hours_of_silence_take_little_memory() -> Result<()> {
    let dir = TempDir::new()?;
    for (name, args) in [("a.flac", "-c:a flac"), ("a.mp3", "-c:a libmp3lame -b:a 32k")] {
        let path = dir.path().join(name);
        ffmpeg("anullsrc=r=16000:cl=mono:d=7200", args, &path)?;
        let before = peak_kib()?;
        let audio = decode_path(&path)?;
        ensure!(audio.duration_ms().abs_diff(7_200_000) <= 50, "{name}: {} ms", audio.duration_ms());
        assert!(audio.is_spooled());
        if name == "a.flac" {
            assert_eq!(find_speech(&audio, &VadConfig::default(), &CancellationToken::new())?, []);
        }
        let grown = (peak_kib()? - before) / 1024;
        println!("{name}: two hours of silence took {grown} MiB at most");
        // Twice the five minutes in memory (a growing vector moves), and the codec's own.
        let most = 2 * (SAMPLES_IN_MEMORY as u64 * 4) / (1024 * 1024) + 24;
        ensure!(grown <= most, "{name}: {grown} MiB more than before, {most} allowed");
    }
    Ok(())
}

#[test]
fn cancelling_stops_the_work() -> Result<()> {
    let dir = TempDir::new()?;
    let path = dir.path().join("a.flac");
    ffmpeg("anullsrc=r=48000:cl=stereo:d=600", "-c:a flac", &path)?;
    let cancel = CancellationToken::new();
    let source = CancelsHalfway {
        inner: File::open(&path)?,
        cancel: cancel.clone(),
        left: path.metadata()?.len() / 2,
    };
    let outcome = decode(source, &AudioLimits::default(), dir.path(), &cancel);
    assert!(matches!(outcome, Err(AudioError::Cancelled)), "{outcome:?}");
    let silence = vec![0.0; 160_000];
    assert!(matches!(find_speech(&silence, &VadConfig::default(), &cancel), Err(AudioError::Cancelled)));
    Ok(())
}

struct CancelsHalfway {
    inner: File,
    cancel: CancellationToken,
    left: u64,
}

impl Read for CancelsHalfway {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(count as u64);
        if self.left == 0 {
            self.cancel.cancel();
        }
        Ok(count)
    }
}

impl Seek for CancelsHalfway {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// A disk that fails halfway is no fault of the file, although demuxers take it for the end of it.
#[test]
fn a_failing_disk_is_not_the_files_fault() -> Result<()> {
    for (name, args) in
        [("a.mp3", "-c:a libmp3lame"), ("a.ogg", "-c:a libopus"), ("a.wav", ""), ("a.m4a", "-c:a aac")]
    {
        let bytes = made(SWEEP, args, name)?;
        let left = AtomicU64::new(bytes.len() as u64 / 2);
        let source = Failing { inner: Cursor::new(bytes), left };
        let error = decode(source, &AudioLimits::default(), &std::env::temp_dir(), &CancellationToken::new());
        let error = error.err().with_context(|| format!("{name}: half of it was taken for all"))?;
        assert_eq!(error.failure_kind(), FailureKind::StorageUnavailable, "{name}: {error:?}");
    }
    Ok(())
}

struct Failing {
    inner: Cursor<Vec<u8>>,
    left: AtomicU64,
}

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let left = self.left.load(Ordering::Relaxed).checked_sub(count as u64);
        self.left.store(left.ok_or_else(|| io::Error::other("the disk is gone"))?, Ordering::Relaxed);
        Ok(count)
    }
}

impl Seek for Failing {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[test]
fn a_missing_scratch_folder_is_storage() -> Result<()> {
    let dir = TempDir::new()?;
    let path = dir.path().join("a.flac");
    ffmpeg("anullsrc=r=16000:cl=mono:d=400", "-c:a flac", &path)?;
    let outcome = decode(
        File::open(&path)?,
        &AudioLimits::default(),
        Path::new("/nonexistent"),
        &CancellationToken::new(),
    );
    let error = outcome.err().context("it was decoded to nowhere")?;
    assert_eq!(error.failure_kind(), FailureKind::StorageUnavailable);
    assert!(!error.is_out_of_space());
    assert!(!error.to_string().contains("nonexistent"), "paths are not for clients: {error}");
    Ok(())
}
