//! Files as people have them: what is heard of each, and what whoever sent it is told.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use verbatim_audio::{DecodedAudio, HEAD_BYTES, refuse, sniff};
use verbatim_core::audio::{Damage, Findings, PcmSource};

use crate::support::{RATE, SWEEP, alignment, assert_sweep, decode_bytes, made, run, samples, sweep};

const TONE: &str = "aevalsrc=exprs='0.3*sin(2*PI*800*t)':s=48000:d=10";
const SILENCE: &str = "anullsrc=r=48000:cl=mono:d=10";

/// The bytes of a file that ffmpeg makes of several inputs.
fn mixed(inputs: &[&str], args: &str, name: &str) -> Result<Vec<u8>> {
    let dir = TempDir::new()?;
    let path = dir.path().join(name);
    let mut all = vec!["-nostdin", "-v", "error", "-y"];
    inputs.iter().for_each(|input| all.extend(["-f", "lavfi", "-i", input]));
    all.extend(args.split_whitespace());
    all.push(path.to_str().context("a path in UTF-8")?);
    run("ffmpeg", &all)?;
    Ok(std::fs::read(&path)?)
}

fn damage(bytes: &[u8]) -> Result<Damage> {
    Ok(decode_bytes(bytes)?.findings().damage)
}

/// The box of Opus in MP4 has its numbers the other way round than the header of Ogg.
#[test]
fn opus_in_mp4_loses_nothing_of_its_beginning() -> Result<()> {
    let plain = "-c:a libopus -b:a 32k -strict -2";
    for fragmented in ["", "-movflags +frag_keyframe+empty_moov+default_base_moof -frag_duration 1000000"] {
        let bytes = made(SWEEP, &format!("{plain} {fragmented}"), "opus.mp4")?;
        assert_sweep(&decode_bytes(bytes.clone())?, fragmented, 32, 0.95)?;
        // A gain of -6.02 dB, in steps of 1/256.
        let at = bytes.windows(4).position(|window| window == b"dOps").context("no dOps")? + 4 + 8;
        let mut quieter = bytes.clone();
        quieter[at..at + 2].copy_from_slice(&(-1541_i16).to_be_bytes());
        let loudness = |bytes: Vec<u8>| -> Result<f32> {
            Ok(samples(&decode_bytes(bytes)?)?.iter().map(|sample| sample * sample).sum::<f32>().sqrt())
        };
        let ratio = loudness(quieter)? / loudness(bytes)?;
        ensure!((ratio - 0.5).abs() < 0.01, "{fragmented}: {ratio} as loud");
    }
    Ok(())
}

#[test]
fn the_first_second_in_the_index_and_the_rest_in_fragments() -> Result<()> {
    let args = "-c:a aac -b:a 96k -movflags +frag_keyframe -frag_duration 1000000";
    assert_heard(&decode_bytes(made(SWEEP, args, "safari.mp4")?)?, "safari.mp4")
}

/// Asserts that `audio` is the sweep, with no more before and behind it than the priming and padding of a frame.
fn assert_heard(audio: &DecodedAudio, name: &str) -> Result<()> {
    let got = samples(audio)?;
    let longer = got.len() as i64 - 10 * RATE as i64;
    ensure!((-100..RATE as i64 / 20).contains(&longer), "{name}: {longer} samples longer");
    let (lag, likeness) = alignment(&sweep(), &got);
    ensure!(lag.abs() <= 360 && likeness > 0.95, "{name}: {lag} samples late, {likeness} alike");
    Ok(())
}

#[test]
fn quicktime_is_heard_in_all_its_ways_of_writing_samples() -> Result<()> {
    for (codec, least) in [
        ("pcm_s16le", 0.9999),
        ("pcm_s16be", 0.9999),
        ("pcm_s24le", 0.9999),
        ("pcm_s24be", 0.9999),
        ("pcm_s32be", 0.9999),
        ("pcm_f32le", 0.9999),
        ("pcm_s8", 0.99),
        ("pcm_mulaw", 0.99),
        ("pcm_alaw", 0.99),
        ("adpcm_ima_qt", 0.99),
        ("alac", 0.9999),
        ("aac", 0.99),
    ] {
        for channels in ["1", "2"] {
            let bytes = made(SWEEP, &format!("-c:a {codec} -ac {channels}"), "a.mov")?;
            let name = format!("{codec} of {channels} channels");
            assert_sweep(&decode_bytes(bytes).context(name.clone())?, &name, 32, least)?;
        }
    }
    Ok(())
}

#[test]
fn the_default_track_is_heard_or_the_first_that_is_not_silent() -> Result<()> {
    let tracks = "-map 0:a -map 1:a -t 10 -disposition:a:0";
    for (name, codec) in [("obs.mkv", "aac"), ("obs.mp4", "aac"), ("obs.webm", "libopus")] {
        let first_silent =
            mixed(&[SILENCE, SWEEP], &format!("{tracks} default -disposition:a:1 0 -c:a {codec}"), name)?;
        let audio = decode_bytes(first_silent)?;
        assert_heard(&audio, name)?;
        assert_eq!(audio.findings(), Findings { silent_tracks: 1, ..Findings::default() }, "{name}");
        let second_default =
            mixed(&[TONE, SWEEP], &format!("{tracks} 0 -disposition:a:1 default -c:a {codec}"), name)?;
        let audio = decode_bytes(second_default)?;
        assert_heard(&audio, name)?;
        assert_eq!(audio.findings(), Findings::default(), "{name}");
        let silence = mixed(&[SILENCE, SILENCE], &format!("{tracks} default -c:a {codec}"), name)?;
        let audio = decode_bytes(silence)?;
        assert!(audio.is_silent() && !audio.findings().any(), "{name}");
    }
    Ok(())
}

#[test]
fn channels_of_different_people_are_said_to_be_mixed() -> Result<()> {
    let join = "-filter_complex [0:a][1:a]join=inputs=2:channel_layout=stereo -ar 8000 -c:a pcm_mulaw";
    let quiet =
        "-filter_complex [0:a][1:a]join=inputs=2:channel_layout=stereo,pan=stereo|c0=c0|c1=0.02*c1 -ar 8000";
    for args in [join, quiet] {
        let audio = decode_bytes(mixed(&[SWEEP, TONE], args, "call.wav")?)?;
        assert_eq!(audio.findings(), Findings { mixed_channels: 2, ..Findings::default() }, "{args}");
    }
    let one_voice = decode_bytes(made(SWEEP, "-ac 2 -c:a libmp3lame", "a.mp3")?)?;
    assert_eq!(one_voice.findings(), Findings::default());
    Ok(())
}

#[test]
fn a_file_that_ends_before_its_header_says_so() -> Result<()> {
    for (name, args) in [
        ("a.wav", ""),
        ("a.wav", "-c:a adpcm_ms"),
        ("a.flac", "-c:a flac"),
        ("a.mp3", "-c:a libmp3lame"),
        ("a.ogg", "-c:a libopus"),
        ("a.webm", "-c:a libopus"),
        ("a.mkv", "-c:a aac"),
        ("a.m4a", "-c:a aac -movflags +faststart"),
    ] {
        let whole = made(SWEEP, args, name)?;
        assert_eq!(damage(&whole)?, Damage::default(), "{name} {args}");
        let cut = damage(&whole[..whole.len() * 7 / 10])?;
        assert!(cut.ended_early, "{name} {args}: {cut:?}");
    }
    Ok(())
}

#[test]
fn lengths_that_are_placeholders_are_no_damage() -> Result<()> {
    let whole = made(SWEEP, "-ar 16000 -ac 1", "a.wav")?;
    let data = whole.windows(4).position(|window| window == b"data").context("no data")? + 4;
    for size in [0_u32, 0x7fff_ffff, 0x7fff_f000, 2_000_000_000, 0xffff_ffff] {
        let mut bytes = whole.clone();
        bytes[data..data + 4].copy_from_slice(&size.to_le_bytes());
        bytes[4..8].copy_from_slice(&size.wrapping_add(36).to_le_bytes());
        let audio = decode_bytes(bytes)?;
        assert_sweep(&audio, &format!("{size:#x}"), 1, 0.999)?;
        assert_eq!(audio.findings(), Findings::default(), "{size:#x}");
    }
    Ok(())
}

/// Either what follows the end is heard, or it is said that it was not.
#[test]
fn what_follows_the_end_is_heard_or_told() -> Result<()> {
    let mut told = Vec::new();
    for (name, args) in [
        ("a.wav", ""),
        ("a.flac", "-c:a flac"),
        ("a.mp3", "-c:a libmp3lame"),
        ("a.aac", "-c:a aac"),
        ("a.ogg", "-c:a libopus"),
        ("a.webm", "-c:a libopus"),
        ("a.mkv", "-c:a aac"),
        ("a.m4a", "-c:a aac"),
        ("a.mp4", "-c:a aac -movflags +frag_keyframe+empty_moov -frag_duration 1000000"),
    ] {
        let one = made(SWEEP, args, name)?;
        let audio = decode_bytes(one.repeat(2)).context(name)?;
        let Damage { unheard_bytes, .. } = audio.findings().damage;
        let heard_all = audio.duration_ms().abs_diff(20_000) < 200;
        if heard_all {
            let all = samples(&audio)?;
            let (_, likeness) = alignment(&sweep(), &all[all.len() - 10 * RATE..]);
            ensure!(likeness > 0.8, "{name}: the second half is {likeness} alike");
        } else {
            let most_of_it = one.len() as u64 / 2..=one.len() as u64 + 1000;
            ensure!(
                most_of_it.contains(&unheard_bytes),
                "{name}: {} ms, {unheard_bytes} bytes told",
                audio.duration_ms()
            );
            told.push(name);
        }
    }
    println!("not heard, but told: {told:?}");
    Ok(())
}

#[test]
fn a_recorder_that_forgets_the_padding_is_heard() -> Result<()> {
    let plain = made(SWEEP, "-ar 16000 -ac 1 -bitexact", "a.wav")?;
    let data = plain.windows(4).position(|window| window == b"data").context("no data")?;
    for padding in [&b""[..], b"\0"] {
        let list = [&b"LIST\x11\0\0\0INFOISFT\x05\0\0\0Zoom\0"[..], padding].concat();
        let bytes = [&plain[..data], &list, &plain[data..]].concat();
        assert_sweep(&decode_bytes(bytes)?, "an odd chunk", 1, 0.999)?;
    }
    Ok(())
}

/// What is not decoded is called by its name.
#[test]
fn what_is_refused_is_named() -> Result<()> {
    for (name, args, said) in [
        ("a.wav", "-ar 8000 -ac 1 -c:a libgsm_ms", "GSM"),
        ("a.wav", "-ar 16000 -ac 1 -c:a libmp3lame", "mp3"),
        ("a.wav", "-ar 8000 -ac 1 -c:a g726 -b:a 32k", "G.726"),
        ("a.au", "-ar 8000 -ac 1 -c:a pcm_mulaw", "AU"),
        ("a.aiff", "-c:a pcm_s16be", "AIFF"),
        ("a.caf", "-c:a alac", "CAF"),
        ("a.mp2", "-ar 44100 -c:a mp2", "layer II"),
        ("a.gsm", "-ar 8000 -ac 1 -c:a libgsm", "GSM"),
        ("a.mkv", "-c:a ac3", "AC-3"),
        ("a.mkv", "-c:a eac3", "E-AC-3"),
        ("a.mkv", "-strict -2 -ar 48000 -ac 2 -c:a dca", "DTS"),
        ("a.mkv", "-c:a wmav2", "A_MS/ACM"),
        ("a.mp4", "-c:a ac3", "AC-3"),
        ("a.mov", "-c:a adpcm_ms", "Microsoft ADPCM"),
        ("a.ogg", "-ar 16000 -ac 1 -c:a libspeex", "Speex"),
        ("a.ts", "-c:a mp2", "transport stream"),
        ("a.mpeg", "-ar 44100 -c:a mp2", "program stream"),
        ("a.avi", "-c:a libmp3lame", "AVI"),
        ("a.wma", "-c:a wmav2", "Windows Media"),
        ("a.ac3", "-c:a ac3", "AC-3"),
    ] {
        let bytes = made(SWEEP, args, name)?;
        let error = decode_bytes(bytes.clone()).err().with_context(|| format!("{name} {args} was heard"))?;
        let message = error.to_string();
        ensure!(message.contains(said) && message.contains("not supported"), "{name} {args}: {message}");
        let head = &bytes[..bytes.len().min(HEAD_BYTES)];
        if sniff(head).is_none() {
            assert!(refuse(head).to_string().contains(said), "{name} {args}: {}", refuse(head));
        }
    }
    Ok(())
}

#[test]
fn a_piece_without_its_beginning_is_told_so() -> Result<()> {
    let pieces = [
        ("a.webm", "-c:a libopus -live 1 -cluster_time_limit 1000", &b"\x1f\x43\xb6\x75"[..], 0),
        ("a.mp4", "-c:a aac -movflags +frag_keyframe+empty_moov -frag_duration 1000000", b"moof", 4),
        ("a.ogg", "-c:a libopus", b"OggS", 0),
        ("a.flac", "-c:a flac", b"\xff\xf8", 0),
    ];
    for (name, args, mark, before) in pieces {
        let whole = made(SWEEP, args, name)?;
        let half = whole.len() / 2;
        let at = half + whole[half..].windows(mark.len()).position(|window| window == mark).context(name)?
            - before;
        let message =
            decode_bytes(&whole[at..]).err().with_context(|| format!("{name} was heard"))?.to_string();
        ensure!(message.contains("beginning of the stream is missing"), "{name}: {message}");
    }
    Ok(())
}

#[test]
fn a_long_tag_does_not_change_what_the_format_is_called() -> Result<()> {
    let tag = |size: usize| {
        let syncsafe = [21, 14, 7, 0].map(|shift| (size >> shift & 0x7f) as u8);
        [&b"ID3\x04\0\0"[..], &syncsafe, &vec![0; size]].concat()
    };
    for (name, args) in [("a.aac", "-c:a aac"), ("a.flac", "-c:a flac"), ("a.mp3", "-c:a libmp3lame")] {
        let plain = made(SWEEP, args, name)?;
        let tagged = [tag(200_000), plain].concat();
        let format = decode_bytes(tagged)?.format();
        assert_eq!(
            format.as_str(),
            Path::new(name).extension().and_then(|ending| ending.to_str()).unwrap_or_default()
        );
    }
    Ok(())
}
