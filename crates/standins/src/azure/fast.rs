//! Fast transcription: audio and definition in one request, the transcript in its answer.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::multipart::MultipartRejection;
use axum::extract::{Multipart, State};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::definition::Definition;
use super::{Azure, versioned};
use crate::audio::Audio;
use crate::desk::{Call, Refusal, lock};
use crate::hearing::Phrase;

/// `POST /speechtotext/transcriptions:transcribe`.
pub(super) async fn transcribe(
    State(azure): State<Arc<Azure>>,
    Extension(call): Extension<Call>,
    uri: Uri,
    headers: HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Response {
    match answer(&azure, &call, &uri, &headers, form).await {
        Ok(body) => Json(body).into_response(),
        Err(refusal) => call.refuse(&refusal),
    }
}

async fn answer(
    azure: &Azure,
    call: &Call,
    uri: &Uri,
    headers: &HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Value, Refusal> {
    azure.authorised(headers)?;
    versioned(uri)?;
    let form = form.map_err(|error| Refusal::violation(400, "InvalidRequest", error.to_string()))?;
    let (file, definition) = parts(form).await?;
    call.note(|seen| seen.definition = Some(definition.clone()));
    let definition = Definition::parse(&definition)?;
    if file.len() > azure.settings.max_bytes {
        return Err(Refusal::fair(413, "InvalidArgument", "the audio file is too large"));
    }
    let audio = Audio::read(&file).map_err(|error| Refusal::fair(422, "UnprocessableEntity", error))?;
    call.note(|seen| seen.audio_ms = Some(audio.duration_ms));
    if u128::from(audio.duration_ms) > azure.settings.max_duration.as_millis() {
        return Err(Refusal::fair(400, "InvalidArgument", "the audio is too long"));
    }
    let phrases = lock(&azure.hearing).hear(&audio, &definition.channels);
    Ok(render(&phrases, audio.duration_ms, &definition))
}

/// The two parts, each there once, and no others.
async fn parts(mut form: Multipart) -> Result<(Bytes, Value), Refusal> {
    let broken = |error: &dyn std::fmt::Display| Refusal::violation(400, "InvalidRequest", error.to_string());
    let (mut audio, mut definition) = (None, None);
    while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
        let name = field.name().unwrap_or_default().to_owned();
        let has_file_name = field.file_name().is_some();
        let body = field.bytes().await.map_err(|error| broken(&error))?;
        let before = match name.as_str() {
            "audio" if !has_file_name => return Err(broken(&"the part `audio` has no file name")),
            "audio" => audio.replace(body),
            "definition" => definition.replace(body),
            other => return Err(broken(&format!("unknown part `{other}`"))),
        };
        if before.is_some() {
            return Err(broken(&format!("the part `{name}` comes twice")));
        }
    }
    let audio = audio.ok_or_else(|| broken(&"the part `audio` is missing"))?;
    let definition = definition.ok_or_else(|| broken(&"the part `definition` is missing"))?;
    let definition = serde_json::from_slice(&definition)
        .map_err(|error| broken(&format!("the definition is no JSON: {error}")))?;
    Ok((audio, definition))
}

fn render(phrases: &[Phrase], duration_ms: u64, definition: &Definition) -> Value {
    let locale = definition.locales.first().map_or("en-US", String::as_str);
    let rendered: Vec<Value> = phrases
        .iter()
        .map(|phrase| {
            let words: Vec<Value> = phrase
                .words
                .iter()
                .map(|word| {
                    json!({
                        "text": word.text,
                        "offsetMilliseconds": word.offset_ms,
                        "durationMilliseconds": word.duration_ms,
                    })
                })
                .collect();
            let mut body = json!({
                "offsetMilliseconds": phrase.offset_ms,
                "durationMilliseconds": phrase.duration_ms,
                "text": phrase.text,
                "words": words,
                "locale": phrase.locale.as_deref().unwrap_or(locale),
                "confidence": phrase.confidence,
            });
            if let (true, Some(speaker)) = (definition.speakers, phrase.speaker) {
                body["speaker"] = json!(speaker);
            }
            if let (false, Some(channel)) = (definition.channels.is_empty(), phrase.channel) {
                body["channel"] = json!(channel);
            }
            body
        })
        .collect();
    json!({
        "durationMilliseconds": duration_ms,
        "combinedPhrases": combined(phrases, &definition.channels),
        "phrases": rendered,
    })
}

/// The whole text: one for each channel where channels were asked for.
fn combined(phrases: &[Phrase], channels: &[usize]) -> Vec<Value> {
    let text = |wanted: Option<u32>| {
        let texts = phrases.iter().filter(|phrase| wanted.is_none() || phrase.channel == wanted);
        texts.map(|phrase| phrase.text.as_str()).collect::<Vec<_>>().join(" ")
    };
    if channels.is_empty() {
        return vec![json!({ "text": text(None) })];
    }
    let one = |channel: &usize| json!({ "channel": channel, "text": text(u32::try_from(*channel).ok()) });
    channels.iter().map(one).collect()
}
