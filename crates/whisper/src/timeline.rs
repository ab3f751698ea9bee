//! What is left of the audio when the stretches without speech are cut out, and the way back to the original times.
//! The mapping is faster-whisper's `SpeechTimestampsMap`.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use verbatim_core::PortError;
use verbatim_core::audio::{PcmSource, SAMPLE_RATE, SpeechSpan};

/// The spoken stretches of some audio, one after the other.
pub(crate) struct Timeline {
    audio: Arc<dyn PcmSource>,
    spans: Vec<SpeechSpan>,
    /// Where each span ends in the cut audio, in samples.
    ends: Vec<u64>,
}

impl Timeline {
    /// The `speech` of `audio`, all of it for `None`. Spans are in order and do not overlap; what lies past the end of
    /// the audio is ignored.
    pub(crate) fn new(audio: Arc<dyn PcmSource>, speech: Option<&[SpeechSpan]>) -> Self {
        let whole = SpeechSpan { start: 0, end: audio.len() };
        let spans: Vec<SpeechSpan> = speech
            .unwrap_or(&[whole])
            .iter()
            .map(|span| SpeechSpan { start: span.start, end: span.end.min(whole.end) })
            .filter(|span| span.samples() > 0)
            .collect();
        let ends = spans
            .iter()
            .scan(0, |end, span| {
                *end += span.samples();
                Some(*end)
            })
            .collect();
        Self { audio, spans, ends }
    }

    /// Length of the cut audio in samples.
    pub(crate) fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Fills `out` with cut audio from sample `start`, which must be all there.
    ///
    /// # Errors
    /// Those of the source.
    pub(crate) fn read(&self, mut start: u64, mut out: &mut [f32]) -> Result<(), PortError> {
        let mut index = self.span_at(start);
        while !out.is_empty() && index < self.spans.len() {
            let left = self.ends[index] - start;
            let count = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (now, later) = out.split_at_mut(count);
            let read = self.audio.read(self.spans[index].end - left, now)?;
            now[read..].fill(0.0);
            start += count as u64;
            out = later;
            index += 1;
        }
        out.fill(0.0);
        Ok(())
    }

    /// The original time of `seconds` in the cut audio. A time on the border of two spans belongs to the later one,
    /// unless it ends something.
    pub(crate) fn original(&self, seconds: f64, is_end: bool) -> f64 {
        self.original_in(self.span_of(seconds, is_end), seconds)
    }

    /// Original times of a word. Both ends are taken to lie in the span that holds its middle.
    pub(crate) fn original_word(&self, start: f64, end: f64) -> (f64, f64) {
        let span = self.span_of(f64::midpoint(start, end), false);
        (self.original_in(span, start), self.original_in(span, end))
    }

    /// Names the cut, so that a position in it is not mistaken for one in another cut.
    pub(crate) fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for span in &self.spans {
            hasher.update(span.start.to_le_bytes());
            hasher.update(span.end.to_le_bytes());
        }
        hex::encode(&hasher.finalize()[..8])
    }

    fn span_at(&self, sample: u64) -> usize {
        self.ends.partition_point(|&end| end <= sample)
    }

    fn span_of(&self, seconds: f64, is_end: bool) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a position in the audio"
        )]
        let sample = (seconds * f64::from(SAMPLE_RATE)).round() as u64;
        let border = if is_end { self.ends.binary_search(&sample).ok() } else { None };
        border.unwrap_or_else(|| self.span_at(sample)).min(self.spans.len().saturating_sub(1))
    }

    fn original_in(&self, span: usize, seconds: f64) -> f64 {
        let Some(cut) = self.spans.get(span).map(|span_here| span_here.end - self.ends[span]) else {
            return seconds;
        };
        #[expect(clippy::cast_precision_loss, reason = "audio is far shorter than 2^53 samples")]
        let cut = cut as f64 / f64::from(SAMPLE_RATE);
        seconds + cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(seconds: u64, speech: &[(u64, u64)]) -> Timeline {
        let samples: Vec<f32> = (0..seconds * 16_000).map(|n| n as f32).collect();
        let spans: Vec<SpeechSpan> = speech
            .iter()
            .map(|&(start, end)| SpeechSpan { start: start * 16_000, end: end * 16_000 })
            .collect();
        Timeline::new(Arc::new(samples), Some(&spans))
    }

    #[test]
    fn reading_joins_the_spans() {
        let timeline = timeline(10, &[(1, 2), (5, 7)]);
        assert_eq!(timeline.len(), 3 * 16_000);
        let mut out = [0.0; 4];
        timeline.read(15_998, &mut out).unwrap();
        assert_eq!(out, [31_998.0, 31_999.0, 80_000.0, 80_001.0]);
    }

    #[test]
    fn times_go_back_to_where_they_were_spoken() {
        let timeline = timeline(10, &[(1, 2), (5, 7)]);
        assert_eq!(timeline.original(0.5, false), 1.5);
        assert_eq!(timeline.original(1.0, false), 5.0);
        assert_eq!(timeline.original(1.0, true), 2.0);
        assert_eq!(timeline.original(2.5, true), 6.5);
        assert_eq!(timeline.original(9.0, true), 13.0);
        // Mostly in the first span, so wholly in it.
        assert_eq!(timeline.original_word(0.8, 1.1), (1.8, 2.1));
    }

    #[test]
    fn without_voice_activity_nothing_moves() {
        let timeline = Timeline::new(Arc::new(vec![0.5; 32_000]), None);
        assert_eq!(timeline.len(), 32_000);
        assert_eq!(timeline.original(1.25, true), 1.25);
    }

    #[test]
    fn different_cuts_have_different_names() {
        assert_ne!(timeline(10, &[(1, 2)]).digest(), timeline(10, &[(1, 3)]).digest());
        assert_eq!(timeline(10, &[(1, 2)]).digest(), timeline(10, &[(1, 2)]).digest());
    }

    #[test]
    fn silence_is_an_empty_timeline() {
        assert_eq!(timeline(3, &[]).len(), 0);
    }
}
