//! From a score for each frame to spans of speech: the rules of silero's `get_speech_timestamps` as faster-whisper has
//! them (`vad.py`), one frame at a time.

use verbatim_core::audio::{SAMPLES_PER_MS, SpeechSpan};

use crate::vad::VadConfig;

/// Collects spans while scores come in.
pub(crate) struct SpanBuilder<'a> {
    config: &'a VadConfig,
    spans: Vec<SpeechSpan>,
    /// Where the span at hand starts.
    start: Option<u64>,
    /// Whether it is speech for sure.
    confirmed: bool,
    /// Where it may end, unless speech goes on before the silence is long enough.
    quiet_since: Option<u64>,
}

impl<'a> SpanBuilder<'a> {
    /// No frames yet.
    pub(crate) fn new(config: &'a VadConfig) -> Self {
        Self { config, spans: Vec::new(), start: None, confirmed: false, quiet_since: None }
    }

    /// Takes the score of the frame that starts at sample `at`, and whether the sound moves as speech does.
    pub(crate) fn push(&mut self, at: u64, score: f32, moves: bool) {
        if score >= self.config.threshold {
            self.quiet_since = None;
            self.start.get_or_insert(at);
            self.confirmed |= moves && score >= self.config.confirm_threshold;
            return;
        }
        let Some(start) = self.start else { return };
        if score >= self.config.release_threshold && self.quiet_since.is_none() {
            return;
        }
        let quiet_since = *self.quiet_since.get_or_insert(at);
        if at - quiet_since >= u64::from(self.config.min_silence_ms) * SAMPLES_PER_MS {
            self.close(start, quiet_since);
        }
    }

    fn close(&mut self, start: u64, end: u64) {
        let long_enough = end - start > u64::from(self.config.min_speech_ms) * SAMPLES_PER_MS;
        if long_enough && self.confirmed {
            self.spans.push(SpeechSpan { start, end });
        }
        self.start = None;
        self.confirmed = false;
        self.quiet_since = None;
    }

    /// The spans of audio of `len` samples, padded: in order, apart from each other and within the audio. Spans whose
    /// padding meets are one.
    pub(crate) fn finish(mut self, len: u64) -> Vec<SpeechSpan> {
        if let Some(start) = self.start {
            self.close(start, self.quiet_since.unwrap_or(len));
        }
        let padding = u64::from(self.config.padding_ms) * SAMPLES_PER_MS;
        let mut padded: Vec<SpeechSpan> = Vec::with_capacity(self.spans.len());
        for span in self.spans {
            let (start, end) = (span.start.saturating_sub(padding), (span.end + padding).min(len));
            match padded.last_mut() {
                Some(last) if start <= last.end => last.end = end,
                _ => padded.push(SpeechSpan { start, end }),
            }
        }
        padded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = 256;

    fn config() -> VadConfig {
        VadConfig {
            threshold: 0.5,
            release_threshold: 0.3,
            confirm_threshold: 0.8,
            min_modulation_db: 0.0,
            min_speech_ms: 50,
            min_silence_ms: 160,
            padding_ms: 32,
        }
    }

    /// Spans, in frames, of frames with these scores.
    fn spans(scores: &[(usize, f32)]) -> Vec<(u64, u64)> {
        spans_of(config(), scores)
    }

    fn spans_of(config: VadConfig, scores: &[(usize, f32)]) -> Vec<(u64, u64)> {
        let mut at = 0;
        let mut builder = SpanBuilder::new(&config);
        for score in scores.iter().flat_map(|(count, score)| std::iter::repeat_n(*score, *count)) {
            builder.push(at, score, true);
            at += FRAME;
        }
        builder.finish(at).into_iter().map(|span| (span.start / FRAME, span.end / FRAME)).collect()
    }

    #[test]
    fn speech_is_padded_within_the_audio() {
        assert_eq!(spans(&[(50, 0.0), (20, 0.9), (50, 0.0)]), [(48, 72)]);
        assert_eq!(spans(&[(20, 0.9)]), [(0, 20)]);
        assert_eq!(spans(&[(50, 0.0), (20, 0.9)]), [(48, 70)]);
        assert_eq!(spans(&[(100, 0.1)]), []);
    }

    #[test]
    fn a_doubtful_score_goes_on_but_does_not_begin() {
        assert_eq!(spans(&[(50, 0.4), (20, 0.9), (30, 0.4), (50, 0.0)]), [(48, 102)]);
    }

    #[test]
    fn what_is_never_sure_is_not_speech() {
        assert_eq!(spans(&[(200, 0.7)]), []);
        assert_eq!(spans(&[(50, 0.7), (1, 0.9), (50, 0.7), (50, 0.0), (50, 0.7)]), [(0, 103)]);
    }

    #[test]
    fn short_silence_does_not_part_and_short_noise_does_not_count() {
        assert_eq!(spans(&[(20, 0.9), (9, 0.0), (20, 0.9), (40, 0.0)]), [(0, 51)]);
        assert_eq!(spans(&[(20, 0.9), (14, 0.0), (20, 0.9), (40, 0.0)]), [(0, 22), (32, 56)]);
        assert_eq!(spans(&[(50, 0.0), (2, 0.9), (50, 0.0)]), []);
    }

    #[test]
    fn padding_that_meets_makes_one_span() {
        let scores = [(20, 0.9), (12, 0.0), (20, 0.9), (3, 0.0)];
        assert_eq!(spans(&scores), [(0, 22), (30, 54)]);
        assert_eq!(spans_of(VadConfig { padding_ms: 96, ..config() }, &scores), [(0, 55)]);
    }
}
