//! The log-mel spectrum that Whisper hears: 25 ms Hann windows every 10 ms, Slaney mel filters up to 8 kHz, as in
//! OpenAI's `whisper/audio.py` and librosa's `filters.mel`.

use std::f64::consts::PI;
use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex};
use verbatim_core::audio::SAMPLE_RATE;

/// Samples in one analysis window (25 ms).
pub(crate) const WINDOW: usize = 400;
/// Samples between two windows (10 ms).
pub(crate) const HOP: usize = 160;
/// Frames per second.
pub(crate) const FRAMES_PER_SECOND: usize = SAMPLE_RATE as usize / HOP;

/// Bins of the one-sided spectrum.
const BINS: usize = WINDOW / 2 + 1;

/// Triangular filter over a few neighbouring bins.
struct Filter {
    first: usize,
    weights: Vec<f32>,
}

/// Computes mel power spectra. Shared between threads; each brings its own [`MelScratch`].
pub(crate) struct MelBank {
    fft: Arc<dyn RealToComplex<f32>>,
    hann: Vec<f32>,
    filters: Vec<Filter>,
}

/// Working memory for one thread.
pub(crate) struct MelScratch {
    windowed: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    power: Vec<f32>,
    fft: Vec<Complex<f32>>,
}

impl MelBank {
    /// A bank of `bins` mel filters: 80 for most models, 128 for large-v3.
    pub(crate) fn new(bins: usize) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "400 points, 32-bit window"
        )]
        let hann =
            (0..WINDOW).map(|n| (0.5 - 0.5 * (2.0 * PI * n as f64 / WINDOW as f64).cos()) as f32).collect();
        Self { fft: RealFftPlanner::new().plan_fft_forward(WINDOW), hann, filters: slaney_filters(bins) }
    }

    /// How many mel bins there are.
    pub(crate) fn bins(&self) -> usize {
        self.filters.len()
    }

    /// Working memory for [`Self::log_power`].
    pub(crate) fn scratch(&self) -> MelScratch {
        MelScratch {
            windowed: self.fft.make_input_vec(),
            spectrum: self.fft.make_output_vec(),
            power: vec![0.0; BINS],
            fft: self.fft.make_scratch_vec(),
        }
    }

    /// Writes log10 of the mel power of one window of [`WINDOW`] samples, clamped at 1e-10, into `out`.
    pub(crate) fn log_power(&self, samples: &[f32], scratch: &mut MelScratch, out: &mut [f32]) {
        for ((windowed, sample), hann) in scratch.windowed.iter_mut().zip(samples).zip(&self.hann) {
            *windowed = sample * hann;
        }
        self.fft
            .process_with_scratch(&mut scratch.windowed, &mut scratch.spectrum, &mut scratch.fft)
            .expect("buffers were made by the plan");
        for (power, value) in scratch.power.iter_mut().zip(&scratch.spectrum) {
            *power = value.norm_sqr();
        }
        for (out, filter) in out.iter_mut().zip(&self.filters) {
            let bins = &scratch.power[filter.first..filter.first + filter.weights.len()];
            let sum: f32 = filter.weights.iter().zip(bins).map(|(weight, power)| weight * power).sum();
            *out = sum.max(1e-10).log10();
        }
    }
}

/// Slaney's mel scale: linear up to 1 kHz, logarithmic above.
fn mel_to_hz(mel: f64) -> f64 {
    const STEP_HZ: f64 = 200.0 / 3.0;
    const LOG_FROM_HZ: f64 = 1000.0;
    const LOG_FROM_MEL: f64 = LOG_FROM_HZ / STEP_HZ;
    if mel < LOG_FROM_MEL {
        mel * STEP_HZ
    } else {
        LOG_FROM_HZ * ((mel - LOG_FROM_MEL) * 6.4_f64.ln() / 27.0).exp()
    }
}

/// Triangles with corners at `bins + 2` points equally spaced in mel, each of unit area.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "small counts, 32-bit weights"
)]
fn slaney_filters(bins: usize) -> Vec<Filter> {
    /// 8 kHz on Slaney's scale.
    const TOP_MEL: f64 = 45.245_640_471_924_965;
    let corner = |index: usize| mel_to_hz(TOP_MEL * index as f64 / (bins + 1) as f64);
    let bin_hz = f64::from(SAMPLE_RATE) / WINDOW as f64;
    (0..bins)
        .map(|index| {
            let (low, centre, high) = (corner(index), corner(index + 1), corner(index + 2));
            let weight = |bin: usize| {
                let hz = bin as f64 * bin_hz;
                let slope = ((hz - low) / (centre - low)).min((high - hz) / (high - centre));
                (slope.max(0.0) * 2.0 / (high - low)) as f32
            };
            let first = (0..BINS).find(|&bin| weight(bin) > 0.0).unwrap_or(0);
            let weights = (first..BINS).map(weight).take_while(|&weight| weight > 0.0).collect();
            Filter { first, weights }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in 64-bit floats and without any shortcut.
    fn reference(samples: &[f32], bins: usize) -> Vec<f64> {
        let power: Vec<f64> = (0..BINS)
            .map(|bin| {
                let (mut re, mut im) = (0.0, 0.0);
                for (n, &sample) in samples.iter().enumerate() {
                    let hann = 0.5 - 0.5 * (2.0 * PI * n as f64 / 400.0).cos();
                    let angle = -2.0 * PI * (bin * n) as f64 / 400.0;
                    re += f64::from(sample) * hann * angle.cos();
                    im += f64::from(sample) * hann * angle.sin();
                }
                re * re + im * im
            })
            .collect();
        let corners: Vec<f64> = (0..bins + 2)
            .map(|i| mel_to_hz(45.245_640_471_924_965 * i as f64 / (bins as f64 + 1.0)))
            .collect();
        corners
            .windows(3)
            .map(|corner| {
                let sum: f64 = power
                    .iter()
                    .enumerate()
                    .map(|(bin, power)| {
                        let hz = bin as f64 * 40.0;
                        let rising = (hz - corner[0]) / (corner[1] - corner[0]);
                        let falling = (corner[2] - hz) / (corner[2] - corner[1]);
                        rising.min(falling).max(0.0) * 2.0 / (corner[2] - corner[0]) * power
                    })
                    .sum();
                sum.max(1e-10).log10()
            })
            .collect()
    }

    /// A chirp with harmonics and a little noise, far louder than its quietest bins.
    fn signal(seed: u32) -> Vec<f32> {
        let mut noise = seed;
        (0..WINDOW)
            .map(|n| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let t = n as f32 / 16_000.0;
                let base = 180.0 * (seed as f32 + 1.0);
                let tone = (std::f32::consts::TAU * base * t * (1.0 + t)).sin();
                0.7 * tone + 0.2 * (7.0 * base * t).cos() + 1e-3 * (noise as f32 / u32::MAX as f32 - 0.5)
            })
            .collect()
    }

    #[test]
    fn spectra_equal_the_definition_within_1e_4_after_scaling() {
        for bins in [80, 128] {
            let bank = MelBank::new(bins);
            let (mut scratch, mut out) = (bank.scratch(), vec![0.0; bins]);
            for seed in 0..12 {
                let samples = signal(seed);
                bank.log_power(&samples, &mut scratch, &mut out);
                let expected = reference(&samples, bins);
                let peak = expected.iter().copied().fold(f64::MIN, f64::max);
                for (ours, theirs) in out.iter().zip(&expected) {
                    let scale = |x: f64| (x.max(peak - 8.0) + 4.0) / 4.0;
                    let difference = (scale(f64::from(*ours)) - scale(*theirs)).abs();
                    assert!(difference < 1e-4, "{bins} bins, seed {seed}: {difference}");
                }
            }
        }
    }

    #[test]
    fn filters_match_librosa() {
        // librosa.filters.mel(sr=16000, n_fft=400, n_mels=80): first and last non-zero weights.
        let filters = slaney_filters(80);
        assert_eq!(filters[0].first, 1);
        assert!((filters[0].weights[0] - 0.024_862_593).abs() < 1e-7);
        let last = &filters[79];
        assert_eq!(last.first + last.weights.len(), 200);
    }

    #[test]
    fn samples_that_are_no_numbers_are_heard_as_silence() {
        let bank = MelBank::new(80);
        let (mut scratch, mut out) = (bank.scratch(), vec![0.0; 80]);
        bank.log_power(&[f32::NAN; WINDOW], &mut scratch, &mut out);
        assert!(out.iter().all(|&value| value == -10.0));
    }
}
