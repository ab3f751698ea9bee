//! One stretch of audio with one decoder: a whole file, or one link of a chained one.

use symphonia::core::codecs::audio::AudioDecoder;
use symphonia::core::errors::Error;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, TimeBase, Timestamp};
use verbatim_core::audio::AudioLimits;

use crate::container::{AudioTrack, refusal, shielded};
use crate::error::AudioError;
use crate::mp4::Edit;
use crate::samples::Samples;

/// Nothing that speaks was ever recorded at less, and the resampler's memory grows with the ratio.
const LOWEST_RATE: u32 = 2_000;
/// Packets may come this much late by their times before something is missing: times are rounded, and codecs delay.
const SHORTEST_GAP_SECS: f64 = 0.25;
/// A packet that says it is longer is lying.
const LONGEST_PACKET_SECS: f64 = 1.0;
/// A longer gap is a clock that was set, not sound that was lost.
const LONGEST_GAP_SECS: f64 = 60.0;

/// A track's decoder and what of its sound is meant to be heard.
pub(crate) struct Link {
    decoder: Box<dyn AudioDecoder>,
    time_base: Option<TimeBase>,
    edit: Edit,
    gain: f32,
    rate: u32,
    /// Frames decoded so far.
    frames: u64,
    /// Seconds of sound so far, with what stands in for lost ones.
    position: f64,
    /// What to subtract from a packet's time to have its position.
    origin: Option<f64>,
    interleaved: Vec<f32>,
}

impl Link {
    /// A decoder for `track`, which has to be within `limits`.
    pub(crate) fn new(track: &AudioTrack, limits: &AudioLimits) -> Result<Self, AudioError> {
        check(track.channels(), track.rate(), limits)?;
        let decoder = track.decoder()?;
        let (time_base, edit, gain) = (track.time_base, track.edit, track.gain);
        let (rate, frames, position, origin) = (track.rate().unwrap_or_default(), 0, 0.0, None);
        Ok(Self { decoder, time_base, edit, gain, rate, frames, position, origin, interleaved: Vec::new() })
    }

    /// Whether more than `seconds` are missing of the frames that were `stated`.
    pub(crate) fn is_shorter_than(&self, stated: Option<u64>, seconds: f64) -> bool {
        let missing = stated.map_or(0, |stated| stated.saturating_sub(self.frames));
        self.rate > 0 && missing as f64 > seconds * f64::from(self.rate)
    }

    /// Decodes `packet` into `samples`, after silence for what is missing before it; `is_last` when the track may end
    /// within it. The inner error is a packet that cannot be decoded, with what that would mean for a file of nothing
    /// else.
    pub(crate) fn decode(
        &mut self,
        packet: &Packet,
        is_last: bool,
        samples: &mut Samples<'_>,
    ) -> Result<Result<(), AudioError>, AudioError> {
        // Matroska tells of priming by a time before the beginning.
        if self.frames == 0
            && self.edit.lead == 0.0
            && packet.trim_start == Duration::ZERO
            && packet.pts.is_negative()
        {
            self.edit.lead = self.seconds(packet.pts.abs_delta(Timestamp::ZERO));
        }
        self.fill_gap(packet, samples)?;
        let buffer = match shielded(|| self.decoder.decode(packet))? {
            Ok(buffer) => buffer,
            Err(error) => {
                let length = self.seconds(packet.dur).min(LONGEST_PACKET_SECS);
                self.position += length;
                samples.stand_in(length)?;
                return Ok(Err(match error {
                    Error::IoError(_) => AudioError::malformed("its packets are cut off"),
                    error => refusal(error),
                }));
            }
        };
        let (rate, channels) = (buffer.spec().rate(), buffer.spec().channels().count());
        check(Some(channels), Some(rate), samples.limits())?;
        shielded(|| buffer.copy_to_vec_interleaved(&mut self.interleaved))?;

        let frames = (self.interleaved.len() / channels) as u64;
        let (start, end) = self.heard(rate, frames, is_last);
        self.frames += frames;
        self.rate = rate;
        self.position += frames as f64 / f64::from(rate);
        let heard = start as usize * channels..end as usize * channels;
        if self.gain != 1.0 {
            self.interleaved[heard.clone()].iter_mut().for_each(|sample| *sample *= self.gain);
        }
        samples.push(&mut self.interleaved[heard], channels, rate)?;
        Ok(Ok(()))
    }

    /// Which of the next `frames` are meant to be heard. The stated end counts only near the end, as padding does.
    fn heard(&self, rate: u32, frames: u64, is_last: bool) -> (u64, u64) {
        let at = |seconds: f64| (seconds * f64::from(rate)).round() as u64;
        let lead = at(self.edit.lead);
        let end = match self.edit.length {
            Some(length) if is_last => (lead + at(length)).saturating_sub(self.frames).min(frames),
            _ => frames,
        };
        (lead.saturating_sub(self.frames).min(end), end)
    }

    /// Puts silence where packets are missing by the time of `packet`.
    fn fill_gap(&mut self, packet: &Packet, samples: &mut Samples<'_>) -> Result<(), AudioError> {
        let sign = if packet.pts.is_negative() { -1.0 } else { 1.0 };
        let time = sign * self.seconds(packet.pts.abs_delta(Timestamp::ZERO));
        let gap = time - *self.origin.get_or_insert(time) - self.position;
        if (SHORTEST_GAP_SECS..=LONGEST_GAP_SECS).contains(&gap) {
            self.position += gap;
            return samples.stand_in(gap);
        }
        if gap.abs() > SHORTEST_GAP_SECS {
            self.origin = Some(time - self.position);
        }
        Ok(())
    }

    /// A length in the track's units in seconds.
    fn seconds(&self, length: Duration) -> f64 {
        let length = self.time_base.and_then(|units| units.calc_duration(length));
        length.map_or(0.0, |length| length.as_secs_f64())
    }
}

fn check(channels: Option<usize>, rate: Option<u32>, limits: &AudioLimits) -> Result<(), AudioError> {
    let highest = limits.max_sample_rate;
    match (channels, rate) {
        (Some(0), _) => Err(AudioError::malformed("it has zero channels")),
        (Some(channels), _) if channels > usize::from(limits.max_channels) => {
            Err(AudioError::TooManyChannels { channels, limit: limits.max_channels })
        }
        (_, Some(rate)) if !(LOWEST_RATE..=highest).contains(&rate) => {
            Err(AudioError::BadSampleRate { rate, lowest: LOWEST_RATE, highest })
        }
        _ => Ok(()),
    }
}
