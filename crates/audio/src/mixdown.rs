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
    likeness: Likeness,
}

/// Channels that are compared with each other.
const MOST_COMPARED: usize = 8;
/// A channel with a smaller part of the loudest one's energy holds crosstalk and noise: 46 dB.
const LEAST_ENERGY: f64 = 2.5e-5;
/// Mean energy of a sample below which a channel is silent, about -80 dB.
const SILENCE: f64 = 1e-8;
/// Channels that are less alike than this, by the cosine between them, hold different sound.
const LEAST_LIKENESS: f64 = 0.5;

/// How alike the channels are over the whole of the audio.
#[derive(Debug, Default)]
struct Likeness {
    channels: usize,
    frames: u64,
    /// Sums of products of each two channels.
    products: [[f64; MOST_COMPARED]; MOST_COMPARED],
}

impl Likeness {
    fn add(&mut self, interleaved: &[f32], channels: usize) {
        self.channels = self.channels.max(channels);
        let compared = channels.min(MOST_COMPARED);
        for frame in interleaved.chunks_exact(channels) {
            for (a, row) in self.products[..compared].iter_mut().enumerate() {
                for (b, sum) in row[..=a].iter_mut().enumerate() {
                    *sum += f64::from(frame[a] * frame[b]);
                }
            }
        }
        self.frames += (interleaved.len() / channels) as u64;
    }

    /// Whether two channels hold sound that is not the same.
    fn differ(&self) -> bool {
        let energy = |channel: usize| self.products[channel][channel];
        let channels = 0..self.channels.min(MOST_COMPARED);
        let loudest = channels.clone().map(energy).fold(0.0, f64::max);
        let least = (loudest * LEAST_ENERGY).max(self.frames as f64 * SILENCE);
        let audible = |channel: &usize| energy(*channel) > least;
        channels.clone().filter(audible).any(|a| {
            (0..a)
                .filter(audible)
                .any(|b| self.products[a][b].abs() < LEAST_LIKENESS * (energy(a) * energy(b)).sqrt())
        })
    }
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
                self.likeness.add(interleaved, channels);
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

    /// How many channels were mixed although they hold different sound; 0 when they do not.
    pub(crate) fn mixed_channels(&self) -> u16 {
        if self.likeness.differ() { u16::try_from(self.likeness.channels).unwrap_or(u16::MAX) } else { 0 }
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
    fn channels_with_different_sound_are_noticed() {
        let differ = |frame: &dyn Fn(usize) -> Vec<f32>| {
            let frames: Vec<Vec<f32>> = (0..4000).map(frame).collect();
            let mut mixdown = Mixdown::default();
            mixdown.mix(&mut frames.concat(), frames[0].len(), 16_000, &mut Vec::new());
            mixdown.mixed_channels()
        };
        let other = |n: usize| (n as f32 * 0.37).sin() * 0.3;
        assert_eq!(differ(&|n| vec![tone(n), other(n)]), 2);
        assert_eq!(differ(&|n| vec![tone(n), 0.02 * other(n)]), 2, "a quiet one counts");
        assert_eq!(differ(&|n| vec![tone(n), tone(n), tone(n), 0.0, 0.0, other(n)]), 6);
        let turns = |n: usize| if n < 2000 { vec![tone(n), 0.0] } else { vec![0.0, tone(n)] };
        assert_eq!(differ(&turns), 2, "who takes turns is never heard at once");
        assert_eq!(differ(&|n| vec![tone(n)]), 0);
        assert_eq!(differ(&|n| vec![tone(n), 0.0]), 0, "one is silent");
        assert_eq!(differ(&|n| vec![tone(n), 0.0001 * other(n)]), 0, "noise");
        assert_eq!(differ(&|n| vec![tone(n), -tone(n)]), 0, "wired the wrong way round");
        assert_eq!(differ(&|n| vec![tone(n), 0.6 * tone(n) + 0.1 * other(n)]), 0, "one microphone nearer");
    }

    #[test]
    fn what_is_no_number_is_silence() {
        assert_eq!(mix(|_| vec![f32::NAN, f32::INFINITY]), vec![0.0; 1000]);
        assert_eq!(mix(|_| vec![7.0]), vec![1.0; 1000]);
    }
}
