//! Where to cut audio that is too long to send at once: where nobody speaks, so that no word is in two pieces. The pieces
//! touch and do not overlap, so that none is heard twice.

use verbatim_core::PortError;
use verbatim_core::audio::{PcmSource, SAMPLE_RATE, SAMPLES_PER_MS, SpeechSpan};

/// Loudness is measured in frames of so many samples: 10 ms.
const FRAME: usize = SAMPLE_RATE as usize / 100;
/// A place is as quiet as the frames around it: 200 ms.
const AROUND: usize = 20;
/// So much is searched for the quietest place: the end of the region.
const SEARCHED: u64 = 60 * SAMPLE_RATE as u64;
/// A silence of this length between words is as good as a longer one: 700 ms.
const LONG_SILENCE: u64 = 700 * SAMPLES_PER_MS;
/// Places that are so much louder than the quietest are as quiet: 2 dB.
const AS_QUIET: f64 = 1.6;
/// Mean power of the noise of 16-bit samples; what is below is silent.
const SILENT: f64 = 1e-9;

/// The piece that begins at `start`: the rest of the audio where that is at most `most` samples, else about an equal part of
/// it. It ends between two spans of speech where there is a gap, else at the quietest place; always at a whole
/// millisecond. Reads samples, and may block.
///
/// # Errors
/// Those of reading the audio.
pub(crate) fn next_piece(
    audio: &dyn PcmSource,
    speech: Option<&[SpeechSpan]>,
    start: u64,
    most: u64,
) -> Result<SpeechSpan, PortError> {
    let rest = audio.len().saturating_sub(start);
    let most = most.max(SAMPLES_PER_MS);
    if rest <= most {
        return Ok(SpeechSpan { start, end: audio.len() });
    }
    // Equal parts, so that no short rest is left, of which a provider hears little and guesses its language.
    let part = rest.div_ceil(rest.div_ceil(most));
    let region = SpeechSpan { start: start + part - part / 4, end: start + most };
    let silence = speech.and_then(|spans| silence_in(spans, region)).unwrap_or(region);
    let searched = SpeechSpan { start: silence.start.max(silence.end.saturating_sub(SEARCHED)), ..silence };
    let cut = quietest(audio, searched)? / SAMPLES_PER_MS * SAMPLES_PER_MS;
    Ok(SpeechSpan { start, end: cut.max(start + SAMPLES_PER_MS) })
}

/// The best gap between spans of speech within a region: the last of those that are long enough, else the longest.
fn silence_in(speech: &[SpeechSpan], region: SpeechSpan) -> Option<SpeechSpan> {
    let ends = std::iter::once(0).chain(speech.iter().map(|span| span.end));
    let starts = speech.iter().map(|span| span.start).chain([u64::MAX]);
    ends.zip(starts)
        .map(|(end, start)| SpeechSpan { start: end.max(region.start), end: start.min(region.end) })
        .filter(|gap| gap.samples() > 0)
        .max_by_key(|gap| gap.samples().min(LONG_SILENCE))
}

/// The middle of the longest stretch that is as quiet as it gets.
fn quietest(audio: &dyn PcmSource, region: SpeechSpan) -> Result<u64, PortError> {
    let power = frame_powers(audio, region)?;
    let around = AROUND.min(power.len());
    if around == 0 {
        return Ok(region.start + region.samples() / 2);
    }
    let smooth: Vec<f64> =
        power.windows(around).map(|frames| frames.iter().sum::<f64>() / around as f64).collect();
    let quiet = smooth.iter().copied().fold(f64::INFINITY, f64::min) * AS_QUIET + SILENT;
    let (mut best, mut run) = (0..0, 0..0);
    for (index, power) in smooth.iter().enumerate() {
        if *power > quiet {
            run = index + 1..index + 1;
            continue;
        }
        run.end = index + 1;
        if run.len() >= best.len() {
            best = run.clone();
        }
    }
    // The middle of the places, each of which stands for the frames from it on.
    let middle = (best.start + best.end - 1 + around) * FRAME / 2;
    Ok(region.start + (middle as u64).min(region.samples()))
}

/// Mean power of each whole frame of the region.
fn frame_powers(audio: &dyn PcmSource, region: SpeechSpan) -> Result<Vec<f64>, PortError> {
    let mut samples = vec![0.0; usize::try_from(region.samples()).unwrap_or(usize::MAX)];
    let count = audio.read(region.start, &mut samples)?;
    let power = |frame: &[f32]| {
        frame.iter().map(|sample| f64::from(*sample) * f64::from(*sample)).sum::<f64>() / FRAME as f64
    };
    Ok(samples[..count].chunks_exact(FRAME).map(power).collect())
}

#[cfg(test)]
mod tests {
    use anyhow::Result;

    use super::*;

    const SECOND: u64 = SAMPLE_RATE as u64;

    /// Noise, with silence in these stretches, in milliseconds.
    fn audio(secs: u64, silences: &[(u64, u64)]) -> Vec<f32> {
        let mut state = 1_u32;
        let mut samples: Vec<f32> = (0..secs * SECOND)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 16) as f32 / 65_536.0 - 0.5
            })
            .collect();
        for (from, until) in silences {
            for at in from * SAMPLES_PER_MS..until * SAMPLES_PER_MS {
                samples[at as usize] *= 0.001;
            }
        }
        samples
    }

    fn cuts(samples: &Vec<f32>, speech: Option<&[SpeechSpan]>, most: u64) -> Result<Vec<u64>> {
        let (mut ends, mut start) = (Vec::new(), 0);
        while start < samples.len() as u64 {
            let piece = next_piece(samples, speech, start, most)?;
            assert_eq!(piece.start, start);
            assert!(piece.samples() <= most && piece.end > start);
            assert!(piece.end.is_multiple_of(SAMPLES_PER_MS));
            ends.push(piece.end / SAMPLES_PER_MS);
            start = piece.end;
        }
        Ok(ends)
    }

    #[test]
    fn what_fits_is_one_piece() -> Result<()> {
        assert_eq!(cuts(&audio(10, &[]), None, 10 * SECOND)?, [10_000]);
        Ok(())
    }

    #[test]
    fn audio_is_cut_at_its_quietest_places() -> Result<()> {
        let samples = audio(30, &[(9_000, 9_400), (20_000, 20_300)]);
        let ends = cuts(&samples, None, 12 * SECOND)?;
        assert_eq!(ends.len(), 3, "{ends:?}");
        assert!((9_050..9_350).contains(&ends[0]) && (20_050..20_250).contains(&ends[1]), "{ends:?}");
        Ok(())
    }

    #[test]
    fn gaps_between_speech_are_preferred_to_quiet_places_within_it() -> Result<()> {
        let samples = audio(20, &[(8_500, 8_900), (10_000, 10_600)]);
        let span = |start: u64, end: u64| SpeechSpan { start: start * 16, end: end * 16 };
        // The quiet place at 8.5 s is within a span: a word said softly.
        let speech = [span(0, 10_000), span(10_600, 20_000)];
        let ends = cuts(&samples, Some(&speech), 11 * SECOND)?;
        assert!((10_100..10_500).contains(&ends[0]), "{ends:?}");
        Ok(())
    }

    #[test]
    fn silence_and_unbroken_noise_are_cut_too() -> Result<()> {
        let silent = vec![0.0; 100 * SAMPLE_RATE as usize];
        assert_eq!(cuts(&silent, None, 30 * SECOND)?.last(), Some(&100_000));
        assert_eq!(cuts(&silent, Some(&[]), 30 * SECOND)?.last(), Some(&100_000));
        assert_eq!(cuts(&audio(20, &[]), None, 3 * SECOND)?.last(), Some(&20_000));
        // Pieces shorter than the measure of quiet.
        assert_eq!(cuts(&audio(1, &[]), None, 100 * SAMPLES_PER_MS)?.last(), Some(&1_000));
        Ok(())
    }
}
