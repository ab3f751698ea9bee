//! The tables of a track that is not fragmented (ISO/IEC 14496-12, 8.6.1.2 and 8.7): where each sample lies, how long it
//! is and when it is heard. Each table is read once, a few kilobytes at a time, however many entries it has.

use std::io;
use std::ops::Range;

use super::boxes::{Boxes, Source, Window};
use super::{Blocks, Mp4Track};

/// Frames of one packet where they all have one size, about.
const FRAMES_PER_PACKET: u32 = 4096;

/// Bytes of a file that a decoder takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) at: u64,
    pub(super) bytes: u64,
    /// When it is heard, in units of the track.
    pub(super) time: u64,
    /// How long, in the same units.
    pub(super) duration: u64,
    /// How many frames it has, where the blocks of the codec tell.
    pub(super) frames: Option<u64>,
}

/// A table of entries of `N` numbers.
#[derive(Debug, Default)]
struct Table<const N: usize> {
    at: u64,
    entries: u64,
    window: Window,
}

impl<const N: usize> Table<N> {
    /// The table whose number of entries is at `at`, within `body`.
    fn new(boxes: &mut Boxes<'_, impl Source>, body: &Range<u64>, at: u64) -> Option<Self> {
        let room = body.end.saturating_sub(at + 4) / (4 * N as u64);
        let entries = u64::from(boxes.u32(at)?).min(room);
        Some(Self { at: at + 4, entries, window: Window::default() })
    }

    fn next(&mut self, source: &mut impl Source) -> io::Result<Option<[u32; N]>> {
        let Some(left) = self.entries.checked_sub(1) else { return Ok(None) };
        self.entries = left;
        let mut entry = [0; N];
        for number in &mut entry {
            let mut bytes = [0; 4];
            if self.window.read_at(source, self.at, &mut bytes)? < 4 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            *number = u32::from_be_bytes(bytes);
            self.at += 4;
        }
        Ok(Some(entry))
    }
}

#[derive(Debug)]
enum Sizes {
    /// All samples have this size, and so many are left.
    Constant(u32, u64),
    Each(Table<1>),
}

#[derive(Debug)]
enum Offsets {
    Short(Table<1>),
    Long(Table<2>),
}

/// The way through the samples of a track.
#[derive(Debug)]
pub(super) struct Samples {
    blocks: Option<Blocks>,
    sizes: Sizes,
    times: Table<2>,
    /// Samples left that are as long as the one before, and how long that is.
    equal: (u64, u32),
    time: u64,
    offsets: Offsets,
    chunks: Table<3>,
    /// The number of the current chunk, from 1.
    chunk: u64,
    /// Samples in each chunk from here on.
    per_chunk: u32,
    /// From which chunk on another number of samples is in each.
    next_run: Option<(u64, u32)>,
    /// Samples left in the current chunk.
    left: u32,
    /// Where the next one lies.
    at: u64,
}

impl Samples {
    /// The samples of `track`, `None` when it has no tables.
    pub(super) fn new(boxes: &mut Boxes<'_, impl Source>, track: &Mp4Track) -> Option<Self> {
        let mut find = |kind| boxes.find(track.tables.clone(), kind);
        let (stts, stsc, stsz) = (find(b"stts")?, find(b"stsc")?, find(b"stsz")?);
        let (stco, co64) = (find(b"stco"), find(b"co64"));
        let offsets = match (stco, co64) {
            (Some(body), _) => Offsets::Short(Table::new(boxes, &body, body.start + 4)?),
            (None, Some(body)) => Offsets::Long(Table::new(boxes, &body, body.start + 4)?),
            (None, None) => return None,
        };
        let sizes = match boxes.u32(stsz.start + 4)? {
            0 => Sizes::Each(Table::new(boxes, &stsz, stsz.start + 8)?),
            size => Sizes::Constant(size, u64::from(boxes.u32(stsz.start + 8)?)),
        };
        Some(Self {
            blocks: track.codec.as_ref().ok().and_then(|codec| codec.blocks),
            sizes,
            times: Table::new(boxes, &stts, stts.start + 4)?,
            equal: (0, 0),
            time: 0,
            offsets,
            chunks: Table::new(boxes, &stsc, stsc.start + 4)?,
            chunk: 0,
            per_chunk: 0,
            next_run: None,
            left: 0,
            at: 0,
        })
    }

    /// The next sample, or the next few where they are small and of one size.
    pub(super) fn next(&mut self, source: &mut impl Source) -> io::Result<Option<Piece>> {
        loop {
            match self.sample(source)? {
                Some(Piece { bytes: 0, .. }) => {}
                found => return Ok(found),
            }
        }
    }

    fn sample(&mut self, source: &mut impl Source) -> io::Result<Option<Piece>> {
        while self.left == 0 {
            if !self.next_chunk(source)? {
                return Ok(None);
            }
        }
        let (samples, bytes, frames) = match (&mut self.sizes, self.blocks) {
            (Sizes::Each(table), _) => match table.next(source)? {
                Some([size]) => (1, u64::from(size), None),
                None => return Ok(None),
            },
            (Sizes::Constant(_, 0), _) => return Ok(None),
            (Sizes::Constant(size, there), Some(blocks)) => {
                // The table counts blocks, or frames of one channel or all, and is not to be believed about their size.
                let frames_each = if *size == blocks.bytes { blocks.frames } else { 1 };
                let wanted = FRAMES_PER_PACKET.max(blocks.frames) / frames_each;
                let samples = u64::from(wanted.min(self.left)).min(*there);
                *there -= samples;
                let whole = samples * u64::from(frames_each) / u64::from(blocks.frames);
                (samples as u32, whole * u64::from(blocks.bytes), Some(whole * u64::from(blocks.frames)))
            }
            (Sizes::Constant(size, there), None) => {
                *there -= 1;
                (1, u64::from(*size), None)
            }
        };
        let (at, time) = (self.at, self.time);
        self.left -= samples;
        self.at = self.at.saturating_add(bytes);
        self.pass(samples, source)?;
        Ok(Some(Piece { at, bytes, time, duration: self.time - time, frames }))
    }

    /// Goes on to the next chunk.
    fn next_chunk(&mut self, source: &mut impl Source) -> io::Result<bool> {
        let offset = match &mut self.offsets {
            Offsets::Short(table) => table.next(source)?.map(|[offset]| u64::from(offset)),
            Offsets::Long(table) => {
                table.next(source)?.map(|[high, low]| u64::from(high) << 32 | u64::from(low))
            }
        };
        let Some(offset) = offset else { return Ok(false) };
        self.chunk += 1;
        loop {
            if self.next_run.is_none() {
                self.next_run =
                    self.chunks.next(source)?.map(|[first, samples, _]| (u64::from(first), samples));
            }
            match self.next_run {
                Some((first, samples)) if first <= self.chunk => {
                    self.per_chunk = samples;
                    self.next_run = None;
                }
                _ => break,
            }
        }
        (self.left, self.at) = (self.per_chunk, offset);
        Ok(true)
    }

    /// Lets the time of so many samples pass. Beyond the end of the table they are as long as the last.
    fn pass(&mut self, samples: u32, source: &mut impl Source) -> io::Result<()> {
        let mut samples = u64::from(samples);
        while samples > 0 {
            while self.equal.0 == 0 {
                match self.times.next(source)? {
                    Some([count, duration]) => self.equal = (u64::from(count), duration),
                    None => self.equal.0 = u64::MAX,
                }
            }
            let passed = samples.min(self.equal.0);
            self.equal.0 -= passed;
            self.time = self.time.saturating_add(passed.saturating_mul(u64::from(self.equal.1)));
            samples -= passed;
        }
        Ok(())
    }
}
