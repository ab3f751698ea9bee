//! The samples of a fragmented file (ISO/IEC 14496-12, 8.8): after its description come pairs of a box that tells of the
//! samples and one that holds them. Read as they come, each once.

use std::io;
use std::ops::Range;

use super::boxes::{Box4, Boxes, Source, Window};
use super::tables::Piece;
use super::{Blocks, Defaults, Mp4Track};

/// Frames of one packet where they all have one size, about.
const FRAMES_PER_PACKET: u64 = 4096;

/// The way through the fragments of one track.
#[derive(Debug)]
pub(super) struct Fragments {
    id: u32,
    blocks: Option<Blocks>,
    defaults: Defaults,
    /// Where the next box of the file begins, of a fragment, of a track's part of it.
    file: u64,
    fragment: Range<u64>,
    /// Where the current fragment begins; offsets count from there.
    base: u64,
    part: Range<u64>,
    part_base: u64,
    part_defaults: Defaults,
    run: Run,
    /// Boxes, and entries of runs, that were read last. Kept from one run to the next, for each may have one sample.
    boxes: Window,
    entries: Window,
    /// When the next sample is heard.
    time: u64,
}

/// Samples one behind the other.
#[derive(Debug, Default)]
struct Run {
    flags: u32,
    samples: u64,
    /// Where the entries of the samples are read next.
    entries: u64,
    /// Where the next sample lies.
    at: u64,
}

mod flag {
    pub(super) const OFFSET: u32 = 0x1;
    pub(super) const FIRST_FLAGS: u32 = 0x4;
    pub(super) const DURATION: u32 = 0x100;
    pub(super) const SIZE: u32 = 0x200;
    pub(super) const EACH: [u32; 4] = [DURATION, SIZE, 0x400, 0x800];
}

impl Fragments {
    /// Those of `track`, whose first begins at `start` or later; `time` is what was heard before them.
    pub(super) fn new(track: &Mp4Track, start: u64, time: u64) -> Self {
        Self {
            id: track.id,
            blocks: track.codec.as_ref().ok().and_then(|codec| codec.blocks),
            defaults: track.defaults,
            file: start,
            fragment: 0..0,
            base: 0,
            part: 0..0,
            part_base: 0,
            part_defaults: track.defaults,
            run: Run::default(),
            boxes: Window::default(),
            entries: Window::default(),
            time,
        }
    }

    /// The next sample, or the next few where they are small and of one size. One that has no bytes is passed over.
    pub(super) fn next(&mut self, source: &mut impl Source) -> io::Result<Option<Piece>> {
        loop {
            while self.run.samples == 0 {
                if !self.next_run(source) {
                    return Ok(None);
                }
            }
            let (duration, bytes) = self.entry(source)?;
            let mut piece = Piece {
                at: self.run.at,
                bytes: u64::from(bytes),
                time: self.time,
                duration: u64::from(duration),
                frames: None,
            };
            let mut samples = 1;
            let all_alike = self.run.flags & flag::EACH.iter().sum::<u32>() == 0;
            if bytes == 0 && all_alike {
                // A few bytes can promise billions of these.
                samples = self.run.samples;
                piece.duration = piece.duration.saturating_mul(samples);
            } else if let Some(blocks) = self.blocks {
                if all_alike {
                    samples = self.run.samples.min(FRAMES_PER_PACKET);
                    piece.bytes *= samples;
                    piece.duration *= samples;
                }
                piece.frames = Some(frames(piece.bytes, blocks));
            }
            self.run.samples -= samples;
            self.run.at = self.run.at.saturating_add(piece.bytes);
            self.time = self.time.saturating_add(piece.duration);
            if piece.bytes > 0 {
                return Ok(Some(piece));
            }
        }
    }

    /// Duration and size of the next sample.
    fn entry(&mut self, source: &mut impl Source) -> io::Result<(u32, u32)> {
        let Defaults { mut duration, mut size } = self.part_defaults;
        for field in flag::EACH {
            if self.run.flags & field == 0 {
                continue;
            }
            let mut bytes = [0; 4];
            if self.entries.read_at(source, self.run.entries, &mut bytes)? < 4 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.run.entries += 4;
            match field {
                flag::DURATION => duration = u32::from_be_bytes(bytes),
                flag::SIZE => size = u32::from_be_bytes(bytes),
                _ => {}
            }
        }
        Ok((duration, size))
    }

    /// Goes on to the next box that may be a run of samples; `false` at the end of the file.
    fn next_run(&mut self, source: &mut impl Source) -> bool {
        let mut boxes = Boxes::with(source, std::mem::take(&mut self.boxes));
        let found = self.find_run(&mut boxes);
        self.boxes = boxes.into_window();
        found
    }

    fn find_run(&mut self, boxes: &mut Boxes<'_, impl Source>) -> bool {
        loop {
            if let Some(Box4 { kind, body, .. }) = boxes.next(self.part.start, self.part.end) {
                self.part.start = body.end;
                match &kind {
                    b"tfdt" => self.begins(boxes, body.start),
                    b"trun" if self.begin_run(boxes, &body).is_some() => return true,
                    _ => {}
                }
            } else if let Some(Box4 { kind, body, .. }) = boxes.next(self.fragment.start, self.fragment.end) {
                self.fragment.start = body.end;
                self.part = 0..0;
                if kind == *b"traf" {
                    self.begin_part(boxes, body);
                }
            } else if let Some(Box4 { start, kind, body }) = boxes.next(self.file, u64::MAX) {
                self.file = body.end;
                self.fragment = if kind == *b"moof" { body } else { 0..0 };
                self.base = start;
            } else {
                return false;
            }
        }
    }

    /// Looks into a part of a fragment when it is of our track.
    fn begin_part(&mut self, boxes: &mut Boxes<'_, impl Source>, part: Range<u64>) -> Option<()> {
        const BASE: u32 = 0x1;
        const DESCRIPTION: u32 = 0x2;
        const DURATION: u32 = 0x8;
        const SIZE: u32 = 0x10;
        let header = boxes.find(part.clone(), b"tfhd")?.start;
        let (flags, id) = (boxes.u32(header)?, boxes.u32(header + 4)?);
        if id != self.id {
            return None;
        }
        let mut at = header + 8;
        let mut skip = |flag: u32, len: u64| {
            let field = (flags & flag != 0).then_some(at);
            at += if field.is_some() { len } else { 0 };
            field
        };
        let (base, _, duration, size) =
            (skip(BASE, 8), skip(DESCRIPTION, 4), skip(DURATION, 4), skip(SIZE, 4));
        self.part_base = match base {
            Some(at) => boxes.u64(at)?,
            None => self.base,
        };
        self.run.at = self.part_base;
        self.part_defaults = self.defaults;
        if let Some(at) = duration {
            self.part_defaults.duration = boxes.u32(at)?;
        }
        if let Some(at) = size {
            self.part_defaults.size = boxes.u32(at)?;
        }
        self.part = part;
        Some(())
    }

    /// Takes over the time at which a part of a fragment begins.
    fn begins(&mut self, boxes: &mut Boxes<'_, impl Source>, at: u64) {
        let time = match boxes.bytes(at) {
            Some([0]) => boxes.u32(at + 4).map(u64::from),
            Some(_) => boxes.u64(at + 4),
            None => None,
        };
        self.time = time.unwrap_or(self.time);
    }

    fn begin_run(&mut self, boxes: &mut Boxes<'_, impl Source>, body: &Range<u64>) -> Option<()> {
        let (flags, samples) = (boxes.u32(body.start)? & 0xff_ffff, boxes.u32(body.start + 4)?);
        let mut entries = body.start + 8;
        if flags & flag::OFFSET != 0 {
            let offset = i32::from_be_bytes(boxes.bytes(entries)?);
            self.run.at = self.part_base.saturating_add_signed(i64::from(offset));
            entries += 4;
        }
        if flags & flag::FIRST_FLAGS != 0 {
            entries += 4;
        }
        let each = 4 * flag::EACH.iter().filter(|field| flags & **field != 0).count() as u64;
        let room = body.end.saturating_sub(entries).checked_div(each).unwrap_or(u64::MAX);
        let samples = u64::from(samples).min(room);
        self.run = Run { flags, samples, entries, at: self.run.at };
        Some(())
    }
}

fn frames(bytes: u64, blocks: Blocks) -> u64 {
    bytes / u64::from(blocks.bytes) * u64::from(blocks.frames)
}
