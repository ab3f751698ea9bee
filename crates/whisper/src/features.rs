//! The features of each window of a timeline. Whisper's scale depends on the loudest point of the whole audio, so that
//! point is looked for once, ahead; samples are read piece by piece, so hours of audio need little memory.

use std::sync::Arc;

use verbatim_core::PortError;
use verbatim_core::audio::PcmSource;

use crate::mel::{FRAMES_PER_SECOND, HOP, MelBank, WINDOW};
use crate::timeline::Timeline;

/// Frames in the window that the encoder takes (30 s).
pub(crate) const WINDOW_FRAMES: usize = 30 * FRAMES_PER_SECOND;

/// Samples on each side of a frame's centre.
const REACH: usize = WINDOW / 2;

/// Below one step of 16-bit audio there is nothing to hear. Whisper hears "you" in it.
const FAINTEST: f32 = 1.0 / 32_768.0;

/// Whisper's log-mel features of a whole audio, for comparison with other implementations: `bins` rows of one value per
/// 10 ms.
///
/// # Errors
/// Those of the source.
pub fn log_mel(audio: Arc<dyn PcmSource>, bins: usize) -> Result<Vec<f32>, PortError> {
    let (timeline, bank) = (Timeline::new(audio, None), MelBank::new(bins));
    let features = Features::new(&timeline, &bank)?;
    let mut rows = vec![Vec::with_capacity(features.frames()); bins];
    for start in (0..features.frames()).step_by(WINDOW_FRAMES) {
        let frames = WINDOW_FRAMES.min(features.frames() - start);
        let window = features.scaled(&features.samples_around(start, frames)?, frames);
        for (row, values) in rows.iter_mut().zip(window.chunks_exact(WINDOW_FRAMES)) {
            row.extend(&values[..frames]);
        }
    }
    Ok(rows.concat())
}

/// Whisper's log-mel features of one timeline.
pub(crate) struct Features<'a> {
    timeline: &'a Timeline,
    bank: &'a MelBank,
    floor: f32,
}

impl<'a> Features<'a> {
    /// Looks through the timeline for its loudest point.
    ///
    /// # Errors
    /// Those of the source.
    pub(crate) fn new(timeline: &'a Timeline, bank: &'a MelBank) -> Result<Self, PortError> {
        let mut features = Self { timeline, bank, floor: f32::MIN };
        let mut peak = f32::MIN;
        // One frame more than there is content, as in the reference.
        let frames = features.frames() + 1;
        for start in (0..frames).step_by(WINDOW_FRAMES) {
            let frames = WINDOW_FRAMES.min(frames - start);
            features.for_each_frame(&features.samples_around(start, frames)?, frames, |_, values| {
                peak = values.iter().copied().fold(peak, f32::max);
            });
        }
        features.floor = peak - 8.0;
        Ok(features)
    }

    /// How many frames of 10 ms the timeline has.
    pub(crate) fn frames(&self) -> usize {
        usize::try_from(self.timeline.len()).unwrap_or(usize::MAX) / HOP
    }

    /// Features of `frames` frames from frame `start`, padded with zeros to [`WINDOW_FRAMES`]; mel bins are rows. `None`
    /// when there is nothing but silence in them.
    ///
    /// # Errors
    /// Those of the source.
    pub(crate) fn window(&self, start: usize, frames: usize) -> Result<Option<Vec<f32>>, PortError> {
        let samples = self.samples_around(start, frames)?;
        let audible = samples.iter().any(|sample| sample.abs() >= FAINTEST);
        Ok(audible.then(|| self.scaled(&samples, frames)))
    }

    /// Features on Whisper's scale.
    fn scaled(&self, samples: &[f32], frames: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.bank.bins() * WINDOW_FRAMES];
        self.for_each_frame(samples, frames, |frame, values| {
            for (row, value) in out.chunks_exact_mut(WINDOW_FRAMES).zip(values) {
                row[frame] = (value.max(self.floor) + 4.0) / 4.0;
            }
        });
        out
    }

    fn for_each_frame(&self, samples: &[f32], frames: usize, mut visit: impl FnMut(usize, &[f32])) {
        let (mut scratch, mut values) = (self.bank.scratch(), vec![0.0; self.bank.bins()]);
        for frame in 0..frames {
            self.bank.log_power(&samples[frame * HOP..], &mut scratch, &mut values);
            visit(frame, &values);
        }
    }

    /// The samples that frames `start..start + frames` see. The audio is followed by a hop of silence and then mirrored
    /// at both ends, as in the reference.
    fn samples_around(&self, start: usize, frames: usize) -> Result<Vec<f32>, PortError> {
        let length = usize::try_from(self.timeline.len()).unwrap_or(usize::MAX);
        let mut samples = vec![0.0; frames.saturating_sub(1) * HOP + WINDOW];
        // samples[i] is the sample at `start * HOP + i - REACH`.
        let first = start * HOP;
        let (from, to) =
            (REACH.saturating_sub(first), (length + REACH).saturating_sub(first).min(samples.len()));
        if from < to {
            self.timeline.read((first + from - REACH) as u64, &mut samples[from..to])?;
        }
        let outside = (0..from).chain(to.max(from)..samples.len());
        for index in outside {
            let position = mirrored(first + index, length + HOP);
            if position < length {
                self.timeline.read(position as u64, &mut samples[index..=index])?;
            }
        }
        Ok(samples)
    }
}

/// Index of the sample that a reflection puts at `shifted - REACH` of `length` samples.
fn mirrored(shifted: usize, length: usize) -> usize {
    // Longer than the reach, since a hop of silence follows the audio; so adding it keeps the position positive.
    let period = 2 * (length - 1);
    let position = (shifted + period - REACH) % period;
    if position < length { position } else { period - position }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every feature of the audio, computed at once from a padded copy.
    fn reference(audio: &[f32], bank: &MelBank) -> Vec<Vec<f32>> {
        let mut padded = audio.to_vec();
        padded.extend([0.0; HOP]);
        let n = padded.len() as i64;
        let at = |index: i64| {
            let mut index = index;
            while index < 0 || index >= n {
                index = if index < 0 { -index } else { 2 * (n - 1) - index };
            }
            padded[index as usize]
        };
        let mut scratch = bank.scratch();
        let mut frames: Vec<Vec<f32>> = (0..padded.len() / HOP)
            .map(|frame| {
                let window: Vec<f32> = (0..WINDOW).map(|i| at((frame * HOP + i) as i64 - 200)).collect();
                let mut values = vec![0.0; bank.bins()];
                bank.log_power(&window, &mut scratch, &mut values);
                values
            })
            .collect();
        let peak = frames.iter().flatten().copied().fold(f32::MIN, f32::max);
        for value in frames.iter_mut().flatten() {
            *value = (value.max(peak - 8.0) + 4.0) / 4.0;
        }
        frames
    }

    #[test]
    fn silence_is_told_from_the_faintest_sound() {
        let bank = MelBank::new(80);
        let heard = |audio: Vec<f32>| {
            let timeline = Timeline::new(Arc::new(audio), None);
            let window = Features::new(&timeline, &bank).unwrap().window(0, 100).unwrap();
            window.is_some()
        };
        assert!(!heard(vec![0.0; 16_000]));
        assert!(!heard(vec![0.9 / 32_768.0; 16_000]));
        assert!(heard((0..16_000).map(|n| if n == 9_000 { 2.0 / 32_768.0 } else { 0.0 }).collect()));
    }

    #[test]
    fn windows_are_pieces_of_the_whole() {
        let bank = MelBank::new(80);
        for length in [1_usize, 159, 160, 201, 777, 16_000, 500_123] {
            // Loudest at the end, so that the first window needs the peak of the last.
            let audio: Vec<f32> =
                (0..length).map(|n| (n as f32 * 0.3).sin() * (n + 1) as f32 / length as f32).collect();
            let expected = reference(&audio, &bank);
            let timeline = Timeline::new(Arc::new(audio), None);
            let features = Features::new(&timeline, &bank).unwrap();
            assert_eq!(features.frames(), length / HOP);
            for start in (0..features.frames()).step_by(1_234) {
                let frames = WINDOW_FRAMES.min(features.frames() - start);
                let window = features.window(start, frames).unwrap().unwrap();
                for frame in 0..frames {
                    for bin in 0..80 {
                        let ours = window[bin * WINDOW_FRAMES + frame];
                        assert!(
                            (ours - expected[start + frame][bin]).abs() < 1e-6,
                            "{length} {start} {frame} {bin}"
                        );
                    }
                }
                assert!(frames == WINDOW_FRAMES || window[frames] == 0.0);
            }
        }
    }
}
