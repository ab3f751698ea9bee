//! Every format and codec gives the sound that went in, at its time.

use anyhow::{Context, Result, ensure};
use verbatim_audio::{HEAD_BYTES, probe_duration, sniff};
use verbatim_core::audio::{AudioFormat, PcmSource};

use crate::support::{RATE, SWEEP, alignment, assert_sweep, decode_bytes, made, samples, sweep};

/// Name, arguments of ffmpeg, what it is, and how like the source it must be.
const FILES: &[(&str, &str, AudioFormat, f64)] = &[
    ("plain.wav", "-c:a pcm_s16le", AudioFormat::Wav, 0.9999),
    ("plain.flac", "-c:a flac", AudioFormat::Flac, 0.9999),
    ("stereo.flac", "-c:a flac -ac 2 -ar 44100 -sample_fmt s32", AudioFormat::Flac, 0.9999),
    ("cbr.mp3", "-c:a libmp3lame -b:a 64k -ar 44100", AudioFormat::Mp3, 0.99),
    ("vbr.mp3", "-c:a libmp3lame -q:a 4 -ac 2", AudioFormat::Mp3, 0.99),
    ("mpeg2.mp3", "-c:a libmp3lame -b:a 32k -ar 22050", AudioFormat::Mp3, 0.99),
    ("mpeg25.mp3", "-c:a libmp3lame -b:a 24k -ar 12000 -af lowpass=4000", AudioFormat::Mp3, 0.97),
    ("vorbis.ogg", "-c:a libvorbis -q:a 3 -ar 44100", AudioFormat::Ogg, 0.99),
    ("vorbis-stereo.ogg", "-c:a libvorbis -ac 2", AudioFormat::Ogg, 0.99),
    ("opus.ogg", "-c:a libopus -b:a 32k", AudioFormat::Ogg, 0.95),
    ("opus-stereo.ogg", "-c:a libopus -b:a 64k -ac 2 -frame_duration 60", AudioFormat::Ogg, 0.95),
    ("flac.ogg", "-c:a flac", AudioFormat::Ogg, 0.9999),
    ("opus.webm", "-c:a libopus -b:a 32k", AudioFormat::Webm, 0.95),
    ("vorbis.webm", "-c:a libvorbis -q:a 3", AudioFormat::Webm, 0.99),
    ("opus.mkv", "-c:a libopus -b:a 32k", AudioFormat::Webm, 0.95),
    // As a browser's MediaRecorder writes it: sizes unknown, no index.
    ("live.webm", "-c:a libopus -b:a 32k -live 1 -cluster_time_limit 1000", AudioFormat::Webm, 0.95),
    ("aac.m4a", "-c:a aac -b:a 64k -ar 44100", AudioFormat::M4a, 0.99),
    ("stereo.m4a", "-c:a aac -b:a 96k -ac 2", AudioFormat::M4a, 0.99),
    ("faststart.mp4", "-c:a aac -b:a 64k -movflags +faststart", AudioFormat::M4a, 0.99),
    (
        "fragmented.mp4",
        "-c:a aac -b:a 64k -movflags +frag_keyframe+empty_moov+delay_moov",
        AudioFormat::M4a,
        0.99,
    ),
    ("alac.m4a", "-c:a alac", AudioFormat::M4a, 0.9999),
    ("opus.mp4", "-c:a libopus -b:a 32k -strict -2", AudioFormat::M4a, 0.95),
    ("flac.mp4", "-c:a flac -strict -2", AudioFormat::M4a, 0.9999),
];

#[test]
fn each_format_gives_the_sound_that_went_in() -> Result<()> {
    for (name, args, format, least_likeness) in FILES {
        let bytes = made(SWEEP, args, name)?;
        assert_eq!(sniff(&bytes[..bytes.len().min(HEAD_BYTES)]), Some(*format), "{name}");
        let audio = decode_bytes(bytes).with_context(|| (*name).to_owned())?;
        assert_eq!(audio.format(), *format, "{name}");
        assert!(!audio.findings().damage.any(), "{name}: {:?}", audio.findings().damage);
        // A millisecond, and two for the codecs whose own filters delay a little.
        assert_sweep(&audio, name, 32, *least_likeness)?;
    }
    Ok(())
}

/// Nothing in ADTS tells of the priming: a frame of it stays, as it does with ffmpeg.
#[test]
fn adts_is_late_by_its_priming_and_no_more() -> Result<()> {
    let bytes = made(SWEEP, "-c:a aac -b:a 64k -ar 48000", "raw.aac")?;
    assert_eq!(sniff(&bytes[..HEAD_BYTES]), Some(AudioFormat::Aac));
    let audio = decode_bytes(bytes)?;
    let late = audio.len() as i64 - 10 * RATE as i64;
    assert!((0..=48 * 16).contains(&late), "{late} samples longer");
    let all = samples(&audio)?;
    let priming = RATE * 1024 / 48_000;
    let (lag, likeness) = alignment(&sweep(), &all[priming..]);
    assert!(lag.abs() <= 16 && likeness > 0.95, "{lag} samples late, {likeness} alike");
    Ok(())
}

/// The lower half of the band is all that speech needs, and all that the decoder can do.
#[test]
fn he_aac_is_heard_through_its_core() -> Result<()> {
    let mut bytes = made(SWEEP, "-c:a aac -b:a 64k -ar 22050 -bitexact", "core.m4a")?;
    // AAC-LC, 22.05 kHz, mono, as ffmpeg writes it with an explicit "no SBR" behind; made to say HE-AAC of 44.1 kHz.
    let (lc, he) = ([0x13, 0x88, 0x56, 0xe5, 0x00], [0x2b, 0x8a, 0x08, 0x00, 0x00]);
    let at = bytes.windows(5).position(|window| window == lc).context("no AAC-LC configuration")?;
    bytes[at..at + 5].copy_from_slice(&he);
    assert_sweep(&decode_bytes(bytes)?, "HE-AAC", 32, 0.99)
}

#[test]
fn tags_and_pictures_do_not_hide_the_audio() -> Result<()> {
    let plain = made(SWEEP, "-c:a libmp3lame -b:a 64k -id3v2_version 0 -write_xing 0", "plain.mp3")?;
    let size = 200_000_u32;
    let syncsafe = [21, 14, 7, 0].map(|shift| (size >> shift & 0x7f) as u8);
    let mut tagged = b"ID3\x04\x00\x00".to_vec();
    tagged.extend(syncsafe);
    // A picture full of sync words.
    tagged.extend([0xff, 0xfb, 0x90, 0x00].repeat(size as usize / 4));
    tagged.extend(&plain);
    let mut trailer = b"TAG".to_vec();
    trailer.resize(128, b' ');
    tagged.extend(&trailer);
    assert_eq!(sniff(&tagged[..HEAD_BYTES]), Some(AudioFormat::Mp3));
    // Without a header nothing tells of the encoder's delay of 1,105 samples, nor of its padding.
    let audio = decode_bytes(tagged)?;
    assert!(audio.duration_ms().abs_diff(10_000) < 100, "{} ms", audio.duration_ms());
    let late = 16_000 * 1105 / 48_000;
    let (lag, likeness) = alignment(&sweep(), &samples(&audio)?);
    assert!(lag.abs_diff(late) <= 16 && likeness > 0.95, "{lag} samples late, {likeness} alike");

    let mut flac = tagged_flac()?;
    assert_sweep(&decode_bytes(flac.clone())?, "tagged flac", 1, 0.9999)?;
    flac.truncate(10 + 40);
    assert!(decode_bytes(flac).is_err());
    Ok(())
}

fn tagged_flac() -> Result<Vec<u8>> {
    let mut bytes = b"ID3\x03\x00\x00\x00\x00\x00\x28".to_vec();
    bytes.extend([0; 40]);
    bytes.extend(made(SWEEP, "-c:a flac", "tagged.flac")?);
    Ok(bytes)
}

/// Joined mp3 files carry the length of the first in their header.
#[test]
fn joined_files_are_heard_to_their_end() -> Result<()> {
    for (name, args) in
        [("x.mp3", "-c:a libmp3lame -b:a 64k"), ("x.ogg", "-c:a libvorbis"), ("x.ogg", "-c:a libopus")]
    {
        let one = made(SWEEP, args, name)?;
        let audio = decode_bytes(one.repeat(2))?;
        let off = audio.duration_ms().abs_diff(20_000);
        assert!(off <= 100, "{name} {args}: off by {off} ms");
        let all = samples(&audio)?;
        let (_, likeness) = alignment(&sweep(), &all[all.len() - 10 * RATE..]);
        ensure!(likeness > 0.8, "{name} {args}: the second half is {likeness} alike");
    }
    Ok(())
}

#[test]
fn the_first_audio_track_is_heard_and_video_is_not() -> Result<()> {
    for (name, codecs) in [
        ("film.mp4", "-c:v mpeg4 -c:a aac"),
        ("film.mkv", "-c:v mpeg4 -c:a libvorbis"),
        ("film.webm", "-c:v libvpx -c:a libopus"),
    ] {
        let args = format!("-f lavfi -i testsrc=s=64x64:r=10:d=10 {codecs}");
        assert_sweep(&decode_bytes(made(SWEEP, &args, name)?)?, name, 32, 0.95)?;
    }
    let silent_film = made("testsrc=s=64x64:r=10:d=1", "-c:v mpeg4", "silent.mp4")?;
    assert!(matches!(decode_bytes(silent_film), Err(verbatim_audio::AudioError::NoAudioTrack)));
    Ok(())
}

#[test]
fn the_head_tells_the_length_where_it_can() -> Result<()> {
    let exact = [("a.wav", "-c:a pcm_s24le -ac 2", 0), ("a.flac", "-c:a flac", 0)];
    let near = [
        ("a.wav", "-c:a adpcm_ms -ar 44100", 60),
        ("vbr.mp3", "-c:a libmp3lame -q:a 5", 60),
        ("cbr.mp3", "-c:a libmp3lame -b:a 64k -write_xing 0", 60),
        ("fast.m4a", "-c:a aac -movflags +faststart", 60),
    ];
    for (name, args, tolerance) in exact.into_iter().chain(near) {
        let bytes = made(SWEEP, args, name)?;
        let duration = probe_duration(&bytes[..HEAD_BYTES.min(bytes.len())], bytes.len() as u64);
        let duration = duration.with_context(|| format!("{name} {args}: unknown"))?;
        assert!(duration.abs_diff(10_000) <= tolerance, "{name} {args}: {duration} ms");
    }
    let ogg = made(SWEEP, "-c:a libopus", "a.ogg")?;
    assert_eq!(probe_duration(&ogg[..HEAD_BYTES], ogg.len() as u64), None);
    Ok(())
}
