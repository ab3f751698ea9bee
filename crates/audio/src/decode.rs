//! From a file to samples: what it is, how it opens, and the way through it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use verbatim_core::CancellationToken;
use verbatim_core::audio::{AudioFormat, AudioLimits};

use crate::container::{AudioTrack, Demuxer};
use crate::error::AudioError;
use crate::link::Link;
use crate::packets::{Packets, Step};
use crate::pcm::DecodedAudio;
use crate::samples::Samples;
use crate::source::GuardedSource;
use crate::{mp4, mpeg, sniff};

/// Tags in a row at the start of a file that are skipped.
const MOST_TAGS: usize = 16;
/// Packets that may be lost before the share of them counts.
const LOSSES_BEFORE_GIVING_UP: u64 = 256;

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

/// Decodes the first audio track of `source` to 16 kHz mono. Blocks for as long as it takes; memory stays bounded
/// however long the audio is (see [`crate::SAMPLES_IN_MEMORY`]).
///
/// A file that breaks off or has broken packets gives what can be decoded, with silence in place of lost packets, and
/// [`DecodedAudio::damage`] tells; it is an error only when nothing, or less than half of its packets, can be decoded.
/// Encoder priming and padding are removed where the file tells of them.
///
/// # Errors
/// Every [`AudioError`]; only [`AudioError::Storage`], [`AudioError::Internal`] and [`AudioError::Cancelled`] are not
/// the file's fault.
pub fn decode<S: Read + Seek + Send + Sync>(
    mut source: S,
    limits: &AudioLimits,
    scratch_dir: &Path,
    cancel: &CancellationToken,
) -> Result<DecodedAudio, AudioError> {
    let reading = |error| AudioError::io("reading the audio failed", error);
    let total = source.seek(SeekFrom::End(0)).map_err(reading)?;
    let (base, format) = identify(&mut source, total)?;
    // MP4 may have its index at the end. The other readers need none, and what they guess from the file's length, such
    // as the duration of an mp3, would only mislead them.
    let seekable = format == AudioFormat::M4a;
    let source = GuardedSource::new(source, base, total, seekable, cancel).map_err(reading)?;
    let fault = source.fault();
    let outcome = open(source, format, total - base, cancel)
        .and_then(|(packets, track)| run(packets, track, Samples::new(limits, scratch_dir)))
        .and_then(|samples| samples.finish(format));
    // What a demuxer takes for a damaged file may have been a failed read.
    fault.check()?;
    outcome
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
                return format
                    .map(|format| (base, format))
                    .ok_or_else(|| AudioError::unsupported("this content"));
            }
        }
    }
    Err(AudioError::malformed("it consists of tags"))
}

/// Opens `total` bytes of `format`.
fn open<'s, S: Read + Seek + Send + Sync + 's>(
    mut source: GuardedSource<S>,
    format: AudioFormat,
    total: u64,
    cancel: &CancellationToken,
) -> Result<(Packets<'s>, AudioTrack), AudioError> {
    let mut edit = None;
    if format == AudioFormat::M4a {
        let stated_len = mp4::stated_len(&mut source, total)
            .ok_or_else(|| AudioError::malformed("its index is missing, which is written last"))?;
        edit = mp4::first_audio_edit(&mut source, total);
        // The reader drops a last box that is cut off; for all that it can tell, this one is not.
        source.pretend_len(stated_len);
        let silent_tracks = mp4::silent_tracks(&mut source, total);
        source.pretend_free(silent_tracks);
        source.seek(SeekFrom::Start(0)).map_err(|error| AudioError::io("reading the audio failed", error))?;
    }
    let stream = MediaSourceStream::new(Box::new(source), MediaSourceStreamOptions::default());
    let demuxer = Demuxer::open(stream, format, total)?;
    let mut track = demuxer.audio_track()?;
    if let Some(edit) = edit {
        track.edit = edit;
    }
    Ok((Packets::new(demuxer, &track, total, format, cancel), track))
}

/// Decodes packet after packet into `samples`.
fn run<'a>(
    mut packets: Packets<'_>,
    track: AudioTrack,
    mut samples: Samples<'a>,
) -> Result<Samples<'a>, AudioError> {
    let mut link = Link::new(&track, samples.limits())?;
    let mut decoded = 0_u64;
    let end = loop {
        match packets.next()? {
            Step::Packet(packet, is_last) => match link.decode(&packet, is_last, &mut samples)? {
                Ok(()) => decoded += 1,
                Err(reason) => {
                    samples.damage.lost_packets += 1;
                    let lost = samples.damage.lost_packets;
                    if lost > LOSSES_BEFORE_GIVING_UP && lost > decoded {
                        return Err(reason);
                    }
                }
            },
            Step::NextLink => {
                link = Link::new(&packets.next_track()?, samples.limits())?;
            }
            Step::End(end) => break end,
        }
    };
    if samples.damage.lost_packets > decoded {
        return Err(AudioError::malformed("most of it cannot be decoded"));
    }
    match end {
        Some(reason) if decoded == 0 => return Err(reason),
        Some(_) => samples.damage.ended_early = true,
        None => {}
    }
    Ok(samples)
}
