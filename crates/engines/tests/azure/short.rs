//! Short audio: which clips go there, and what its statuses mean.

use anyhow::Result;
use verbatim_core::failure::FailureKind;
use verbatim_core::language::Language;
use verbatim_core::options::TranscribeOptions;
use verbatim_engines::AzureEngine;
use verbatim_engines::azure::{AzureConfig, AzureMode, Profanity};
use verbatim_standins::{AzureSettings, Fault, Hearing, Times};

use crate::support::{World, options, request, run, spoken};

async fn world() -> World {
    World::new(AzureSettings { hearing: Hearing::Tones, ..AzureSettings::default() }).await
}

fn engine(world: &World) -> AzureEngine {
    let profanity = Some(Profanity::None);
    world.engine(AzureConfig { mode: AzureMode::Short, profanity, ..world.config() })
}

fn english() -> TranscribeOptions {
    TranscribeOptions { language: Some(Language::ENGLISH), words: true, ..options() }
}

fn paths(world: &World) -> Vec<String> {
    let seen = world.azure.requests().into_iter().filter(|seen| !seen.path.ends_with("issueToken"));
    seen.map(|seen| seen.path.rsplit(['/', ':']).next().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn a_clip_is_one_segment_with_exact_times() -> Result<()> {
    let world = world().await;
    let (transcript, _) = run(&engine(&world), request(spoken(60_000), english())).await?;
    assert_eq!(paths(&world), ["v1"]);
    assert_eq!(transcript.text(), "w0007 w2345");
    assert_eq!((transcript.segments[0].start_ms, transcript.segments[0].end_ms), (500, 1400));
    let words: Vec<_> = transcript.words().map(|word| (word.start_ms, word.end_ms)).collect();
    assert_eq!(words, [(500, 700), (1200, 1400)]);
    let query = world.azure.requests().last().map(|seen| seen.query.clone());
    assert_eq!(
        query.as_deref(),
        Some("language=en-US&format=detailed&wordLevelTimestamps=true&profanity=raw")
    );
    world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn what_short_audio_cannot_do_goes_to_fast_transcription() -> Result<()> {
    let world = world().await;
    let engine = engine(&world);
    for (asked, length_ms) in [
        (english(), 60_001),
        (options(), 3000),
        (TranscribeOptions { diarize: true, ..english() }, 3000),
        (TranscribeOptions { prompt: Some("Ada".to_owned()), ..english() }, 3000),
    ] {
        run(&engine, request(spoken(length_ms), asked)).await?;
    }
    assert_eq!(paths(&world), ["transcribe"; 4]);
    world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn one_candidate_is_the_language_of_clips() -> Result<()> {
    let world = world().await;
    let candidate_locales = vec!["de-CH".to_owned()];
    let config = AzureConfig { mode: AzureMode::Short, candidate_locales, ..world.config() };
    let (transcript, _) = run(&world.engine(config), request(spoken(3000), options())).await?;
    assert_eq!(paths(&world), ["v1"]);
    assert_eq!(transcript.language.code(), "de");
    world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn silence_is_an_empty_transcript_and_an_error_is_one() -> Result<()> {
    let world = world().await;
    let engine = engine(&world);
    for status in ["NoMatch", "InitialSilenceTimeout", "BabbleTimeout"] {
        world.azure.misbehave(Fault::Recognition(status), Times::Next(1));
        let (transcript, _) = run(&engine, request(spoken(3000), english())).await?;
        assert_eq!(transcript.segments, [], "{status}");
        assert_eq!(transcript.duration_ms, 3000);
    }
    for status in ["Error", "Whatever"] {
        world.azure.misbehave(Fault::Recognition(status), Times::Next(1));
        let failed = run(&engine, request(spoken(3000), english())).await.map(drop);
        assert_eq!(failed.map_err(|error| error.kind), Err(FailureKind::EngineFailed), "{status}");
    }
    world.assert_no_violations();
    Ok(())
}
