//! Short audio: at most a minute in the body, times in ticks of 100 ns.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::{Azure, definition, query};
use crate::audio::Audio;
use crate::desk::{Call, Refusal, lock};
use crate::hearing::{HeardWord, Phrase};

const MOST_MS: u64 = 60_000;
const TICKS_PER_MS: u64 = 10_000;
const PARAMETERS: [&str; 4] = ["language", "format", "profanity", "wordLevelTimestamps"];

/// `POST /speech/recognition/conversation/cognitiveservices/v1`.
pub(super) async fn recognise(
    State(azure): State<Arc<Azure>>,
    Extension(call): Extension<Call>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match answer(&azure, &call, &uri, &headers, &body) {
        Ok(body) => Json(body).into_response(),
        Err(refusal) => call.refuse(&refusal),
    }
}

fn answer(azure: &Azure, call: &Call, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<Value, Refusal> {
    azure.authorised(headers)?;
    let wrong = |message: String| Refusal::violation(400, "InvalidRequest", message);
    check_query(uri)?;
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let kind = String::from_utf8_lossy(kind).replace(' ', "").to_lowercase();
    if !["audio/wav;codecs=audio/pcm;samplerate=16000", "audio/ogg;codecs=opus"].contains(&kind.as_str()) {
        return Err(Refusal::violation(415, "UnsupportedMediaType", format!("Content-Type `{kind}`")));
    }
    let audio = Audio::read(body).map_err(|error| Refusal::fair(400, "InvalidRequest", error))?;
    call.note(|seen| seen.audio_ms = Some(audio.duration_ms));
    if audio.rate != 16_000 || audio.channels.len() != 1 {
        return Err(wrong(format!("{} channels at {} Hz", audio.channels.len(), audio.rate)));
    }
    if audio.duration_ms > MOST_MS {
        return Err(wrong(format!("{} ms are more than a minute", audio.duration_ms)));
    }
    if let Some(status) = call.recognition {
        return Ok(json!({ "RecognitionStatus": status, "Offset": 0, "Duration": 0 }));
    }
    let phrases = lock(&azure.hearing).hear(&audio, &[]);
    Ok(render(&phrases, query(uri, "format") == Some("detailed")))
}

fn check_query(uri: &Uri) -> Result<(), Refusal> {
    let wrong = |message: String| Refusal::violation(400, "InvalidRequest", message);
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    for name in pairs.map(|pair| pair.split('=').next().unwrap_or_default()) {
        if !PARAMETERS.contains(&name) {
            return Err(wrong(format!("unknown parameter `{name}`")));
        }
    }
    definition::locale(&query(uri, "language").into())?;
    match (query(uri, "format"), query(uri, "profanity")) {
        (Some(format), _) if !["simple", "detailed"].contains(&format) => {
            Err(wrong(format!("format `{format}`")))
        }
        (_, Some(mode)) if !["masked", "removed", "raw"].contains(&mode) => {
            Err(wrong(format!("profanity `{mode}`")))
        }
        _ => Ok(()),
    }
}

/// Short audio is one utterance: all phrases become one.
fn render(phrases: &[Phrase], detailed: bool) -> Value {
    if phrases.is_empty() {
        return json!({ "RecognitionStatus": "NoMatch", "Offset": 0, "Duration": 0 });
    }
    let words: Vec<HeardWord> = phrases.iter().flat_map(|phrase| phrase.words.clone()).collect();
    let confidence = phrases.iter().map(|phrase| phrase.confidence).fold(1.0, f64::min);
    let whole = Phrase::of(words);
    let mut body = json!({
        "RecognitionStatus": "Success",
        "Offset": whole.offset_ms * TICKS_PER_MS,
        "Duration": whole.duration_ms * TICKS_PER_MS,
        "DisplayText": whole.text,
    });
    if detailed {
        let words: Vec<Value> = whole
            .words
            .iter()
            .map(|word| {
                json!({
                    "Word": word.text,
                    "Offset": word.offset_ms * TICKS_PER_MS,
                    "Duration": word.duration_ms * TICKS_PER_MS,
                })
            })
            .collect();
        body["NBest"] = json!([{
            "Confidence": confidence,
            "Lexical": whole.text,
            "ITN": whole.text,
            "MaskedITN": whole.text,
            "Display": whole.text,
            "Words": words,
        }]);
    }
    body
}
