//! What symphonia's MP4 reader leaves out (ISO/IEC 14496-12): the edit list, which tells encoder priming and padding
//! from sound, the movie's duration, and the part of an HE-AAC stream that any AAC decoder understands.

use std::io::{Cursor, Read, Seek, SeekFrom};
use std::ops::Range;

/// Boxes looked at on one level; a file with more is a trap.
const MOST_BOXES: usize = 10_000;
/// An edit that skips more than this is a cut that somebody made and not an encoder's priming.
const LONGEST_PRIMING_SECS: f64 = 0.5;

/// Which part of a track is meant to be heard, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Edit {
    /// Priming before the sound.
    pub(crate) lead: f64,
    /// Length of the sound after that, where it is told.
    pub(crate) length: Option<f64>,
}

/// How long a file of `total` bytes would be by the boxes in it: longer than it is when it is cut off. `None` when it
/// lacks its index, without which nothing in it can be found: that is written last, and lost first.
pub(crate) fn stated_len(source: &mut (impl Read + Seek), total: u64) -> Option<u64> {
    let boxes = Boxes { source }.children(0..u64::MAX);
    let index = boxes.iter().find(|(kind, body)| kind == b"moov" && body.end <= total);
    let end = boxes.last().map_or(0, |(_, body)| body.end);
    // A last box of no stated length goes on to the end.
    index.map(|_| if end == u64::MAX { total } else { end.max(total) })
}

/// Where the kinds of the boxes are written that describe tracks without sound, in a file that is not fragmented.
///
/// Symphonia reads every track in order of time and searches each one's table of times from its start for every
/// packet, which takes hours for a long film of uneven frames. A fragmented file has no such table.
pub(crate) fn silent_tracks(source: &mut (impl Read + Seek), total: u64) -> Vec<u64> {
    let mut file = Boxes { source };
    let Some(moov) = file.find(0..total, b"moov") else { return Vec::new() };
    let boxes = file.children(moov);
    if boxes.iter().any(|(kind, _)| kind == b"mvex") {
        return Vec::new();
    }
    let tracks = boxes.into_iter().filter(|(kind, _)| kind == b"trak").map(|(_, body)| body);
    let silent = tracks.filter(|track| file.is_sound(track.clone()) == Some(false));
    // The kind is the last four bytes of a header of the usual size.
    silent.map(|track| track.start - 4).collect()
}

/// Reads the edit list of the first audio track, where it has one that describes priming.
pub(crate) fn first_audio_edit(source: &mut (impl Read + Seek), total: u64) -> Option<Edit> {
    let mut file = Boxes { source };
    let moov = file.find(0..total, b"moov")?;
    let (_, movie_scale) = file.times(moov.clone(), b"mvhd")?;
    let mut tracks =
        file.children(moov).into_iter().filter(|(kind, _)| kind == b"trak").map(|(_, body)| body);
    let track = tracks.find(|track| file.is_sound(track.clone()) == Some(true))?;
    let media = file.find(track.clone(), b"mdia")?;
    let (_, media_scale) = file.times(media, b"mdhd")?;
    let edits = file.find(track, b"edts")?;
    let list = file.find(edits, b"elst")?;
    let (length, media_time) = file.only_edit(list)?;
    let lead = media_time as f64 / f64::from(media_scale);
    let length = (length > 0).then(|| length as f64 / f64::from(movie_scale));
    (lead <= LONGEST_PRIMING_SECS).then_some(Edit { lead, length })
}

/// The movie's length and the units of it in a second, where its header is in the first bytes of the file.
pub(crate) fn movie_duration(head: &[u8]) -> Option<(u64, u32)> {
    let mut file = Boxes { source: &mut Cursor::new(head) };
    let moov = file.find(0..u64::MAX, b"moov")?;
    file.times(moov, b"mvhd")
}

struct Boxes<'a, S> {
    source: &'a mut S,
}

impl<S: Read + Seek> Boxes<'_, S> {
    fn bytes<const N: usize>(&mut self, at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.source.seek(SeekFrom::Start(at)).ok()?;
        self.source.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    fn u32(&mut self, at: u64) -> Option<u32> {
        self.bytes(at).map(u32::from_be_bytes)
    }

    fn u64(&mut self, at: u64) -> Option<u64> {
        self.bytes(at).map(u64::from_be_bytes)
    }

    /// Kinds and bodies of the boxes directly within `parent`.
    fn children(&mut self, parent: Range<u64>) -> Vec<([u8; 4], Range<u64>)> {
        let mut children = Vec::new();
        let mut at = parent.start;
        while at < parent.end && children.len() < MOST_BOXES {
            let (Some(size), Some(kind)) = (self.u32(at), self.bytes(at + 4)) else { break };
            let (header, size) = match size {
                0 => (8, parent.end - at),
                1 => (16, self.u64(at + 8).unwrap_or(0)),
                size => (8, u64::from(size)),
            };
            if size < header {
                break;
            }
            let end = at.saturating_add(size).min(parent.end);
            children.push((kind, at + header..end));
            at = end;
        }
        children
    }

    /// The body of the first box of one kind directly within `parent`.
    fn find(&mut self, parent: Range<u64>, kind: &[u8; 4]) -> Option<Range<u64>> {
        self.children(parent).into_iter().find(|(found, _)| found == kind).map(|(_, body)| body)
    }

    fn is_sound(&mut self, track: Range<u64>) -> Option<bool> {
        let media = self.find(track, b"mdia")?;
        let handler = self.find(media, b"hdlr")?;
        Some(self.bytes(handler.start + 8)? == *b"soun")
    }

    /// Duration and time scale in a movie's or media's header.
    fn times(&mut self, parent: Range<u64>, kind: &[u8; 4]) -> Option<(u64, u32)> {
        let body = self.find(parent, kind)?.start;
        let (scale, duration) = match self.bytes::<1>(body)? {
            [0] => (self.u32(body + 12)?, u64::from(self.u32(body + 16)?)),
            _ => (self.u32(body + 20)?, self.u64(body + 24)?),
        };
        (scale > 0).then_some((duration, scale))
    }

    /// Length and start of the only edit in a list. Several edits are a cut, which is not ours to follow.
    fn only_edit(&mut self, list: Range<u64>) -> Option<(u64, u64)> {
        let (version, count) = (self.bytes::<1>(list.start)?, self.u32(list.start + 4)?);
        let at = list.start + 8;
        let (length, start) = match version {
            [0] => (u64::from(self.u32(at)?), i64::from(i32::from_be_bytes(self.bytes(at + 4)?))),
            _ => (self.u64(at)?, i64::from_be_bytes(self.bytes(at + 8)?)),
        };
        (count == 1).then_some((length, u64::try_from(start).ok()?))
    }
}

/// For an HE-AAC configuration (ISO/IEC 14496-3 1.6.2.1, object types 5 and 29): the configuration of the AAC-LC stream
/// inside it, which has the lower half of the band, all that speech needs. `None` for any other.
pub(crate) fn core_of_he_aac(config: &[u8]) -> Option<[u8; 8]> {
    const LOW_COMPLEXITY: u64 = 2;
    let mut bits = Bits { bytes: config, at: 0 };
    if !matches!(bits.take(5)?, 5 | 29) {
        return None;
    }
    let core_rate = bits.take(4)?;
    let core_rate_hz = if core_rate == 15 { bits.take(24)? } else { 0 };
    let channels = bits.take(4)?;
    if bits.take(4)? == 15 {
        bits.take(24)?;
    }
    let (object_type, flags) = (bits.take(5)?, bits.take(3)?);
    if object_type != LOW_COMPLEXITY {
        return None;
    }
    let (mut core, mut len) = (LOW_COMPLEXITY << 4 | core_rate, 9);
    if core_rate == 15 {
        (core, len) = (core << 24 | core_rate_hz, len + 24);
    }
    (core, len) = (core << 7 | channels << 3 | flags, len + 7);
    Some((core << (64 - len)).to_be_bytes())
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Option<u64> {
        (0..count).try_fold(0, |value, _| {
            let bit = self.bytes.get(self.at / 8)? >> (7 - self.at % 8) & 1;
            self.at += 1;
            Some(value << 1 | u64::from(bit))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_of_he_aac_is_plain_aac() {
        // AOT 5, 22.05 kHz, stereo, extension 44.1 kHz, AOT 2, no flags: 00101 0111 0010 0100 00010 000.
        let he_aac = [0b0010_1011, 0b1001_0010, 0b0000_1000, 0];
        // AOT 2, 22.05 kHz, stereo, no flags: 00010 0111 0010 000.
        assert_eq!(core_of_he_aac(&he_aac).map(|core| [core[0], core[1]]), Some([0b0001_0011, 0b1001_0000]));
        assert_eq!(core_of_he_aac(&[0b0001_0011, 0b1001_0000]), None, "AAC-LC stays as it is");
        assert_eq!(core_of_he_aac(&[0b0010_1011]), None, "cut off");
    }
}
