//! Fast transcription: audio and definition in one request, the transcript in its answer.

use std::sync::Arc;

use reqwest::multipart::Form;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use verbatim_core::CancellationToken;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::{EngineError, EngineRequest};
use verbatim_core::transcript::Transcript;

use super::body::Sending;
use super::caller::{CallTimeout, read};
use super::config::AzureConfig;
use super::failures::unsupported;
use super::locales::locale_of;
use super::phrases::phrases_of;
use super::times::Millis;
use super::transcript::{Heard, HeardWord, transcript};
use super::{AzureEngine, length_of};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Transcribed {
    #[serde(default)]
    phrases: Vec<Phrase>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Phrase {
    offset_milliseconds: Millis,
    duration_milliseconds: Millis,
    text: String,
    #[serde(default)]
    words: Vec<Word>,
    locale: Option<String>,
    confidence: Option<f32>,
    speaker: Option<u32>,
    channel: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Word {
    text: String,
    offset_milliseconds: Millis,
    duration_milliseconds: Millis,
}

/// Has all of the audio transcribed in one request.
pub(super) async fn transcribe(
    engine: &AzureEngine,
    request: &EngineRequest,
    cancel: &CancellationToken,
) -> Result<Transcript, EngineError> {
    let (config, options) = (&engine.config, &request.options);
    let length = length_of(request);
    if length > config.limits.max_duration {
        let most = config.limits.max_duration.as_secs();
        return Err(unsupported(format!("the speech service takes audio of at most {most} s at once")));
    }
    let (audio, is_upload) = audio_of(config, request)?;
    let definition = definition(config, options, is_upload)?.to_string();
    let timeout = CallTimeout { timeout: config.timeouts.request(length), cancel };
    let call = engine.caller.call(timeout, |client| {
        let form = Form::new().part("audio", audio.part()?).text("definition", definition.clone());
        Ok(client.post(engine.addresses.fast.clone()).multipart(form))
    });
    let answer: Transcribed = read(&call.await?)?;
    let with_channels = hears_channels(config, options, is_upload);
    let heard = answer.phrases.into_iter().map(|phrase| heard(phrase, with_channels)).collect();
    Ok(transcript(heard, request.audio.duration_ms(), options))
}

fn heard(phrase: Phrase, with_channels: bool) -> Heard {
    let words = phrase.words.into_iter().map(|word| HeardWord {
        text: word.text,
        start_ms: word.offset_milliseconds.0,
        end_ms: word.offset_milliseconds.0 + word.duration_milliseconds.0,
        confidence: None,
    });
    Heard {
        start_ms: phrase.offset_milliseconds.0,
        end_ms: phrase.offset_milliseconds.0 + phrase.duration_milliseconds.0,
        text: phrase.text,
        words: words.collect(),
        locale: phrase.locale,
        confidence: phrase.confidence,
        speaker: phrase.speaker,
        channel: phrase.channel.filter(|_| with_channels),
    }
}

/// What is sent, and whether it is the upload: for its channels, or because the decoded audio would be too large.
fn audio_of(config: &AzureConfig, request: &EngineRequest) -> Result<(Sending, bool), EngineError> {
    let most = config.limits.max_bytes;
    let samples = Sending::Samples(Arc::clone(&request.audio));
    // Azure takes every format that we do.
    let upload = request.upload.as_ref().filter(|upload| upload.format().is_some() && upload.bytes() <= most);
    let wants_channels = !config.channels.is_empty() && !request.options.diarize;
    match upload {
        Some(upload) if wants_channels || samples.bytes() > most => {
            Ok((Sending::Upload(Arc::clone(upload)), true))
        }
        _ if samples.bytes() <= most => Ok((samples, false)),
        _ => Err(unsupported(format!("the speech service takes files of at most {most} bytes at once"))),
    }
}

/// Azure tells speakers apart only in one channel, and the decoded audio has no more than that.
fn hears_channels(config: &AzureConfig, options: &TranscribeOptions, is_upload: bool) -> bool {
    is_upload && !options.diarize && !config.channels.is_empty()
}

/// The locales to hear with: that of the client's language, or those to choose among; none lets Azure find out.
pub(super) fn locales_of(
    config: &AzureConfig,
    options: &TranscribeOptions,
) -> Result<Vec<String>, EngineError> {
    let Some(language) = options.language else { return Ok(config.candidate_locales.clone()) };
    match locale_of(language, &config.locales) {
        Some(locale) => Ok(vec![locale.to_owned()]),
        None => Err(unsupported(format!("Azure Speech does not understand {}", language.name()))),
    }
}

fn definition(
    config: &AzureConfig,
    options: &TranscribeOptions,
    is_upload: bool,
) -> Result<Value, EngineError> {
    let mut definition = Map::new();
    let mut set = |name: &str, value: Value| definition.insert(name.to_owned(), value);
    let locales = locales_of(config, options)?;
    if !locales.is_empty() {
        set("locales", json!(locales));
    }
    if let Some(profanity) = config.profanity {
        set("profanityFilterMode", json!(profanity.as_str()));
    }
    if options.diarize {
        set("diarization", json!({ "enabled": true, "maxSpeakers": config.max_speakers }));
    }
    if hears_channels(config, options, is_upload) {
        set("channels", json!(config.channels));
    }
    let phrases = options.prompt.as_deref().map(phrases_of).unwrap_or_default();
    if !phrases.is_empty() {
        set("phraseList", json!({ "phrases": phrases }));
    }
    Ok(Value::Object(definition))
}
