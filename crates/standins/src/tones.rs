//! A language of tones: words that a program can say into audio and hear again, so that a test knows whether one was
//! lost, doubled or cut in two.
//!
//! A word is a number below [`WORDS`]. It is said as two tones of 100 ms, one after the other without a pause: 500 Hz and
//! 100 Hz more for each step. What sounds but is no word is heard as [`BROKEN`].

use std::f32::consts::TAU;

use verbatim_core::audio::SAMPLE_RATE;

/// How many words there are.
pub const WORDS: u16 = STEPS * STEPS;
/// How long a word takes, in milliseconds.
pub const WORD_MS: u64 = 2 * TONE_MS;
/// What a sound that is no word is heard as.
pub const BROKEN: &str = "<broken>";

const STEPS: u16 = 60;
const TONE_MS: u64 = 100;
const LOWEST_HZ: f32 = 500.0;
const STEP_HZ: f32 = 100.0;
const VOLUME: f32 = 0.4;
/// Samples that are loud or quiet together: 2 ms.
const FRAME: usize = SAMPLE_RATE as usize / 500;
/// The quietest frame that sounds, as a mean of squares.
const SOUNDS: f32 = 0.01;
const PER_MS: usize = SAMPLE_RATE as usize / 1000;

/// A sound that was heard: a word, or [`BROKEN`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sound {
    /// What it is.
    pub text: String,
    /// Where it begins, in milliseconds.
    pub start_ms: u64,
    /// Where it ends.
    pub end_ms: u64,
}

/// A word as it is written.
pub fn spelling(word: u16) -> String {
    format!("w{word:04}")
}

/// Says words, each at its millisecond, in audio that is silent otherwise: 16 kHz, one channel.
pub fn speak(words: &[(u64, u16)], length_ms: u64) -> Vec<f32> {
    let mut samples = vec![0.0; at(length_ms)];
    for (start_ms, word) in words {
        for (place, step) in [word / STEPS % STEPS, word % STEPS].into_iter().enumerate() {
            let hz = LOWEST_HZ + STEP_HZ * f32::from(step);
            let start = at(start_ms + place as u64 * TONE_MS);
            for (index, sample) in samples.iter_mut().skip(start).take(at(TONE_MS)).enumerate() {
                *sample = VOLUME * (TAU * hz * index as f32 / SAMPLE_RATE as f32).sin();
            }
        }
    }
    samples
}

/// What is said in 16 kHz audio.
pub fn listen(samples: &[f32]) -> Vec<Sound> {
    let loud: Vec<bool> = samples
        .chunks(FRAME)
        .map(|frame| frame.iter().map(|sample| sample * sample).sum::<f32>() / frame.len() as f32 > SOUNDS)
        .collect();
    let mut heard = Vec::new();
    let mut start = None;
    for (index, loud) in loud.iter().copied().chain([false]).enumerate() {
        match (start, loud) {
            (None, true) => start = Some(index * FRAME),
            (Some(from), false) => {
                let until = (index * FRAME).min(samples.len());
                heard.push(recognise(samples, from, until));
                start = None;
            }
            _ => {}
        }
    }
    heard
}

fn recognise(samples: &[f32], from: usize, until: usize) -> Sound {
    let (start_ms, end_ms) = ((from / PER_MS) as u64, (until / PER_MS) as u64);
    let whole = (end_ms - start_ms).abs_diff(WORD_MS) <= 4;
    let half = at(TONE_MS);
    let word = whole.then(|| {
        let first = step_of(samples.get(from..from + half)?)?;
        let second = step_of(samples.get(from + half..until.min(from + 2 * half))?)?;
        Some(first * STEPS + second)
    });
    let text = word.flatten().map_or_else(|| BROKEN.to_owned(), spelling);
    Sound { text, start_ms, end_ms }
}

/// Which tone it is, by how often it rises through zero in its middle.
fn step_of(tone: &[f32]) -> Option<u16> {
    let edge = tone.len() / 10;
    let middle = tone.get(edge..tone.len() - edge)?;
    let rises: Vec<usize> = middle
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| pair[0] < 0.0 && pair[1] >= 0.0)
        .map(|(at, _)| at)
        .collect();
    let (first, last) = (rises.first()?, rises.last()?);
    if first == last {
        return None;
    }
    let hz = (rises.len() - 1) as f32 * SAMPLE_RATE as f32 / (last - first) as f32;
    let step = ((hz - LOWEST_HZ) / STEP_HZ).round();
    ((0.0..f32::from(STEPS)).contains(&step)).then_some(step as u16)
}

fn at(ms: u64) -> usize {
    usize::try_from(ms).unwrap_or(usize::MAX).saturating_mul(PER_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_heard_as_it_was_said() {
        for word in 0..WORDS {
            let heard = listen(&speak(&[(37, word)], 300));
            assert_eq!(heard.len(), 1);
            assert_eq!(heard[0].text, spelling(word));
            assert!(heard[0].start_ms.abs_diff(37) <= 2 && heard[0].end_ms.abs_diff(237) <= 2);
        }
    }

    #[test]
    fn a_word_that_is_cut_is_heard_as_broken() {
        let samples = speak(&[(0, 7), (500, 1234)], 1000);
        let texts = |samples: &[f32]| listen(samples).into_iter().map(|sound| sound.text).collect::<Vec<_>>();
        assert_eq!(texts(&samples), ["w0007", "w1234"]);
        assert_eq!(texts(&samples[..at(590)]), ["w0007", BROKEN]);
        assert_eq!(texts(&samples[at(610)..]), [BROKEN]);
    }
}
