//! From a file to samples: what it is, how it opens, and the way through it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use verbatim_core::CancellationToken;
use verbatim_core::audio::{AudioFormat, AudioLimits};

use crate::conditions::{Conditions, Folder};
use crate::container::{Demuxer, StreamEnd};
use crate::effort::Effort;
use crate::error::AudioError;
use crate::foreign;
use crate::link::Link;
use crate::packets::{Packets, Step};
use crate::pcm::DecodedAudio;
use crate::samples::Samples;
use crate::source::GuardedSource;
use crate::{mpeg, pieces, sniff};

/// Tags in a row at the start of a file that are skipped.
const MOST_TAGS: usize = 16;
/// Packets that may be lost before the share of them counts.
const LOSSES_BEFORE_GIVING_UP: u64 = 256;
/// Tracks that are decoded in search of one that is not silent.
const MOST_SILENT_TRACKS: usize = 8;
/// Less than this many seconds short of what a header promises is rounding and padding.
const SHORT_BY_SECS: f64 = 0.5;

/// Decodes the file at `path`; see [`decode`].
///
/// # Errors
/// As [`decode`], and [`AudioError::Storage`] when the file cannot be opened.
pub fn decode_file(
    path: &Path,
    limits: &AudioLimits,
    scratch_dir: &Path,
    cancel: &CancellationToken,
) -> Result<DecodedAudio, AudioError> {
    let file = File::open(path).map_err(|error| AudioError::io("opening the audio failed", error))?;
    decode(file, limits, scratch_dir, cancel)
}

/// Decodes the audio of `source` to 16 kHz mono, with `scratch_dir` for what is long; see [`decode_under`].
///
/// # Errors
/// As [`decode_under`].
pub fn decode<S: Read + Seek + Send + Sync>(
    source: S,
    limits: &AudioLimits,
    scratch_dir: &Path,
    cancel: &CancellationToken,
) -> Result<DecodedAudio, AudioError> {
    decode_under(source, &Conditions::new(limits, &Folder(scratch_dir.to_owned()), cancel))
}

/// Decodes the audio track of `source` that is meant to be heard to 16 kHz mono; the first that is not, when that one is
/// digital silence. Blocks for as long as it takes, on one thread; memory stays bounded however long the audio is (see
/// [`crate::SAMPLES_IN_MEMORY`]), and so does the processor time.
///
/// A file that breaks off or has broken packets gives what can be decoded, with silence in place of lost packets, and
/// [`DecodedAudio::findings`] tells; it is an error only when nothing, or less than half of its packets, can be decoded.
/// Encoder priming and padding are removed where the file tells of them.
///
/// # Errors
/// Every [`AudioError`]; only [`AudioError::Storage`], [`AudioError::Internal`] and [`AudioError::Cancelled`] are not
/// the file's fault.
pub fn decode_under<S: Read + Seek + Send + Sync>(
    mut source: S,
    conditions: &Conditions<'_>,
) -> Result<DecodedAudio, AudioError> {
    let reading = |error| AudioError::io("reading the audio failed", error);
    let total = source.seek(SeekFrom::End(0)).map_err(reading)?;
    let (base, format) = identify(&mut source, total)?;
    let effort = Arc::new(Effort::new(conditions.clock, total));
    let pieces = {
        effort.opening();
        let whole = base..total;
        let mut source =
            GuardedSource::new(&mut source, whole, effort.clone(), conditions).map_err(reading)?;
        let found = pieces::find(&mut source, total - base, format);
        source.fault().check()?;
        found
            .map_err(reading)?
            .into_iter()
            .map(|piece| base + piece.start..base + piece.end)
            .collect::<Vec<_>>()
    };
    let mut decode = |choice| {
        let mut samples = Samples::new(conditions, total);
        let mut choices = 0;
        for piece in &pieces {
            let len = piece.end - piece.start;
            effort.opening();
            let source = GuardedSource::new(&mut source, piece.clone(), effort.clone(), conditions);
            let source = source.map_err(reading)?;
            let fault = source.fault();
            let outcome = Demuxer::open(Box::new(source), format, len, choice).and_then(|demuxer| {
                choices = choices.max(demuxer.tracks().len());
                run(Packets::new(demuxer, choice, len, format, conditions), &mut samples, &effort, conditions)
            });
            // What a demuxer takes for a damaged file may have been a failed read.
            fault.check()?;
            match outcome {
                Err(
                    AudioError::Malformed { .. }
                    | AudioError::UnsupportedFormat { .. }
                    | AudioError::NoAudioTrack,
                ) if piece.start > base => {
                    samples.damage.unheard_bytes += len;
                }
                outcome => outcome?,
            }
        }
        Ok((samples.finish(format)?, choices))
    };
    let (mut audio, choices) = decode(0)?;
    for choice in 1..choices.min(MOST_SILENT_TRACKS) {
        if !audio.is_silent() {
            break;
        }
        // A track that cannot be decoded is no better than silence.
        match decode(choice) {
            Ok((other, _)) if !other.is_silent() => {
                audio = other;
                audio.findings.silent_tracks = u16::try_from(choice).unwrap_or(u16::MAX);
            }
            Err(error @ (AudioError::Cancelled | AudioError::Storage(_) | AudioError::TooCostly)) => {
                return Err(error);
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(audio)
}

/// Where the audio starts, after any tags, and what it is.
fn identify(source: &mut (impl Read + Seek), total: u64) -> Result<(u64, AudioFormat), AudioError> {
    if total == 0 {
        return Err(AudioError::Empty);
    }
    let mut base = 0;
    for _ in 0..MOST_TAGS {
        let mut head = Vec::new();
        source
            .seek(SeekFrom::Start(base))
            .and_then(|_| source.take(sniff::HEAD_BYTES as u64).read_to_end(&mut head))
            .map_err(|error| AudioError::io("reading the audio failed", error))?;
        match mpeg::id3v2_len(&head) {
            Some(tag) => base += tag,
            None if base >= total => return Err(AudioError::malformed("there is nothing after its tags")),
            None => {
                // Between a tag and mp3 there may be padding, which the reader skips.
                let fallback = (base > 0).then_some(AudioFormat::Mp3);
                let format = sniff::sniff(&head).or(fallback);
                return format.map(|format| (base, format)).ok_or_else(|| foreign::refuse(&head));
            }
        }
    }
    Err(AudioError::malformed("it consists of tags"))
}

/// Decodes packet after packet into `samples`.
fn run(
    mut packets: Packets<'_>,
    samples: &mut Samples<'_>,
    effort: &Effort<'_>,
    conditions: &Conditions<'_>,
) -> Result<(), AudioError> {
    let mut link = Link::new(packets.track()?, conditions.limits)?;
    effort.opened();
    let stated_frames = packets.stated_frames();
    let (mut links, mut decoded, mut lost) = (1, 0_u64, 0_u64);
    let end = loop {
        conditions.pace.step();
        effort.decoded(samples.len());
        if effort.is_too_much() {
            return Err(AudioError::TooCostly);
        }
        match packets.next()? {
            Step::Packet(packet, is_last) => match link.decode(&packet, is_last, samples)? {
                Ok(()) => decoded += 1,
                Err(reason) => {
                    lost += 1;
                    samples.damage.lost_packets += 1;
                    if lost > LOSSES_BEFORE_GIVING_UP && lost > decoded {
                        return Err(reason);
                    }
                }
            },
            Step::NextLink => {
                links += 1;
                link = Link::new(packets.next_link()?, conditions.limits)?;
            }
            Step::End(end) => break end,
        }
    };
    if lost > decoded {
        return Err(AudioError::malformed("most of it cannot be decoded"));
    }
    let StreamEnd { early, unheard_bytes } = packets.end();
    let fell_short = links == 1 && link.is_shorter_than(stated_frames, SHORT_BY_SECS);
    samples.damage.unheard_bytes += unheard_bytes;
    match end {
        Some(reason) if decoded == 0 => return Err(reason),
        Some(_) => samples.damage.ended_early = true,
        None => samples.damage.ended_early |= early || fell_short,
    }
    Ok(())
}
