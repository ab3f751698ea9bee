//! From any number of channels to one.

/// How fast a channel's loudness is forgotten, in seconds.
const MEMORY_SECS: f32 = 1.0;

/// Mixes interleaved channels down to their mean, which keeps what is common to them.
///
/// Where the channels cancel each other (a microphone wired the wrong way round gives two that are each other's
/// negative) the mean is silent although somebody speaks; the loudest channel is then taken alone. "Cancel" means: the
/// mean has less than a quarter of the energy that the loudest channel alone would leave in it. Loudness is averaged
/// over about a second, so that the choice does not flutter.
#[derive(Debug, Default)]
pub(crate) struct Mixdown {
    mean_energy: f32,
    channel_energy: Vec<f32>,
}

impl Mixdown {
    /// Appends the mix of `interleaved` to `mono`, with what is not a number as silence and everything within `[-1, 1]`.
    pub(crate) fn mix(&mut self, interleaved: &mut [f32], channels: usize, rate: u32, mono: &mut Vec<f32>) {
        interleaved.iter_mut().filter(|sample| !sample.is_finite()).for_each(|sample| *sample = 0.0);
        let start = mono.len();
        match channels {
            0 => return,
            1 => mono.extend_from_slice(interleaved),
            _ => {
                let scale = 1.0 / channels as f32;
                let frames = interleaved.chunks_exact(channels);
                mono.extend(frames.map(|frame| frame.iter().sum::<f32>() * scale));
                if let Some(loudest) = self.loudest_if_cancelled(interleaved, channels, rate, &mono[start..])
                {
                    let frames = interleaved.chunks_exact(channels);
                    mono[start..].iter_mut().zip(frames).for_each(|(mixed, frame)| *mixed = frame[loudest]);
                }
            }
        }
        mono[start..].iter_mut().for_each(|sample| *sample = sample.clamp(-1.0, 1.0));
    }

    fn loudest_if_cancelled(
        &mut self,
        interleaved: &[f32],
        channels: usize,
        rate: u32,
        mean: &[f32],
    ) -> Option<usize> {
        let keep = (-(mean.len() as f32) / (rate as f32 * MEMORY_SECS)).exp();
        self.channel_energy.resize(channels, 0.0);
        self.channel_energy.iter_mut().for_each(|energy| *energy *= keep);
        for frame in interleaved.chunks_exact(channels) {
            self.channel_energy.iter_mut().zip(frame).for_each(|(energy, sample)| *energy += sample * sample);
        }
        self.mean_energy = self.mean_energy * keep + mean.iter().map(|sample| sample * sample).sum::<f32>();

        let energies = self.channel_energy.iter().copied().enumerate();
        let (loudest, energy) = energies.max_by(|a, b| a.1.total_cmp(&b.1))?;
        let alone = energy / (channels * channels) as f32;
        (self.mean_energy < alone / 4.0).then_some(loudest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(frame: impl Fn(usize) -> Vec<f32>) -> Vec<f32> {
        let frames: Vec<Vec<f32>> = (0..1000).map(frame).collect();
        let mut mono = Vec::new();
        Mixdown::default().mix(&mut frames.concat(), frames[0].len(), 16_000, &mut mono);
        mono
    }

    fn tone(n: usize) -> f32 {
        (n as f32 * 0.1).sin() * 0.5
    }

    fn energy(samples: &[f32]) -> f32 {
        samples.iter().map(|sample| sample * sample).sum()
    }

    #[test]
    fn channels_are_averaged() {
        assert_eq!(mix(|n| vec![tone(n), tone(n)]), (0..1000).map(tone).collect::<Vec<_>>());
        let one_talker = mix(|n| vec![tone(n), 0.0, 0.0, 0.0]);
        assert!(one_talker.iter().enumerate().all(|(n, mixed)| (mixed - tone(n) / 4.0).abs() < 1e-6));
    }

    #[test]
    fn channels_that_cancel_are_not_lost() {
        let tone_energy = energy(&(0..1000).map(tone).collect::<Vec<_>>());
        assert!(energy(&mix(|n| vec![tone(n), -tone(n)])) > 0.9 * tone_energy);
        assert!(energy(&mix(|n| vec![tone(n), -0.9 * tone(n)])) > 0.9 * tone_energy);
    }

    #[test]
    fn what_is_no_number_is_silence() {
        assert_eq!(mix(|_| vec![f32::NAN, f32::INFINITY]), vec![0.0; 1000]);
        assert_eq!(mix(|_| vec![7.0]), vec![1.0; 1000]);
    }
}
