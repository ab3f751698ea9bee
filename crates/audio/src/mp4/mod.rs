//! MP4, M4A and QuickTime (ISO/IEC 14496-12), plain and fragmented. Our own reader, because the one of symphonia searches
//! its tables from their start for every packet, so that a small file can keep it busy for hours, and knows neither edit
//! lists nor which track is meant to be heard. This one goes through each table once, from front to back.

mod boxes;
mod codec;
mod fragments;
mod reader;
mod tables;

use std::io::{Cursor, Read, Seek};
use std::ops::Range;

use symphonia::core::codecs::audio::AudioCodecParameters;

use boxes::{Box4, Boxes, Source};
pub(crate) use reader::Mp4Reader;

/// An edit that skips more than this is a cut that somebody made and not an encoder's priming.
const LONGEST_PRIMING_SECS: f64 = 0.5;
/// Tracks with sound that are looked at.
const MOST_TRACKS: usize = 64;
/// A flag in a track's header: it is meant to be played unless somebody chooses otherwise.
const ENABLED: u8 = 1;

/// Which part of a track is meant to be heard, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Edit {
    /// Priming before the sound.
    pub(crate) lead: f64,
    /// Length of the sound after that, where it is told.
    pub(crate) length: Option<f64>,
}

/// A track with sound.
#[derive(Debug, Clone)]
pub(crate) struct Mp4Track {
    /// Its number, by which fragments name it.
    pub(crate) id: u32,
    /// Whether it is played unless somebody chooses another.
    pub(crate) enabled: bool,
    /// Units of its times in a second.
    pub(crate) timescale: u32,
    /// What of it is heard.
    pub(crate) edit: Option<Edit>,
    /// How its samples are coded; the name of the codec where there is no decoder for it.
    pub(crate) codec: Result<Mp4Codec, String>,
    /// The boxes with its tables.
    tables: Range<u64>,
    /// What fragments leave unsaid.
    defaults: Defaults,
}

/// How the samples of a track are coded.
#[derive(Debug, Clone)]
pub(crate) struct Mp4Codec {
    /// For a decoder.
    pub(crate) params: AudioCodecParameters,
    /// For codecs whose blocks all have one size.
    blocks: Option<Blocks>,
}

/// Blocks of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Blocks {
    bytes: u32,
    frames: u32,
}

/// Length and size of the samples of a fragment that does not tell them.
#[derive(Debug, Clone, Copy, Default)]
struct Defaults {
    duration: u32,
    size: u32,
}

/// What the boxes of a file say.
#[derive(Debug)]
pub(crate) struct Movie {
    /// Its tracks with sound.
    pub(crate) tracks: Vec<Mp4Track>,
    /// How long the file would be by its boxes: longer than it is when it is cut off.
    pub(crate) stated_len: u64,
    /// Where another movie begins in the same file.
    pub(crate) next_movie: Option<u64>,
    /// Where the first fragment may begin.
    fragments: Option<u64>,
}

impl Movie {
    /// Reads the description in a file of `total` bytes. `None` when it lacks its index, without which nothing in it can
    /// be found: that is written last, and lost first.
    pub(crate) fn read(source: &mut impl Source, total: u64) -> Option<Self> {
        let mut file = Boxes::new(source);
        let (mut moov, mut fragments, mut next_movie) = (None, None, None);
        let (mut at, mut stated_len) = (0, total);
        // A fragmented file may have very many boxes on this level. They are all looked at, each once.
        while let Some(Box4 { start, kind, body }) = file.next(at, u64::MAX) {
            match &kind {
                b"moov" if moov.is_none() && body.end <= total => moov = Some(body.clone()),
                b"moov" if body.end <= total && next_movie.is_none() => next_movie = Some(start),
                b"moof" if fragments.is_none() => fragments = Some(start),
                _ => {}
            }
            // A last box of no stated length goes on to the end, and what has no name is no box.
            let named = kind.iter().all(|letter| letter.is_ascii_graphic() || *letter == b' ');
            stated_len = if body.end == u64::MAX || !named { total } else { body.end.max(total) };
            at = body.end;
        }
        let moov = moov?;
        let movie_scale = file.times(moov.clone(), b"mvhd").map(|(_, scale)| scale);
        let boxes = file.children(moov);
        let extends = boxes.iter().find(|found| found.kind == *b"mvex").map(|found| found.body.clone());
        let defaults = extends.map(|extends| file.defaults(extends)).unwrap_or_default();
        let mut tracks = Vec::new();
        for found in boxes.into_iter().filter(|found| found.kind == *b"trak") {
            if tracks.len() < MOST_TRACKS
                && let Some(mut track) = file.track(found.body, movie_scale)
            {
                let own = defaults.iter().find(|(id, _)| *id == track.id);
                track.defaults = own.map(|(_, defaults)| *defaults).unwrap_or_default();
                tracks.push(track);
            }
        }
        Some(Self { tracks, stated_len, next_movie, fragments })
    }
}

/// Where the files begin that were joined to a first, in these bytes of `source`: each has a type and a description.
pub(crate) fn files(source: &mut (impl Read + Seek), bytes: &Range<u64>) -> Vec<u64> {
    let mut file = Boxes::new(source);
    let (mut at, mut types, mut begins) = (bytes.start, Vec::new(), None);
    while let Some(Box4 { start, kind, body }) = file.next(at, bytes.end) {
        match &kind {
            b"ftyp" => begins = Some(start),
            b"moov" => types.extend(begins.take()),
            _ => {}
        }
        at = body.end;
    }
    types.truncate(MOST_FILES);
    types
}

/// Files that are looked at in one.
const MOST_FILES: usize = 1_000;

/// The movie's length and the units of it in a second, where its header is in the first bytes of the file.
pub(crate) fn movie_duration(head: &[u8]) -> Option<(u64, u32)> {
    let mut head = Cursor::new(head);
    let mut file = Boxes::new(&mut head);
    let moov = file.find(0..u64::MAX, b"moov")?;
    file.times(moov, b"mvhd")
}

impl<S: Source> Boxes<'_, S> {
    /// A track, when it has sound.
    fn track(&mut self, track: Range<u64>, movie_scale: Option<u32>) -> Option<Mp4Track> {
        let media = self.find(track.clone(), b"mdia")?;
        let handler = self.find(media.clone(), b"hdlr")?;
        if self.bytes(handler.start + 8)? != *b"soun" {
            return None;
        }
        let header = self.find(track.clone(), b"tkhd")?.start;
        let [version, _, _, flags] = self.bytes(header)?;
        let id = self.u32(header + if version == 0 { 12 } else { 20 })?;
        let (_, timescale) = self.times(media.clone(), b"mdhd")?;
        let tables = self.descend(media, &[b"minf", b"stbl"])?;
        let codec = match self.find(tables.clone(), b"stsd") {
            Some(entries) => codec::read(self, entries),
            None => Err("an MP4 audio track that does not name its codec".to_owned()),
        };
        let edit = movie_scale.and_then(|scale| self.edit(track, scale, timescale));
        let (enabled, defaults) = (flags & ENABLED != 0, Defaults::default());
        Some(Mp4Track { id, enabled, timescale, edit, codec, tables, defaults })
    }

    /// The edit of a track, where it has one that describes priming.
    fn edit(&mut self, track: Range<u64>, movie_scale: u32, media_scale: u32) -> Option<Edit> {
        let list = self.descend(track, &[b"edts", b"elst"])?;
        let (length, media_time) = self.only_edit(list)?;
        let lead = media_time as f64 / f64::from(media_scale);
        let length = (length > 0).then(|| length as f64 / f64::from(movie_scale));
        (lead <= LONGEST_PRIMING_SECS).then_some(Edit { lead, length })
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

    /// For each track, what its fragments leave unsaid.
    fn defaults(&mut self, extends: Range<u64>) -> Vec<(u32, Defaults)> {
        let boxes = self.children(extends).into_iter().filter(|found| found.kind == *b"trex");
        let read = |found: Box4| {
            let at = found.body.start;
            let (id, duration, size) = (self.u32(at + 4)?, self.u32(at + 12)?, self.u32(at + 16)?);
            Some((id, Defaults { duration, size }))
        };
        boxes.filter_map(read).take(MOST_TRACKS).collect()
    }
}
