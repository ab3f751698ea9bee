//! The packets of one track in order, with a look ahead to tell where it ends.

use std::collections::VecDeque;

use symphonia::core::errors::Error;
use symphonia::core::packet::Packet;
use symphonia::core::units::Duration;
use verbatim_core::CancellationToken;
use verbatim_core::audio::AudioFormat;

use crate::conditions::Conditions;
use crate::container::{AudioTrack, Demuxer, StreamEnd, refusal, shielded};
use crate::error::AudioError;

/// So many packets may hold the padding of the last one: encoders pad to whole packets and flush one more.
const TAIL: usize = 2;
/// Packets that even the smallest file may have; beyond that, at most one for each byte.
const SMALLEST_BUDGET: u64 = 10_000;
/// Broken headers in a row that a stream may resynchronise after.
const MOST_RESYNCS: u32 = 64;

/// What comes next in the file.
pub(crate) enum Step {
    /// A packet of the track; `true` when it is among the last.
    Packet(Packet, bool),
    /// The track ends and another begins, as in chained Ogg.
    NextLink,
    /// The file ends, with the reason when it breaks off.
    End(Option<AudioError>),
}

/// The packets of the file's audio.
pub(crate) struct Packets<'s> {
    demuxer: Demuxer<'s>,
    track: u32,
    choice: usize,
    ahead: VecDeque<Packet>,
    /// What follows the packets ahead, once it is known.
    then: Option<Step>,
    budget: u64,
    /// Packets in a row that say they end in padding.
    padded: usize,
    format: AudioFormat,
    cancel: CancellationToken,
}

impl<'s> Packets<'s> {
    /// The packets of the track that is number `choice` among those that can be heard, in a file of `total` bytes of
    /// `format`.
    pub(crate) fn new(
        demuxer: Demuxer<'s>,
        choice: usize,
        total: u64,
        format: AudioFormat,
        conditions: &Conditions<'_>,
    ) -> Self {
        let (budget, cancel) = (total.saturating_add(SMALLEST_BUDGET), conditions.cancel.clone());
        let track = demuxer.tracks().get(choice).map_or(0, |track| track.id);
        Self { demuxer, track, choice, ahead: VecDeque::new(), then: None, budget, padded: 0, format, cancel }
    }

    /// The track that the packets are of.
    pub(crate) fn track(&self) -> Result<&AudioTrack, AudioError> {
        self.demuxer.tracks().iter().find(|track| track.id == self.track).ok_or(AudioError::NoAudioTrack)
    }

    /// The track that begins after [`Step::NextLink`]: the one at the same place among those of its link, where it has so
    /// many.
    pub(crate) fn next_link(&mut self) -> Result<&AudioTrack, AudioError> {
        self.demuxer.begin_link()?;
        let tracks = self.demuxer.tracks();
        let track = tracks.get(self.choice).or(tracks.first()).ok_or(AudioError::NoAudioTrack)?;
        self.track = track.id;
        Ok(track)
    }

    /// How the file ended, by its container.
    pub(crate) fn end(&self) -> StreamEnd {
        self.demuxer.end()
    }

    /// How many frames the header promises.
    pub(crate) fn stated_frames(&self) -> Option<u64> {
        self.demuxer.stated_frames()
    }

    /// The next step.
    ///
    /// Padding that a packet says it ends with is only believed of the last ones: the length that an mp3 header states,
    /// or a page of Ogg, is wrong often enough (files that were joined, streams without a header), and sound is worth
    /// more than gaplessness.
    pub(crate) fn next(&mut self) -> Result<Step, AudioError> {
        while self.then.is_none() && self.ahead.len() <= TAIL {
            self.look_ahead()?;
        }
        Ok(match self.ahead.pop_front() {
            Some(mut packet) => {
                let is_last = self.then.is_some() && self.ahead.len() < TAIL;
                self.padded = if packet.trim_end == Duration::ZERO { 0 } else { self.padded + 1 };
                if !is_last || self.padded > TAIL {
                    packet.trim_end = Duration::ZERO;
                }
                Step::Packet(packet, is_last)
            }
            None => self.then.take().unwrap_or(Step::End(None)),
        })
    }

    /// Whether the reader finds its way back after a broken header. The others say that they do not.
    fn resyncs(&self) -> bool {
        matches!(self.format, AudioFormat::Aac | AudioFormat::Webm)
    }

    fn look_ahead(&mut self) -> Result<(), AudioError> {
        let mut resyncs = 0;
        loop {
            if self.cancel.is_cancelled() {
                return Err(AudioError::Cancelled);
            }
            // A table of a few bytes can promise billions of empty packets.
            self.budget =
                self.budget.checked_sub(1).ok_or_else(|| AudioError::malformed("it has too many packets"))?;
            match shielded(|| self.demuxer.next_packet())? {
                Ok(Some(packet)) if packet.track_id != self.track => {}
                Ok(Some(packet)) => {
                    self.ahead.push_back(packet);
                    return Ok(());
                }
                Err(Error::DecodeError(_)) if self.resyncs() && resyncs < MOST_RESYNCS => resyncs += 1,
                outcome => {
                    self.then = Some(match outcome {
                        Err(Error::ResetRequired) => Step::NextLink,
                        // Live streams never say where they end, and the reader does not tell them from the others.
                        Err(Error::IoError(_)) if self.format == AudioFormat::Webm => Step::End(None),
                        Err(error) => Step::End(Some(refusal(error))),
                        Ok(_) => Step::End(None),
                    });
                    return Ok(());
                }
            }
        }
    }
}
