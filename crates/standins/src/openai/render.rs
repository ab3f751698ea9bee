//! Answers in each format.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::form::Asked;
use super::{OpenAi, Verbose};
use crate::hearing::Phrase;

pub(super) fn response(asked: &Asked, phrases: &[Phrase], duration_ms: u64, openai: &OpenAi) -> Response {
    let text = phrases.iter().map(|phrase| phrase.text.as_str()).collect::<Vec<_>>().join(" ");
    match asked.format.as_str() {
        "json" => Json(json!({ "text": text, "usage": usage(duration_ms) })).into_response(),
        "verbose_json" => Json(verbose(asked, phrases, duration_ms, openai)).into_response(),
        // Nobody of ours asks for the subtitle formats.
        _ => text.into_response(),
    }
}

fn usage(duration_ms: u64) -> Value {
    json!({ "type": "duration", "seconds": duration_ms.div_ceil(1000) })
}

fn secs(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn verbose(asked: &Asked, phrases: &[Phrase], duration_ms: u64, openai: &OpenAi) -> Value {
    let text = phrases.iter().map(|phrase| phrase.text.as_str()).collect::<Vec<_>>().join(" ");
    let task = if asked.translates { "translate" } else { "transcribe" };
    let mut body = json!({
        "task": task,
        "language": openai.language(asked),
        "duration": secs(duration_ms),
        "text": text,
        "usage": usage(duration_ms),
    });
    if openai.settings.verbose == Verbose::WithoutSegments {
        return body;
    }
    if asked.wants("segment") {
        let segment = |(id, phrase): (usize, &Phrase)| {
            json!({
                "id": id,
                "seek": phrase.offset_ms / 30_000 * 3_000,
                "start": secs(phrase.offset_ms),
                "end": secs(phrase.offset_ms + phrase.duration_ms),
                "text": format!(" {}", phrase.text),
                "tokens": [50_364, id],
                "temperature": 0.0,
                "avg_logprob": -0.25,
                "compression_ratio": 1.2,
                "no_speech_prob": 0.01,
            })
        };
        body["segments"] = phrases.iter().enumerate().map(segment).collect();
    }
    if asked.wants("word") {
        let words = phrases.iter().flat_map(|phrase| &phrase.words);
        body["words"] = words
            .map(|word| {
                let end = secs(word.offset_ms + word.duration_ms);
                json!({ "word": word.text, "start": secs(word.offset_ms), "end": end })
            })
            .collect();
    }
    body
}
