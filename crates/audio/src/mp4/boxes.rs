//! The boxes of an MP4 file (ISO/IEC 14496-12, 4.2), read by position.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

/// Bytes that are read at a time.
const WINDOW: usize = 8 * 1024;
/// Boxes looked at on one level of the movie's description; a file with more is a trap.
const MOST_BOXES: usize = 10_000;

/// A file or a part of one.
pub(crate) trait Source: Read + Seek {}
impl<T: Read + Seek + ?Sized> Source for T {}

/// The bytes of a source that were read last. Tables and samples lie side by side in a file, so that most reads are
/// answered without asking the source.
#[derive(Debug, Default)]
pub(crate) struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Fills `out` from byte `at` of `source` on; fewer bytes only at the end of the source.
    pub(crate) fn read_at(&mut self, source: &mut impl Source, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let mut done = self.copy(at, out);
        if done == out.len() {
            return Ok(done);
        }
        let from = at.saturating_add(done as u64);
        source.seek(SeekFrom::Start(from))?;
        if out.len() - done >= WINDOW {
            done += read_full(source, &mut out[done..])?;
            return Ok(done);
        }
        self.start = from;
        self.bytes.resize(WINDOW, 0);
        let count = read_full(source, &mut self.bytes);
        self.bytes.truncate(*count.as_ref().unwrap_or(&0));
        count?;
        done += self.copy(from, &mut out[done..]);
        Ok(done)
    }

    fn copy(&self, at: u64, out: &mut [u8]) -> usize {
        let offset = at.checked_sub(self.start).and_then(|offset| usize::try_from(offset).ok());
        let there = offset.and_then(|offset| self.bytes.get(offset..)).unwrap_or_default();
        let count = there.len().min(out.len());
        out[..count].copy_from_slice(&there[..count]);
        count
    }
}

fn read_full(source: &mut impl Source, out: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < out.len() {
        match source.read(&mut out[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// One box.
#[derive(Debug, Clone)]
pub(crate) struct Box4 {
    /// Where its header begins.
    pub(crate) start: u64,
    /// Its four letters.
    pub(crate) kind: [u8; 4],
    /// What it holds, as far as its parent reaches.
    pub(crate) body: Range<u64>,
}

/// Reads boxes and the numbers in them. What cannot be read is `None`: whether that was the end of the file or a failed
/// read is known to the source.
pub(crate) struct Boxes<'a, S> {
    source: &'a mut S,
    window: Window,
}

impl<'a, S: Source> Boxes<'a, S> {
    /// Those of `source`.
    pub(crate) fn new(source: &'a mut S) -> Self {
        Self::with(source, Window::default())
    }

    /// Those of `source`, of which `window` has been read already.
    pub(crate) fn with(source: &'a mut S, window: Window) -> Self {
        Self { source, window }
    }

    /// What was read last.
    pub(crate) fn into_window(self) -> Window {
        self.window
    }

    /// The bytes at `at`.
    pub(crate) fn bytes<const N: usize>(&mut self, at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let count = self.window.read_at(self.source, at, &mut bytes).ok()?;
        (count == N).then_some(bytes)
    }

    /// At most `most` bytes of `range`.
    pub(crate) fn slice(&mut self, range: &Range<u64>, most: usize) -> Option<Vec<u8>> {
        let len = usize::try_from(range.end.checked_sub(range.start)?).unwrap_or(usize::MAX).min(most);
        let mut bytes = vec![0; len];
        let count = self.window.read_at(self.source, range.start, &mut bytes).ok()?;
        (count == len).then_some(bytes)
    }

    /// A big-endian number.
    pub(crate) fn u32(&mut self, at: u64) -> Option<u32> {
        self.bytes(at).map(u32::from_be_bytes)
    }

    /// A big-endian number.
    pub(crate) fn u64(&mut self, at: u64) -> Option<u64> {
        self.bytes(at).map(u64::from_be_bytes)
    }

    /// The box at `at` in a parent that ends at `end`.
    pub(crate) fn next(&mut self, at: u64, end: u64) -> Option<Box4> {
        if at >= end {
            return None;
        }
        let (size, kind) = (self.u32(at)?, self.bytes(at + 4)?);
        let (header, size) = match size {
            0 => (8, end - at),
            1 => (16, self.u64(at + 8)?),
            size => (8, u64::from(size)),
        };
        let body = at + header..at.saturating_add(size).min(end);
        (size >= header && body.start <= body.end).then_some(Box4 { start: at, kind, body })
    }

    /// The boxes directly within `parent`.
    pub(crate) fn children(&mut self, parent: Range<u64>) -> Vec<Box4> {
        let mut children = Vec::new();
        let mut at = parent.start;
        while children.len() < MOST_BOXES {
            let Some(child) = self.next(at, parent.end) else { break };
            at = child.body.end;
            children.push(child);
        }
        children
    }

    /// The body of the first box of one kind directly within `parent`.
    pub(crate) fn find(&mut self, parent: Range<u64>, kind: &[u8; 4]) -> Option<Range<u64>> {
        let mut at = parent.start;
        for _ in 0..MOST_BOXES {
            let child = self.next(at, parent.end)?;
            if child.kind == *kind {
                return Some(child.body);
            }
            at = child.body.end;
        }
        None
    }

    /// The body of the box at the end of a way of kinds.
    pub(crate) fn descend(&mut self, parent: Range<u64>, way: &[&[u8; 4]]) -> Option<Range<u64>> {
        way.iter().try_fold(parent, |parent, kind| self.find(parent, kind))
    }
}
