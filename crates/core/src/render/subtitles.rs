//! SubRip, WebVTT and tab-separated renderings.

use std::fmt::Write;

use crate::transcript::{Segment, Transcript};

/// `HH:MM:SS` with milliseconds after `separator`.
fn clock(millis: u64, separator: char) -> String {
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    format!("{:02}:{:02}:{seconds:02}{separator}{millis:03}", minutes / 60, minutes % 60)
}

/// The text of a cue: one paragraph, without the arrow that would look like a timing line and without blank lines,
/// which would end the cue.
fn cue_text(segment: &Segment) -> String {
    let line = segment.text.split_whitespace().collect::<Vec<_>>().join(" ").replace("-->", "->");
    match &segment.speaker {
        Some(speaker) => format!("{speaker}: {line}"),
        None => line,
    }
}

/// SubRip: numbered cues, comma before the milliseconds.
pub(super) fn srt(transcript: &Transcript) -> String {
    let mut out = String::new();
    for (number, segment) in transcript.segments.iter().enumerate() {
        let (start, end) = (clock(segment.start_ms, ','), clock(segment.end_ms, ','));
        let _ = write!(out, "{}\n{start} --> {end}\n{}\n\n", number + 1, cue_text(segment));
    }
    out
}

/// WebVTT (W3C), with `&`, `<` and `>` escaped as its cue text wants.
pub(super) fn vtt(transcript: &Transcript) -> String {
    let mut out = String::from("WEBVTT\n\n");
    for segment in &transcript.segments {
        let (start, end) = (clock(segment.start_ms, '.'), clock(segment.end_ms, '.'));
        let text = cue_text(segment).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = write!(out, "{start} --> {end}\n{text}\n\n");
    }
    out
}

/// A header and a line per segment, times in milliseconds.
pub(super) fn tsv(transcript: &Transcript) -> String {
    let mut out = String::from("start\tend\ttext\n");
    for segment in &transcript.segments {
        let text = segment.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(out, "{}\t{}\t{text}", segment.start_ms, segment.end_ms);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::Language;
    use crate::options::Task;

    fn transcript() -> Transcript {
        let segment = |index, start_ms, end_ms, text: &str| Segment {
            index,
            start_ms,
            end_ms,
            text: text.into(),
            words: Vec::new(),
            speaker: None,
            decoding: None,
        };
        Transcript {
            task: Task::Transcribe,
            language: Language::ENGLISH,
            language_probability: 1.0,
            duration_ms: 3_661_500,
            engine: "whisper".into(),
            model: "tiny.en".into(),
            segments: vec![
                segment(0, 0, 1_250, " Tom & Jerry <3"),
                segment(1, 3_600_000, 3_661_001, " one --> two\n\nthree"),
            ],
        }
    }

    #[test]
    fn srt_numbers_cues_and_keeps_hours() {
        assert_eq!(
            srt(&transcript()),
            "1\n00:00:00,000 --> 00:00:01,250\nTom & Jerry <3\n\n\
             2\n01:00:00,000 --> 01:01:01,001\none -> two three\n\n"
        );
    }

    #[test]
    fn vtt_escapes_markup() {
        assert!(
            vtt(&transcript())
                .starts_with("WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nTom &amp; Jerry &lt;3\n")
        );
    }

    #[test]
    fn tsv_has_one_line_a_segment() {
        assert_eq!(tsv(&transcript()).lines().count(), 3);
    }
}
