//! Fast transcription: what is asked, and what becomes of the answer.

use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::json;
use verbatim_core::CancellationToken;
use verbatim_core::audio::AudioFormat;
use verbatim_core::failure::FailureKind;
use verbatim_core::language::Language;
use verbatim_core::options::{Task, TranscribeOptions};
use verbatim_core::ports::engine::{EngineRequest, SpeechEngine};
use verbatim_engines::azure::{AzureConfig, AzureLimits, Profanity};
use verbatim_standins::{AzureSettings, Fault, Hearing, Phrase, Times, tones};

use crate::support::{Recorder, Uploaded, World, options, request, run, spoken, until, wav};

async fn world(hearing: Hearing) -> World {
    World::new(AzureSettings { hearing, ..AzureSettings::default() }).await
}

/// The `definition` of the last request.
fn definition(world: &World) -> serde_json::Value {
    world.azure.requests().last().and_then(|seen| seen.definition.clone()).unwrap_or_default()
}

#[tokio::test]
async fn words_come_back_where_they_were_said() -> Result<()> {
    let world = world(Hearing::Tones).await;
    let engine = world.engine(world.config());
    let asked = TranscribeOptions { words: true, language: Some(Language::ENGLISH), ..options() };
    let (transcript, recorder) = run(&engine, request(spoken(3000), asked)).await?;
    assert_eq!(transcript.text(), "w0007 w2345");
    let words: Vec<_> =
        transcript.words().map(|word| (word.text.trim(), word.start_ms, word.end_ms)).collect();
    assert_eq!(words, [("w0007", 500, 700), ("w2345", 1200, 1400)]);
    assert_eq!((transcript.duration_ms, transcript.language_probability), (3000, 1.0));
    assert_eq!((transcript.engine.as_str(), transcript.model.as_str()), ("azure", "azure-speech"));
    let windows = recorder.windows.lock().expect("nobody panicked").clone();
    assert_eq!(windows, [(3000, transcript.segments)]);
    assert_eq!(definition(&world), json!({ "locales": ["en-US"] }));
    world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn every_option_reaches_azure_in_its_place() -> Result<()> {
    let world = world(Hearing::Tones).await;
    let config = AzureConfig {
        profanity: Some(Profanity::Removed),
        max_speakers: 4,
        channels: vec![0, 1],
        candidate_locales: vec!["de-AT".to_owned(), "fr-CH".to_owned()],
        ..world.config()
    };
    let engine = world.engine(config);
    let asked =
        TranscribeOptions { diarize: true, prompt: Some("Ada Lovelace, kubectl.".to_owned()), ..options() };
    run(&engine, request(spoken(3000), asked)).await?;
    // Speakers are told apart in one channel only.
    assert_eq!(
        definition(&world),
        json!({
            "locales": ["de-AT", "fr-CH"],
            "profanityFilterMode": "Removed",
            "diarization": { "enabled": true, "maxSpeakers": 4 },
            "phraseList": { "phrases": ["Ada Lovelace", "kubectl"] },
        })
    );
    world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn without_a_language_azure_finds_out() -> Result<()> {
    let german =
        Phrase { locale: Some("de-DE".to_owned()), confidence: 0.75, ..Phrase::say("guten Tag", 0, 500) };
    let english = Phrase { locale: Some("en-GB".to_owned()), ..Phrase::say("hello", 1000, 500) };
    let world = world(Hearing::Script(vec![german, english])).await;
    let (transcript, _) = run(&world.engine(world.config()), request(spoken(3000), options())).await?;
    assert_eq!(definition(&world), json!({}));
    assert_eq!((transcript.language.code(), transcript.language_probability), ("de", 0.75));
    assert_eq!(transcript.words().count(), 0, "words were not asked for");
    world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn speakers_are_named_when_asked_for() -> Result<()> {
    let script = vec![
        Phrase { speaker: Some(1), ..Phrase::say("how are you", 0, 100) },
        Phrase { speaker: Some(2), ..Phrase::say("fine", 1000, 100) },
    ];
    let world = world(Hearing::Script(script)).await;
    let engine = world.engine(world.config());
    let asked = TranscribeOptions { diarize: true, ..options() };
    let (transcript, _) = run(&engine, request(spoken(3000), asked)).await?;
    let speakers: Vec<_> = transcript.segments.iter().map(|segment| segment.speaker.as_deref()).collect();
    assert_eq!(speakers, [Some("speaker 1"), Some("speaker 2")]);
    world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn channels_are_heard_in_the_upload_and_merged_by_time() -> Result<()> {
    let world = world(Hearing::Tones).await;
    let engine = world.engine(AzureConfig { channels: vec![0, 1], ..world.config() });
    let left = tones::speak(&[(200, 1), (2000, 3)], 3000);
    let right = tones::speak(&[(1000, 2)], 3000);
    let upload = wav(&[left, right]);
    let mixed = request(vec![0.0; 48_000], options());
    let stereo =
        EngineRequest { upload: Some(Arc::new(Uploaded(upload, Some(AudioFormat::Wav)))), ..mixed.clone() };
    let (transcript, _) = run(&engine, stereo).await?;
    let heard: Vec<_> = transcript
        .segments
        .iter()
        .map(|one| (one.speaker.as_deref(), one.text.trim(), one.start_ms))
        .collect();
    assert_eq!(
        heard,
        [
            (Some("channel 0"), "w0001", 200),
            (Some("channel 1"), "w0002", 1000),
            (Some("channel 0"), "w0003", 2000)
        ]
    );
    assert_eq!(definition(&world), json!({ "channels": [0, 1] }));

    // Without the upload there is only one channel to hear.
    run(&engine, mixed).await?;
    assert_eq!(definition(&world), json!({}));
    world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn decoded_audio_that_is_too_large_is_sent_as_it_came_if_that_is_smaller() -> Result<()> {
    let world = world(Hearing::Tones).await;
    let limits = AzureLimits { max_bytes: 80_000, ..AzureLimits::default() };
    let engine = world.engine(AzureConfig { limits, ..world.config() });
    let long = request(spoken(3000), options());
    let error = run(&engine, long.clone()).await.map(drop).expect_err("96 KB");
    assert_eq!(error.kind, FailureKind::UnsupportedOption);
    assert!(error.message.contains("80000 bytes"), "{error}");

    let upload = wav(&[tones::speak(&[(100, 9)], 2000)]);
    let small = EngineRequest { upload: Some(Arc::new(Uploaded(upload, Some(AudioFormat::Wav)))), ..long };
    assert_eq!(run(&engine, small).await?.0.text(), "w0009");
    world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn what_azure_cannot_do_is_refused_without_asking_it() -> Result<()> {
    let world = world(Hearing::Tones).await;
    let limits = AzureLimits { max_duration: std::time::Duration::from_secs(2), ..AzureLimits::default() };
    let engine = world.engine(AzureConfig { limits, ..world.config() });
    let latin = Language::parse("la").ok();
    for (asked, length_ms, reason) in [
        (TranscribeOptions { task: Task::Translate, ..options() }, 1000, "does not translate"),
        (TranscribeOptions { language: latin, ..options() }, 1000, "does not understand latin"),
        (options(), 3000, "at most 2 s"),
    ] {
        let error = run(&engine, request(spoken(length_ms), asked)).await.map(drop).expect_err(reason);
        assert_eq!(error.kind, FailureKind::UnsupportedOption);
        assert!(error.message.contains(reason), "{error}");
    }
    assert_eq!(run(&engine, request(Vec::new(), options())).await?.0.segments, [], "no audio, no words");
    assert_eq!(world.azure.requests(), []);
    Ok(())
}

#[tokio::test]
async fn capabilities_are_those_of_the_configuration() -> Result<()> {
    let world = world(Hearing::Tones).await;
    let capabilities = world.engine(world.config()).capabilities();
    assert_eq!(capabilities.max_duration, Some(AzureLimits::default().max_duration));
    assert!(capabilities.models[0].diarizes);
    let model = capabilities.models.first().context("no model")?;
    assert!(model.multilingual && !model.translates);
    let other = world.engine(AzureConfig { profanity: Some(Profanity::None), ..world.config() });
    assert_ne!(other.capabilities().models[0].revision, model.revision, "the words differ");
    Ok(())
}

#[tokio::test]
async fn cancelling_ends_a_request_under_way() -> Result<()> {
    let world = world(Hearing::Tones).await;
    world.azure.misbehave(Fault::Hang, Times::UntilHealed);
    let engine = world.engine(world.config());
    let cancel = CancellationToken::new();
    let working =
        engine.transcribe(request(spoken(3000), options()), Arc::new(Recorder::default()), cancel.clone());
    let stopping = async {
        until(|| world.azure.requests().iter().any(|seen| seen.path.ends_with(":transcribe"))).await;
        cancel.cancel();
    };
    let (done, ()) = tokio::join!(working, stopping);
    assert_eq!(done.map(drop).map_err(|error| error.kind), Err(FailureKind::Cancelled));
    Ok(())
}
