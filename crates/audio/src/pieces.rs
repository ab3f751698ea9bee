//! Files that were joined end to end. Most readers stop at the end of the first; the others are found here, so that each
//! is read by itself. Ogg, wav, mp3 and ADTS go on by themselves.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use verbatim_core::audio::AudioFormat;

use crate::flac::StreamInfo;
use crate::mp4;

/// Bytes that are searched at a time.
const WINDOW: usize = 256 * 1024;
/// Bytes after a mark that tell whether it is one.
const CONTEXT: usize = 64;
/// Files in one upload; what follows is read with the last.
const MOST_PIECES: usize = 1_000;

/// The files in the `total` bytes of `source`, in order.
pub(crate) fn find(
    source: &mut (impl Read + Seek),
    total: u64,
    format: AudioFormat,
) -> io::Result<Vec<Range<u64>>> {
    let bytes = 0..total;
    let mut starts = match format {
        AudioFormat::Flac => search(source, &bytes, b"fLaC", |there| {
            StreamInfo::parse(there).is_some_and(|info| info.rate > 0)
        })?,
        AudioFormat::Webm => search(source, &bytes, b"\x1a\x45\xdf\xa3", |there| {
            [&b"webm"[..], b"matroska"]
                .iter()
                .any(|name| there.windows(name.len()).any(|found| found == *name))
        })?,
        AudioFormat::M4a => mp4::files(source, &bytes),
        AudioFormat::Wav | AudioFormat::Mp3 | AudioFormat::Ogg | AudioFormat::Aac => Vec::new(),
    };
    starts.retain(|start| *start > bytes.start);
    let ends = starts.clone().into_iter().chain([bytes.end]);
    Ok([bytes.start].into_iter().chain(starts).zip(ends).map(|(start, end)| start..end).collect())
}

/// Where `mark` is, with what `is_one` says is the beginning of a file behind it.
fn search(
    source: &mut (impl Read + Seek),
    bytes: &Range<u64>,
    mark: &[u8; 4],
    is_one: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    let mut window = Vec::with_capacity(WINDOW + CONTEXT);
    let mut at = bytes.start;
    source.seek(SeekFrom::Start(at))?;
    while found.len() < MOST_PIECES {
        let wanted = WINDOW + CONTEXT - window.len();
        let count = source.by_ref().take(wanted as u64).read_to_end(&mut window)?;
        let is_last = count < wanted;
        let searched = if is_last { window.len() } else { WINDOW };
        for (offset, _) in window[..searched].iter().enumerate().filter(|(_, byte)| **byte == mark[0]) {
            let there = &window[offset..window.len().min(offset + CONTEXT)];
            if there.starts_with(mark) && is_one(there) {
                found.push(at + offset as u64);
            }
        }
        if is_last {
            break;
        }
        window.drain(..searched);
        at += searched as u64;
    }
    Ok(found)
}
