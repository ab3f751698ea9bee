//! What is sent for which options, and what becomes of the answer.

use anyhow::Result;
use serde_json::{Value, json};
use verbatim_core::audio::SpeechSpan;
use verbatim_core::failure::FailureKind;
use verbatim_core::language::Language;
use verbatim_core::options::{Task, TranscribeOptions};
use verbatim_core::ports::engine::{EngineRequest, SpeechEngine};
use verbatim_engines::openai::{OpenAiConfig, OpenAiEngine, OpenAiModel};
use verbatim_standins::{Auth, Hearing, OpenAiSettings, OpenAiStandIn, Phrase, Verbose};

use crate::support::{config, engine, failure, options, request, tone, transcribe};

fn script() -> Hearing {
    Hearing::Script(vec![
        Phrase::say("guten morgen allerseits", 100, 300),
        Phrase::say("es regnet", 1_200, 400),
    ])
}

fn fields(stand_in: &OpenAiStandIn) -> Vec<Value> {
    stand_in.requests().into_iter().map(|seen| seen.definition.unwrap_or_default()).collect()
}

#[tokio::test]
async fn options_become_the_fields_of_the_form() -> Result<()> {
    let stand_in = OpenAiStandIn::start(OpenAiSettings::default()).await;
    let upstream = |name: &str, upstream: &str| OpenAiModel {
        name: name.to_owned(),
        upstream: upstream.to_owned(),
        multilingual: true,
        translates: true,
    };
    let models = vec![upstream("cloud", "whisper-1"), upstream("other", "whisper-2")];
    let engine = OpenAiEngine::new(OpenAiConfig { models, ..config(&stand_in) })?;
    let plain = TranscribeOptions::for_model("cloud");
    let full = TranscribeOptions {
        language: Language::parse("de").ok(),
        prompt: Some("Namen: Käthe".to_owned()),
        temperature: 0.2,
        words: true,
        ..plain.clone()
    };
    let translation = TranscribeOptions { task: Task::Translate, words: false, ..full.clone() };
    for options in [plain, full, translation] {
        transcribe(&engine, request(options)).await?;
    }
    assert_eq!(
        fields(&stand_in),
        [
            json!({ "model": "whisper-1", "response_format": "verbose_json" }),
            json!({
                "model": "whisper-1",
                "response_format": "verbose_json",
                "language": "de",
                "prompt": "Namen: Käthe",
                "temperature": "0.2",
                "timestamp_granularities[]": ["word", "segment"],
            }),
            // The language of a translation is not asked for.
            json!({
                "model": "whisper-1",
                "response_format": "verbose_json",
                "prompt": "Namen: Käthe",
                "temperature": "0.2",
            }),
        ]
    );
    let requests = stand_in.requests();
    let paths: Vec<&str> = requests.iter().map(|seen| seen.path.as_str()).collect();
    assert_eq!(paths[1..], ["/v1/audio/transcriptions", "/v1/audio/translations"]);
    assert!(requests.iter().all(|seen| seen.auth == Auth::Bearer && seen.audio_ms == Some(2_000)));
    assert_eq!(stand_in.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_service_without_keys_is_sent_none() -> Result<()> {
    let settings = OpenAiSettings { key: None, ..OpenAiSettings::default() };
    let stand_in = OpenAiStandIn::start(settings).await;
    let engine = OpenAiEngine::new(OpenAiConfig::at(stand_in.url(), None))?;
    transcribe(&engine, request(options())).await?;
    assert_eq!(stand_in.requests()[0].auth, Auth::None);
    Ok(())
}

#[tokio::test]
async fn segments_words_and_language_are_those_of_the_service() -> Result<()> {
    let settings =
        OpenAiSettings { hearing: script(), language: "german".to_owned(), ..OpenAiSettings::default() };
    let stand_in = OpenAiStandIn::start(settings).await;
    let options = TranscribeOptions { words: true, ..options() };
    let transcript = transcribe(&engine(&stand_in)?, request(options)).await?;
    assert_eq!(transcript.text(), "guten morgen allerseits es regnet");
    assert_eq!((transcript.language.code(), transcript.language_probability), ("de", 1.0));
    assert_eq!((transcript.engine.as_str(), transcript.model.as_str()), ("openai", "whisper-1"));
    assert_eq!(transcript.duration_ms, 2_000);
    let times: Vec<_> = transcript
        .segments
        .iter()
        .map(|one| (one.index, one.start_ms, one.end_ms, one.words.len()))
        .collect();
    assert_eq!(times, [(0, 100, 1_000, 3), (1, 1_200, 2_000, 2)]);
    let words: Vec<_> =
        transcript.words().map(|word| (word.text.as_str(), word.start_ms, word.end_ms)).collect();
    assert_eq!(words[3..], [(" es", 1_200, 1_600), (" regnet", 1_600, 2_000)]);
    let decoding = transcript.segments[0].decoding.as_ref().map(|decoding| decoding.avg_logprob);
    assert_eq!(decoding, Some(-0.25));
    Ok(())
}

#[tokio::test]
async fn words_are_there_only_when_they_were_asked_for() -> Result<()> {
    let settings = OpenAiSettings { hearing: script(), ..OpenAiSettings::default() };
    let stand_in = OpenAiStandIn::start(settings).await;
    let transcript = transcribe(&engine(&stand_in)?, request(options())).await?;
    assert_eq!((transcript.words().count(), transcript.segments.len()), (0, 2));
    Ok(())
}

#[tokio::test]
async fn a_text_without_times_lasts_from_the_first_speech_to_the_last() -> Result<()> {
    for verbose in [Verbose::WithoutSegments, Verbose::Refused] {
        let settings = OpenAiSettings { hearing: script(), verbose, ..OpenAiSettings::default() };
        let stand_in = OpenAiStandIn::start(settings).await;
        let span = |start: u64, end: u64| SpeechSpan { start: start * 16, end: end * 16 };
        let speech = Some(vec![span(90, 1_010), span(1_190, 1_990)]);
        let request = EngineRequest { speech, ..request(options()) };
        let transcript = transcribe(&engine(&stand_in)?, request).await?;
        assert_eq!(transcript.segments.len(), 1, "{verbose:?}");
        let segment = &transcript.segments[0];
        assert_eq!((segment.start_ms, segment.end_ms), (90, 1_990), "{verbose:?}");
        assert_eq!(transcript.text(), "guten morgen allerseits es regnet");
    }
    Ok(())
}

#[tokio::test]
async fn a_model_that_gives_no_times_is_asked_only_once_for_them() -> Result<()> {
    let settings = OpenAiSettings { verbose: Verbose::Refused, ..OpenAiSettings::default() };
    let stand_in = OpenAiStandIn::start(settings).await;
    let engine = engine(&stand_in)?;
    let words = TranscribeOptions { words: true, ..options() };
    assert_eq!(failure(&engine, request(words.clone())).await.kind, FailureKind::UnsupportedOption);
    let transcript = transcribe(&engine, request(options())).await?;
    // The text-only answer names no language.
    assert_eq!((transcript.language, transcript.language_probability), (Language::ENGLISH, 0.0));
    assert_eq!(failure(&engine, request(words)).await.kind, FailureKind::UnsupportedOption);
    let formats: Vec<Value> =
        fields(&stand_in).into_iter().map(|form| form["response_format"].clone()).collect();
    assert_eq!(formats, ["verbose_json", "json"]);
    Ok(())
}

#[tokio::test]
async fn silence_is_not_sent() -> Result<()> {
    let stand_in = OpenAiStandIn::start(OpenAiSettings::default()).await;
    let silent = EngineRequest { speech: Some(Vec::new()), ..EngineRequest::new(tone(5_000), options()) };
    let transcript = transcribe(&engine(&stand_in)?, silent).await?;
    assert_eq!((transcript.segments.len(), transcript.duration_ms), (0, 5_000));
    let nothing = EngineRequest::new(tone(0), options());
    assert_eq!(transcribe(&engine(&stand_in)?, nothing).await?.segments.len(), 0);
    assert_eq!(stand_in.requests().len(), 0);
    Ok(())
}

#[tokio::test]
async fn the_models_on_offer_are_those_of_the_configuration() -> Result<()> {
    let stand_in = OpenAiStandIn::start(OpenAiSettings::default()).await;
    let capabilities = engine(&stand_in)?.capabilities();
    assert_eq!((capabilities.models.len(), capabilities.models[0].name.as_str()), (1, "whisper-1"));
    assert!(capabilities.models[0].translates && !capabilities.models[0].diarizes);
    assert_eq!(capabilities.concurrency, 8);
    Ok(())
}
