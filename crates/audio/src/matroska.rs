//! What symphonia's reader does not tell of a Matroska file (RFC 8794; RFC 9559): where it ends by its own account, which of
//! its tracks is meant to be heard, and what a codec is called that it does not know.

use crate::container::StreamEnd;

const HEADER: [u8; 4] = [0x1a, 0x45, 0xdf, 0xa3];
const SEGMENT: [u8; 4] = [0x18, 0x53, 0x80, 0x67];
/// Fewer bytes behind the end are somebody's mark and not sound.
const SHORTEST_REST: u64 = 1024;

/// How a file of `total` bytes that begins with `head` ends, where it is told.
pub(crate) fn end(head: &[u8], total: u64) -> StreamEnd {
    // Live streams do not know how long they are.
    match segment(head).and_then(|(at, size)| Some(at as u64 + size?)) {
        Some(end) if end > total => StreamEnd { early: true, unheard_bytes: 0 },
        Some(end) if total - end >= SHORTEST_REST => StreamEnd { early: false, unheard_bytes: total - end },
        _ => StreamEnd::default(),
    }
}

/// Where the content begins, and its size where that is known.
fn segment(head: &[u8]) -> Option<(usize, Option<u64>)> {
    let (size, at) = self::size(head.strip_prefix(&HEADER)?)?;
    let segment = 4 + at + usize::try_from(size?).ok()?;
    let (size, at) = self::size(head.get(segment..)?.strip_prefix(&SEGMENT)?)?;
    Some((segment + 4 + at, size))
}

/// A track with sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MatroskaTrack {
    /// Its number, by which blocks name it.
    pub(crate) number: u64,
    /// Whether it is played unless somebody chooses another.
    pub(crate) is_default: bool,
    /// The name of its codec.
    pub(crate) codec: String,
}

/// The tracks with sound that are described in `head`.
pub(crate) fn tracks(head: &[u8]) -> Vec<MatroskaTrack> {
    const TRACKS: u32 = 0x1654_ae6b;
    const ENTRY: u32 = 0xae;
    let content = segment(head).and_then(|(at, _)| head.get(at..)).unwrap_or_default();
    let tracks = Elements(content).find(|(id, _)| *id == TRACKS).map_or(&[][..], |(_, body)| body);
    Elements(tracks).filter(|(id, _)| *id == ENTRY).filter_map(|(_, entry)| track(entry)).collect()
}

fn track(entry: &[u8]) -> Option<MatroskaTrack> {
    const NUMBER: u32 = 0xd7;
    const KIND: u32 = 0x83;
    const DEFAULT: u32 = 0x88;
    const CODEC: u32 = 0x86;
    const SOUND: u64 = 2;
    let find = |wanted: u32| Elements(entry).find(|(id, _)| *id == wanted).map(|(_, body)| body);
    let number = |body: &[u8]| body.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let codec = String::from_utf8_lossy(find(CODEC)?);
    let codec = codec.chars().filter(char::is_ascii_graphic).collect();
    // The flag is set where it is not written.
    let is_default = find(DEFAULT).is_none_or(|flag| number(flag) != 0);
    (number(find(KIND)?) == SOUND).then_some(MatroskaTrack {
        number: number(find(NUMBER)?),
        is_default,
        codec,
    })
}

/// The elements that lie side by side in these bytes, as far as they are there.
struct Elements<'b>(&'b [u8]);

impl<'b> Iterator for Elements<'b> {
    type Item = (u32, &'b [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = self.0.first()?.leading_zeros() as usize + 1;
        let id = self.0.get(..len).filter(|_| len <= 4)?;
        let id = id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte));
        let (size, at) = size(&self.0[len..])?;
        let rest = self.0.get(len + at..)?;
        let size = usize::try_from(size?).ok()?.min(rest.len());
        let (body, rest) = rest.split_at(size);
        self.0 = rest;
        Some((id, body))
    }
}

/// The size at the start of `bytes`, `None` within when it is unknown, and how many bytes it takes.
fn size(bytes: &[u8]) -> Option<(Option<u64>, usize)> {
    let len = bytes.first()?.leading_zeros() as usize + 1;
    let number = bytes.get(..len).filter(|_| len <= 8)?;
    let mask = (1_u64 << (7 * len)) - 1;
    let size = number.iter().fold(0, |size, byte| size << 8 | u64::from(*byte)) & mask;
    Some(((size != mask).then_some(size), len))
}
