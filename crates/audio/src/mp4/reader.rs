//! The packets of one track of an MP4 file.

use std::io;

use symphonia::core::io::MediaSource;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Timestamp};

use super::boxes::{Boxes, Window};
use super::fragments::Fragments;
use super::tables::{Piece, Samples};
use super::{Movie, Mp4Track};
use crate::container::StreamEnd;

/// A packet of more bytes than this holds no sound that a decoder would take.
const LARGEST_PACKET: u64 = 16 << 20;

/// Reads the samples of a track in order.
pub(crate) struct Mp4Reader<'s> {
    source: Box<dyn MediaSource + 's>,
    track: Mp4Track,
    samples: Option<Samples>,
    fragments: Option<Fragments>,
    first_fragment: Option<u64>,
    time: u64,
    window: Window,
    end: StreamEnd,
}

impl<'s> Mp4Reader<'s> {
    /// Reads `track` of a `movie` from `source`, which is `total` bytes long.
    pub(crate) fn new(
        mut source: Box<dyn MediaSource + 's>,
        movie: &Movie,
        total: u64,
        track: Mp4Track,
    ) -> Self {
        let end = StreamEnd {
            early: movie.stated_len > total,
            unheard_bytes: movie.next_movie.map_or(0, |start| total.saturating_sub(start)),
        };
        let samples = Samples::new(&mut Boxes::new(&mut source), &track);
        Self {
            source,
            track,
            samples,
            fragments: None,
            first_fragment: movie.fragments,
            time: 0,
            window: Window::default(),
            end,
        }
    }

    /// How the file ends, by its boxes.
    pub(crate) fn end(&self) -> StreamEnd {
        self.end
    }

    /// The next packet; `None` after the last.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends within it.
    pub(crate) fn next_packet(&mut self) -> io::Result<Option<Packet>> {
        let Some(Piece { at, bytes, time, duration, frames }) = self.next_piece()? else { return Ok(None) };
        self.time = time.saturating_add(duration);
        if bytes > LARGEST_PACKET {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut data = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        if self.window.read_at(&mut self.source, at, &mut data)? < data.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let time = Timestamp::new(i64::try_from(time).unwrap_or(i64::MAX));
        // Decoders of blocks go by the frames, the others by what is in the packet.
        Ok(Some(Packet::new(self.track.id, time, Duration::new(frames.unwrap_or(duration)), data)))
    }

    fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        if let Some(samples) = &mut self.samples {
            if let Some(piece) = samples.next(&mut self.source)? {
                return Ok(Some(piece));
            }
            self.samples = None;
        }
        if let Some(start) = self.first_fragment.take() {
            self.fragments = Some(Fragments::new(&self.track, start, self.time));
        }
        match &mut self.fragments {
            Some(fragments) => fragments.next(&mut self.source),
            None => Ok(None),
        }
    }
}
