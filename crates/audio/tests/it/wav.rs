//! WAV in all the ways that it is written.

use anyhow::{Context, Result};
use tempfile::TempDir;
use verbatim_audio::{AudioError, probe_duration};
use verbatim_core::audio::PcmSource;

use crate::support::{
    SWEEP, assert_sweep, correlation, decode_bytes, decode_path, ffmpeg, made, run, samples, sweep,
};

#[test]
fn every_kind_of_sample() -> Result<()> {
    for (codec, least_likeness) in [
        ("pcm_u8", 0.999),
        ("pcm_s16le", 0.9999),
        ("pcm_s24le", 0.9999),
        ("pcm_s32le", 0.9999),
        ("pcm_f32le", 0.9999),
        ("pcm_f64le", 0.9999),
        ("pcm_mulaw", 0.999),
        ("pcm_alaw", 0.999),
    ] {
        for channels in ["1", "2"] {
            let bytes = made(SWEEP, &format!("-c:a {codec} -ac {channels}"), "a.wav")?;
            assert_sweep(&decode_bytes(bytes)?, &format!("{codec}, {channels} channels"), 1, least_likeness)?;
        }
    }
    Ok(())
}

/// ADPCM comes in blocks, the last of which is padded.
#[test]
fn adpcm_ends_where_its_sound_does() -> Result<()> {
    let dir = TempDir::new()?;
    let plain = dir.path().join("plain.wav");
    ffmpeg(SWEEP, "-c:a pcm_s16le", &plain)?;
    for encoding in ["ms-adpcm", "ima-adpcm"] {
        for channels in ["1", "2"] {
            let path = dir.path().join("adpcm.wav");
            let (from, to) = (plain.to_str().context("UTF-8")?, path.to_str().context("UTF-8")?);
            run("sox", &[from, "-e", encoding, "-c", channels, to])?;
            let audio = decode_path(&path)?;
            assert_eq!(audio.duration_ms(), 10_000, "{encoding}, {channels} channels");
            assert_sweep(&audio, encoding, 1, 0.99)?;
        }
    }
    Ok(())
}

#[test]
fn every_rate() -> Result<()> {
    for rate in [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000] {
        let bytes = made(SWEEP, &format!("-c:a pcm_s16le -ar {rate}"), "a.wav")?;
        let audio = decode_bytes(bytes)?;
        assert!(audio.len().abs_diff(160_000) <= 1, "{rate} Hz: {} samples", audio.len());
        assert_sweep(&audio, &format!("{rate} Hz"), 1, 0.9995)?;
    }
    Ok(())
}

#[test]
fn up_to_eight_channels_and_an_inverted_pair() -> Result<()> {
    for channels in 1..=8 {
        let expressions = vec!["0.5*(0.2+0.8*abs(sin(PI*t)))*sin(2*PI*(200*t+140*t*t))"; channels].join("|");
        let filter = format!("aevalsrc=exprs='{expressions}':s=48000:d=10");
        let audio = decode_bytes(made(&filter, "-c:a pcm_s16le", "a.wav")?)?;
        assert_sweep(&audio, &format!("{channels} channels"), 1, 0.9999)?;
    }
    let sound = "0.5*(0.2+0.8*abs(sin(PI*t)))*sin(2*PI*(200*t+140*t*t))";
    let inverted = format!("aevalsrc=exprs='{sound}|-({sound})':s=48000:d=10");
    let audio = decode_bytes(made(&inverted, "-c:a pcm_s16le", "a.wav")?)?;
    let likeness = correlation(&sweep(), &samples(&audio)?, 0).abs();
    assert!(likeness > 0.999, "{likeness}");
    Ok(())
}

#[test]
fn sixty_four_bit_headers() -> Result<()> {
    let bytes = made(SWEEP, "-c:a pcm_s16le -rf64 always", "a.wav")?;
    assert_eq!(&bytes[..4], b"RF64");
    assert_eq!(probe_duration(&bytes[..4096], bytes.len() as u64), Some(10_000));
    assert_sweep(&decode_bytes(bytes)?, "RF64", 1, 0.9999)
}

/// Where the length of the samples is stated.
fn data_length(bytes: &[u8]) -> Result<usize> {
    Ok(bytes.windows(4).position(|window| window == b"data").context("no data chunk")? + 4)
}

#[test]
fn a_length_that_is_a_lie() -> Result<()> {
    let honest = made(SWEEP, "-c:a pcm_s16le", "a.wav")?;
    let at = data_length(&honest)?;
    // A stream that was never finished, one that never knew, one that promises two hours.
    for (riff, data) in
        [(0, 0), (u32::MAX, u32::MAX), (u32::MAX, 0), (0x7fff_ffff, 0x7fff_ffff), (700_000_000, 691_200_000)]
    {
        let mut bytes = honest.clone();
        bytes[4..8].copy_from_slice(&u32::to_le_bytes(riff));
        bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(data));
        assert_eq!(probe_duration(&bytes[..4096], bytes.len() as u64), Some(10_000), "{riff:#x} {data:#x}");
        assert_sweep(&decode_bytes(bytes)?, &format!("{riff:#x} {data:#x}"), 1, 0.9999)?;
    }
    let mut short = honest.clone();
    short[at..at + 4].copy_from_slice(&96_000_u32.to_le_bytes());
    assert_eq!(decode_bytes(short)?.duration_ms(), 1000, "what follows the samples is not sound");
    Ok(())
}

#[test]
fn a_cut_in_the_middle_of_a_sample() -> Result<()> {
    let mut bytes = made(SWEEP, "-c:a pcm_s24le -ac 2", "a.wav")?;
    let start = data_length(&bytes)? + 4;
    bytes.truncate(start + 48_000 * 6 + 5);
    assert_eq!(decode_bytes(bytes.clone())?.duration_ms(), 1000);
    bytes.truncate(start);
    assert!(matches!(decode_bytes(bytes), Err(AudioError::NoSamples)));
    Ok(())
}
