//! Files that are not what they should be: each ends in a typed error that says what to do, or in what can be saved.

use anyhow::{Result, ensure};
use verbatim_audio::{AudioError, sniff};
use verbatim_core::CancellationToken;
use verbatim_core::audio::{AudioLimits, PcmSource};
use verbatim_core::failure::FailureKind;

use crate::support::{RATE, SWEEP, alignment, decode_bytes, made, samples, sweep};

/// A WAV file with these fields.
fn wav(tag: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let block = channels * (bits / 8);
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\x00\x00\x00");
    bytes.extend(tag.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend(rate.wrapping_mul(u32::from(block)).to_le_bytes());
    bytes.extend(block.to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

fn failure(bytes: &[u8]) -> AudioError {
    match decode_bytes(bytes) {
        Err(error) => error,
        Ok(audio) => panic!("{} bytes were decoded to {} samples", bytes.len(), audio.len()),
    }
}

#[test]
fn what_is_no_audio_is_refused_as_such() {
    assert!(matches!(failure(b""), AudioError::Empty));
    let text = b"This text has been given the name speech.wav, which does not make it sound.\n".repeat(100);
    for content in [&b"R"[..], b"\0", b"PK\x03\x04", &text, &[0; 5000], &[0xff; 5000]] {
        let error = failure(content);
        assert!(matches!(error, AudioError::UnsupportedFormat { .. }), "{error:?}");
        assert_eq!(error.failure_kind(), FailureKind::UnsupportedMedia);
        assert!(error.to_string().contains("flac"), "it says what is supported: {error}");
    }
}

#[test]
fn impossible_headers_are_refused() {
    let samples = [0_u8; 3200];
    for (bytes, expected) in [
        (wav(1, 0, 16_000, 16, &samples), "zero channels"),
        (wav(1, 1, 0, 16, &samples), "0 Hz"),
        (wav(1, 1, 5, 16, &samples), "5 Hz"),
        (wav(1, 1, 4_000_000_000, 16, &samples), "4000000000 Hz"),
        (wav(1, 2000, 16_000, 16, &samples), "2000 channels"),
        (wav(1, 65_535, 16_000, 8, &samples), "65535 channels"),
        (wav(1, 1, 16_000, 0, &samples), "not supported"),
        (wav(1, 1, 16_000, 64, &samples), "not supported"),
        (wav(0x55, 1, 16_000, 16, &samples), "0x0055"),
        (wav(1, 1, 16_000, 16, &[]), "no samples"),
        (wav(1, 1, 16_000, 16, &samples)[..30].to_vec(), "cut off"),
        (b"OggS".to_vec(), "cut off"),
        (b"fLaC\0\0\0\x22".to_vec(), "cut off"),
        (b"\x1a\x45\xdf\xa3".to_vec(), "cut off"),
        (b"\0\0\0\x14ftypM4A \0\0\0\0M4A ".to_vec(), "index is missing"),
        (b"ID3\x04\x00\x00\x00\x00\x00\x05tags!".to_vec(), "nothing after its tags"),
    ] {
        let message = failure(&bytes).to_string();
        assert!(message.contains(expected), "expected {expected:?}: {message}");
    }
}

#[test]
fn values_that_are_no_numbers_are_silence() -> Result<()> {
    let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -3.0];
    let data: Vec<u8> = strange.iter().cycle().take(16_000).flat_map(|value| value.to_le_bytes()).collect();
    for rate in [16_000, 44_100] {
        let got = samples(&decode_bytes(wav(3, 1, rate, 32, &data))?)?;
        assert!(!got.is_empty() && got.iter().all(|sample| (-1.0..=1.0).contains(sample)), "{rate} Hz");
    }
    assert_eq!(samples(&decode_bytes(wav(3, 1, 16_000, 32, &data))?)?[..5], [0.0, 0.0, 0.0, 1.0, -1.0]);
    Ok(())
}

#[test]
fn very_short_audio_is_audio() -> Result<()> {
    assert_eq!(decode_bytes(wav(1, 1, 16_000, 16, &[0; 1600]))?.duration_ms(), 50);
    assert_eq!(decode_bytes(wav(1, 1, 16_000, 16, &[0; 2]))?.len(), 1);
    for (name, args) in
        [("a.mp3", "-c:a libmp3lame"), ("a.ogg", "-c:a libopus"), ("a.m4a", "-c:a aac"), ("a.flac", "")]
    {
        let audio = decode_bytes(made("sine=d=0.05:r=48000", args, name)?)?;
        assert!(audio.duration_ms().abs_diff(50) <= 30, "{name}: {} ms", audio.duration_ms());
    }
    Ok(())
}

/// Half a file gives half of the sound.
#[test]
fn what_is_left_of_a_cut_file_is_heard() -> Result<()> {
    let truth = sweep();
    for (name, args) in [
        ("a.flac", "-c:a flac"),
        ("a.mp3", "-c:a libmp3lame -b:a 64k"),
        ("a.ogg", "-c:a libvorbis"),
        ("a.ogg", "-c:a libopus"),
        ("a.webm", "-c:a libopus"),
        ("a.aac", "-c:a aac"),
        ("a.m4a", "-c:a aac -movflags +faststart"),
        ("a.mp4", "-c:a aac -movflags +frag_keyframe+empty_moov -frag_duration 500000"),
    ] {
        let whole = made(SWEEP, args, name)?;
        let audio = decode_bytes(&whole[..whole.len() * 6 / 10])?;
        let seconds = audio.duration_ms() as f64 / 1000.0;
        ensure!((3.0..8.5).contains(&seconds), "{name} {args}: {seconds} s of six");
        let mut got = samples(&audio)?;
        got.resize(10 * RATE, 0.0);
        let (_, likeness) = alignment(&truth[..4 * RATE], &got);
        ensure!(likeness > 0.9 || name == "a.aac", "{name} {args}: {likeness} alike");
        // The others are streams whose end is not told.
        if matches!(name, "a.ogg" | "a.m4a" | "a.mp4") {
            assert!(audio.findings().damage.ended_early, "{name} {args}");
        }
    }
    let m4a = made(SWEEP, "-c:a aac", "a.m4a")?;
    let error = failure(&m4a[..m4a.len() * 6 / 10]);
    assert!(error.to_string().contains("cut off"), "{error}");
    Ok(())
}

/// A stretch of rubbish costs that stretch, and what follows keeps its time.
#[test]
fn rubbish_in_the_middle_costs_only_itself() -> Result<()> {
    let truth = sweep();
    for (name, args) in [
        ("a.mp3", "-c:a libmp3lame -b:a 64k"),
        ("a.flac", "-c:a flac"),
        ("a.ogg", "-c:a libopus"),
        ("a.m4a", "-c:a aac"),
        ("a.webm", "-c:a libopus"),
    ] {
        let mut bytes = made(SWEEP, args, name)?;
        let from = bytes.len() / 5;
        bytes[from..from + 300].iter_mut().enumerate().for_each(|(n, byte)| *byte = (n * 37) as u8);
        let got = samples(&decode_bytes(bytes)?)?;
        ensure!(got.len() > 9 * RATE, "{name}: only {} samples", got.len());
        let last = got.len() - 6 * RATE;
        let (_, likeness) = alignment(&truth[10 * RATE - 6 * RATE..], &got[last..]);
        ensure!(likeness > 0.85, "{name}: {likeness} alike");
    }
    Ok(())
}

#[test]
fn rubbish_all_over_is_refused() -> Result<()> {
    for (name, args) in [
        ("a.mp3", "-c:a libmp3lame"),
        ("a.flac", "-c:a flac"),
        ("a.ogg", "-c:a libopus"),
        ("a.webm", "-c:a libopus"),
        ("a.m4a", "-c:a aac -movflags +faststart"),
    ] {
        let mut bytes = made(SWEEP, args, name)?;
        let header = if name == "a.m4a" { 4000 } else { 600 };
        let mut state = 1_u32;
        for byte in &mut bytes[header..] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        match decode_bytes(bytes) {
            Err(error) => assert_eq!(error.failure_kind(), FailureKind::BadAudio, "{name}: {error:?}"),
            Ok(audio) => assert!(
                audio.findings().damage.any() || audio.duration_ms() < 2000,
                "{name}: {} ms",
                audio.duration_ms()
            ),
        }
    }
    Ok(())
}

#[test]
fn limits_are_the_callers() -> Result<()> {
    let bytes = made(SWEEP, "-c:a flac -ac 2 -ar 44100", "a.flac")?;
    let limited = |limits: AudioLimits| {
        verbatim_audio::decode(
            std::io::Cursor::new(&bytes),
            &limits,
            &std::env::temp_dir(),
            &CancellationToken::new(),
        )
    };
    let usual = AudioLimits::default();
    assert!(limited(AudioLimits { max_duration_secs: 10, ..usual }).is_ok());
    let error = limited(AudioLimits { max_duration_secs: 9, ..usual });
    assert!(matches!(error, Err(AudioError::TooLong { limit_secs: 9 })));
    let error = limited(AudioLimits { max_channels: 1, ..usual });
    assert!(matches!(error, Err(AudioError::TooManyChannels { channels: 2, limit: 1 })));
    let error = limited(AudioLimits { max_sample_rate: 44_099, ..usual });
    assert!(matches!(error, Err(AudioError::BadSampleRate { rate: 44_100, .. })));
    assert_eq!(sniff(&bytes), Some(verbatim_core::audio::AudioFormat::Flac));
    Ok(())
}
