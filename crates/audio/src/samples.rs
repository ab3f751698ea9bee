//! Decoded frames on their way to storage: mixed down, resampled, counted.

use verbatim_core::audio::{AudioFormat, AudioLimits, Damage, Findings, SAMPLE_RATE};

use crate::conditions::Conditions;
use crate::error::AudioError;
use crate::mixdown::Mixdown;
use crate::pcm::{DecodedAudio, PcmWriter};
use crate::plausible::Longest;
use crate::resample::Resampler;

/// What has been decoded so far.
pub(crate) struct Samples<'a> {
    /// What has been lost so far.
    pub(crate) damage: Damage,
    limits: &'a AudioLimits,
    mixdown: Mixdown,
    /// For the rate of the frames at hand; a file may change its rate on the way.
    resampler: Option<Resampler>,
    writer: PcmWriter<'a>,
    mono: Vec<f32>,
    resampled: Vec<f32>,
}

impl<'a> Samples<'a> {
    /// No samples yet of a file of `bytes`.
    pub(crate) fn new(conditions: &Conditions<'a>, bytes: u64) -> Self {
        Self {
            damage: Damage::default(),
            limits: conditions.limits,
            mixdown: Mixdown::default(),
            resampler: None,
            writer: PcmWriter::new(conditions.scratch, Longest::new(conditions.limits, bytes)),
            mono: Vec::new(),
            resampled: Vec::new(),
        }
    }

    /// Samples so far, at 16 kHz.
    pub(crate) fn len(&self) -> u64 {
        self.writer.len()
    }

    /// The limits that hold.
    pub(crate) fn limits(&self) -> &'a AudioLimits {
        self.limits
    }

    /// Takes frames of `channels` interleaved samples at `rate` Hz.
    pub(crate) fn push(
        &mut self,
        interleaved: &mut [f32],
        channels: usize,
        rate: u32,
    ) -> Result<(), AudioError> {
        self.mono.clear();
        self.mixdown.mix(interleaved, channels, rate, &mut self.mono);
        self.push_mono(rate)
    }

    /// Puts `seconds` of silence in place of what was lost, so that what follows keeps its time.
    pub(crate) fn stand_in(&mut self, seconds: f64) -> Result<(), AudioError> {
        let rate = self.resampler.as_ref().map_or(SAMPLE_RATE, Resampler::rate);
        let mut left = (seconds * f64::from(rate)).round() as usize;
        while left > 0 {
            let frames = left.min(rate as usize);
            self.mono.clear();
            self.mono.resize(frames, 0.0);
            self.push_mono(rate)?;
            left -= frames;
        }
        Ok(())
    }

    fn push_mono(&mut self, rate: u32) -> Result<(), AudioError> {
        if self.resampler.as_ref().is_none_or(|resampler| resampler.rate() != rate) {
            self.flush()?;
            self.resampler = Some(Resampler::new(rate)?);
        }
        if let Some(resampler) = &mut self.resampler {
            resampler.push(&self.mono, &mut self.resampled)?;
        }
        self.writer.take(&mut self.resampled)
    }

    fn flush(&mut self) -> Result<(), AudioError> {
        if let Some(resampler) = self.resampler.take() {
            resampler.finish(&mut self.resampled)?;
        }
        self.writer.take(&mut self.resampled)
    }

    /// The audio as a whole.
    pub(crate) fn finish(mut self, format: AudioFormat) -> Result<DecodedAudio, AudioError> {
        self.flush()?;
        if self.writer.len() == 0 {
            return Err(AudioError::NoSamples);
        }
        let findings = Findings {
            damage: self.damage,
            mixed_channels: self.mixdown.mixed_channels(),
            ..Findings::default()
        };
        self.writer.finish(format, findings)
    }
}
