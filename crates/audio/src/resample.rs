//! Any sampling rate to 16 kHz, in pieces, with times kept.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Indexing, Resampler as _};
use verbatim_core::audio::SAMPLE_RATE;

use crate::error::AudioError;

/// At least so many input frames go through the FFT at a time: 43 ms at 48 kHz, long enough for a steep filter.
const SHORTEST_BLOCK: u32 = 2048;

/// Resamples one channel. The filter's delay is taken out again, so that a click stays where it was, and `frames` in
/// give `round(frames * 16000 / rate)` samples out.
pub(crate) struct Resampler {
    rate: u32,
    /// `None` when the rate is right already.
    filter: Option<Filter>,
    frames_in: u64,
    samples_out: u64,
}

struct Filter {
    fft: Fft<f32>,
    pending: Vec<f32>,
    output: Vec<f32>,
    /// Samples at the start that are the filter filling up.
    delay: usize,
}

impl Resampler {
    /// A resampler from `rate`, which has been checked against the limits.
    pub(crate) fn new(rate: u32) -> Result<Self, AudioError> {
        let filter = (rate != SAMPLE_RATE).then(|| Filter::new(rate)).transpose()?;
        Ok(Self { rate, filter, frames_in: 0, samples_out: 0 })
    }

    /// The rate of what goes in, in Hz.
    pub(crate) fn rate(&self) -> u32 {
        self.rate
    }

    /// Takes `mono` and appends to `out` what can be said of it already.
    pub(crate) fn push(&mut self, mono: &[f32], out: &mut Vec<f32>) -> Result<(), AudioError> {
        self.frames_in += mono.len() as u64;
        let start = out.len();
        match &mut self.filter {
            None => out.extend_from_slice(mono),
            Some(filter) => {
                filter.pending.extend_from_slice(mono);
                filter.drain(out)?;
            }
        }
        self.samples_out += (out.len() - start) as u64;
        Ok(())
    }

    /// Appends the rest.
    pub(crate) fn finish(mut self, out: &mut Vec<f32>) -> Result<(), AudioError> {
        let rate = u128::from(self.rate);
        let due = (u128::from(self.frames_in) * u128::from(SAMPLE_RATE) + rate / 2) / rate;
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        let start = out.len() as u64;
        if let Some(filter) = &mut self.filter {
            while self.samples_out + (out.len() as u64 - start) < due {
                let block = filter.fft.input_frames_next();
                filter.pending.resize(filter.pending.len().max(block), 0.0);
                filter.drain(out)?;
            }
        }
        out.truncate(usize::try_from(start + due.saturating_sub(self.samples_out)).unwrap_or(usize::MAX));
        Ok(())
    }
}

impl Filter {
    fn new(rate: u32) -> Result<Self, AudioError> {
        // A block is a multiple of the shortest piece in which both rates have whole samples. An even one, so that the
        // delay, which is half a block, is whole as well.
        let piece = rate / greatest_common_divisor(rate, SAMPLE_RATE);
        let block = piece * SHORTEST_BLOCK.div_ceil(2 * piece) * 2;
        let fft = Fft::new(rate as usize, SAMPLE_RATE as usize, block as usize, 1, FixedSync::Both)
            .map_err(internal)?;
        let delay = fft.output_delay();
        let output = vec![0.0; fft.output_frames_max()];
        Ok(Self { fft, pending: Vec::new(), output, delay })
    }

    /// Puts every whole block that is pending through the filter.
    fn drain(&mut self, out: &mut Vec<f32>) -> Result<(), AudioError> {
        let mut used = 0;
        while self.pending.len() - used >= self.fft.input_frames_next() {
            let (taken, made) = self.block(used)?;
            used += taken;
            let skipped = self.delay.min(made);
            self.delay -= skipped;
            // The filter overshoots at edges by a hair.
            out.extend(self.output[skipped..made].iter().map(|sample| sample.clamp(-1.0, 1.0)));
        }
        self.pending.drain(..used);
        Ok(())
    }

    fn block(&mut self, at: usize) -> Result<(usize, usize), AudioError> {
        let frames = self.output.len();
        let input = InterleavedSlice::new(&self.pending, 1, self.pending.len()).map_err(internal)?;
        let mut output = InterleavedSlice::new_mut(&mut self.output, 1, frames).map_err(internal)?;
        let indexing = Indexing::new().input_offset(at);
        self.fft.process_into_buffer(&input, &mut output, Some(&indexing)).map_err(internal)
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn internal(error: impl std::error::Error + Send + Sync + 'static) -> AudioError {
    AudioError::Internal(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resample(rate: u32, input: &[f32]) -> Vec<f32> {
        let (mut resampler, mut out) = (Resampler::new(rate).unwrap(), Vec::new());
        // Pieces of odd sizes, as packets are.
        input.chunks(1153).for_each(|piece| resampler.push(piece, &mut out).unwrap());
        resampler.finish(&mut out).unwrap();
        out
    }

    #[test]
    fn a_click_stays_where_it_was() {
        for rate in [2_000_u32, 8_000, 11_025, 16_000, 22_050, 44_100, 44_099, 48_000, 96_000, 384_000] {
            let mut input = vec![0.0; rate as usize * 2];
            input[rate as usize] = 1.0;
            let out = resample(rate, &input);
            let loudest = out.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap().0;
            assert!(loudest.abs_diff(16_000) <= 8, "{rate} Hz: the click of 1 s is at sample {loudest}");
            assert_eq!(out.len(), 32_000, "{rate} Hz");
        }
    }

    #[test]
    fn any_length_comes_out_in_proportion() {
        for frames in [0, 1, 2, 3, 100, 2_205, 44_101] {
            let expected = (frames as f64 * 16_000.0 / 44_100.0).round() as usize;
            assert_eq!(resample(44_100, &vec![0.1; frames]).len(), expected, "{frames} frames");
        }
    }

    #[test]
    fn tones_below_the_new_band_pass_and_above_it_do_not() {
        let level = |hertz: f32| {
            let tone: Vec<f32> = (0..44_100)
                .map(|n| 0.5 * (n as f32 * hertz * std::f32::consts::TAU / 44_100.0).sin())
                .collect();
            let out = resample(44_100, &tone);
            (out[1600..14_400].iter().map(|sample| sample * sample).sum::<f32>() / 12_800.0).sqrt()
        };
        let expected = 0.5 / 2_f32.sqrt();
        assert!((level(440.0) - expected).abs() < 0.001);
        assert!((level(7_000.0) - expected).abs() < 0.005);
        assert!(level(9_000.0) < 0.001, "aliasing");
    }
}
