//! Short audio: at most a minute in the body, one utterance in the answer, times in ticks of 100 ns.

use std::sync::Arc;

use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use verbatim_core::CancellationToken;
use verbatim_core::failure::FailureKind;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::{EngineError, EngineRequest};
use verbatim_core::transcript::Transcript;

use super::body::Sending;
use super::caller::{CallTimeout, read};
use super::config::AzureConfig;
use super::failures::nonsense;
use super::fast::locales_of;
use super::times::Ticks;
use super::transcript::{Heard, HeardWord, transcript};
use super::{AzureEngine, length_of};

/// The longest clip.
const MOST_MS: u64 = 60_000;
const WAV: &str = "audio/wav; codecs=audio/pcm; samplerate=16000";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Recognised {
    recognition_status: String,
    #[serde(default)]
    offset: Ticks,
    #[serde(default)]
    duration: Ticks,
    #[serde(default, rename = "NBest")]
    best: Vec<Guess>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Guess {
    confidence: Option<f32>,
    display: String,
    #[serde(default)]
    words: Vec<Word>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Word {
    word: String,
    offset: Ticks,
    duration: Ticks,
}

/// The locale under which short audio can do this request; `None` when it cannot: it neither tells speakers or channels apart
/// nor finds out the language nor minds a prompt.
pub(super) fn locale_for(config: &AzureConfig, request: &EngineRequest) -> Option<String> {
    let TranscribeOptions { diarize, prompt, .. } = &request.options;
    let fits =
        request.audio.duration_ms() <= MOST_MS && !diarize && prompt.is_none() && config.channels.is_empty();
    // What has no locale is refused by fast transcription.
    let mut locales =
        locales_of(config, &request.options).ok().filter(|locales| fits && locales.len() == 1)?;
    locales.pop()
}

/// Has a clip transcribed.
pub(super) async fn transcribe(
    engine: &AzureEngine,
    request: &EngineRequest,
    locale: &str,
    cancel: &CancellationToken,
) -> Result<Transcript, EngineError> {
    let (config, options) = (&engine.config, &request.options);
    let audio = Sending::Samples(Arc::clone(&request.audio)).whole().await?;
    let mut url = engine.addresses.short.clone();
    url.query_pairs_mut().append_pair("language", locale).append_pair("format", "detailed");
    if options.words {
        url.query_pairs_mut().append_pair("wordLevelTimestamps", "true");
    }
    if let Some(profanity) = config.profanity {
        url.query_pairs_mut().append_pair("profanity", profanity.as_short());
    }
    let timeout = CallTimeout { timeout: config.timeouts.request(length_of(request)), cancel };
    let call = engine
        .caller
        .call(timeout, |client| Ok(client.post(url.clone()).header(CONTENT_TYPE, WAV).body(audio.clone())));
    let heard = utterance(read(&call.await?)?, locale)?;
    Ok(transcript(heard.into_iter().collect(), request.audio.duration_ms(), options))
}

/// What was said; `None` when nobody said anything that can be understood. A failed recognition comes as a 200.
fn utterance(answer: Recognised, locale: &str) -> Result<Option<Heard>, EngineError> {
    match answer.recognition_status.as_str() {
        "Success" => {}
        "NoMatch" | "InitialSilenceTimeout" | "BabbleTimeout" => return Ok(None),
        "Error" => {
            let message = "the speech service failed while it listened";
            return Err(EngineError::new(FailureKind::EngineFailed, message));
        }
        other => {
            return Err(nonsense(&format!(
                "RecognitionStatus `{}`",
                other.chars().take(40).collect::<String>()
            )));
        }
    }
    let Some(guess) = answer.best.into_iter().next() else { return Err(nonsense("NBest is empty")) };
    let words = guess.words.into_iter().map(|word| HeardWord {
        text: word.word,
        start_ms: word.offset.millis(),
        end_ms: word.offset.plus(word.duration).millis(),
        confidence: None,
    });
    Ok(Some(Heard {
        start_ms: answer.offset.millis(),
        end_ms: answer.offset.plus(answer.duration).millis(),
        text: guess.display,
        words: words.collect(),
        locale: Some(locale.to_owned()),
        confidence: guess.confidence,
        ..Heard::default()
    }))
}
