//! JSON renderings: ours, and OpenAI's `verbose_json`. Times are seconds with three decimals.

use serde_json::{Value, json};

use crate::transcript::{Segment, Transcript, Word};

/// Milliseconds as seconds.
fn secs(millis: u64) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "audio is far shorter than 2^53 ms")]
    let seconds = millis as f64 / 1000.0;
    json!(seconds)
}

/// Seconds billed, as OpenAI counts them: rounded up to whole seconds.
pub fn usage_secs(duration_ms: u64) -> u64 {
    duration_ms.div_ceil(1000)
}

/// A 32-bit float as the shortest decimal that names it, not as the long decimal of its 64-bit widening.
fn float(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

fn word(word: &Word) -> Value {
    json!({ "word": word.text.trim(), "start": secs(word.start_ms), "end": secs(word.end_ms) })
}

fn verbose_segment(segment: &Segment) -> Value {
    let decoding = segment.decoding.as_ref();
    json!({
        "id": segment.index,
        "seek": decoding.map_or(0, |d| d.seek),
        "start": secs(segment.start_ms),
        "end": secs(segment.end_ms),
        "text": segment.text,
        "tokens": decoding.map_or(&[][..], |d| &d.tokens),
        "temperature": decoding.map_or(Value::from(0.0), |d| float(d.temperature)),
        "avg_logprob": decoding.map_or(Value::from(0.0), |d| float(d.avg_logprob)),
        "compression_ratio": decoding.map_or(Value::from(0.0), |d| float(d.compression_ratio)),
        "no_speech_prob": decoding.map_or(Value::from(0.0), |d| float(d.no_speech_prob)),
    })
}

/// OpenAI's `verbose_json`.
pub(super) fn verbose(transcript: &Transcript, words: bool) -> String {
    let mut body = json!({
        "task": transcript.task,
        "language": transcript.language.name(),
        "duration": secs(transcript.duration_ms),
        "text": transcript.text(),
        "segments": transcript.segments.iter().map(verbose_segment).collect::<Vec<_>>(),
        "usage": { "type": "duration", "seconds": usage_secs(transcript.duration_ms) },
    });
    if words {
        body["words"] = transcript.words().map(word).collect();
    }
    body.to_string()
}

/// One segment of our own JSON; events show segments the same way.
pub fn segment(segment: &Segment, words: bool) -> Value {
    let mut body = json!({
        "id": segment.index,
        "start": secs(segment.start_ms),
        "end": secs(segment.end_ms),
        "text": segment.text.trim(),
    });
    if let Some(speaker) = &segment.speaker {
        body["speaker"] = json!(speaker);
    }
    if words {
        body["words"] = segment.words.iter().map(word).collect();
    }
    body
}

/// Our own JSON: everything a reader needs, nothing of the decoder's insides.
pub(super) fn native(transcript: &Transcript, words: bool) -> String {
    let segments: Vec<Value> = transcript.segments.iter().map(|part| segment(part, words)).collect();
    json!({
        "text": transcript.text(),
        "language": transcript.language.code(),
        "language_probability": float(transcript.language_probability),
        "task": transcript.task,
        "duration": secs(transcript.duration_ms),
        "engine": transcript.engine,
        "model": transcript.model,
        "segments": segments,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::Language;
    use crate::options::Task;
    use crate::transcript::Decoding;

    fn transcript() -> Transcript {
        Transcript {
            task: Task::Transcribe,
            language: Language::parse("de").unwrap(),
            language_probability: 0.9,
            duration_ms: 16_040,
            engine: "whisper".into(),
            model: "base".into(),
            segments: vec![Segment {
                index: 0,
                start_ms: 0,
                end_ms: 1_250,
                text: " Guten Tag.".into(),
                words: vec![Word { text: " Guten".into(), start_ms: 0, end_ms: 600, probability: 0.9 }],
                speaker: None,
                decoding: Some(Decoding {
                    seek: 0,
                    tokens: vec![50364, 1],
                    temperature: 0.0,
                    avg_logprob: -0.3,
                    compression_ratio: 0.6,
                    no_speech_prob: 0.1,
                }),
            }],
        }
    }

    #[test]
    fn verbose_json_has_openais_shape() {
        let body: Value = serde_json::from_str(&verbose(&transcript(), false)).unwrap();
        assert_eq!(body["language"], "german");
        assert_eq!(body["duration"], 16.04);
        assert_eq!(body["text"], "Guten Tag.");
        assert_eq!(body["usage"], json!({ "type": "duration", "seconds": 17 }));
        assert_eq!(body["segments"][0]["avg_logprob"], -0.3);
        assert!(body.get("words").is_none(), "words come only when asked for");
        let body: Value = serde_json::from_str(&verbose(&transcript(), true)).unwrap();
        assert_eq!(body["words"], json!([{ "word": "Guten", "start": 0.0, "end": 0.6 }]));
    }

    #[test]
    fn our_own_json_names_language_by_code() {
        let body: Value = serde_json::from_str(&native(&transcript(), false)).unwrap();
        assert_eq!(body["language"], "de");
        assert_eq!(body["segments"][0]["text"], "Guten Tag.");
    }
}
