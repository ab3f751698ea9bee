//! Batch transcription: submitted once, polled through whatever happens, taken over by another worker.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::join_all;
use serde_json::json;
use verbatim_core::CancellationToken;
use verbatim_core::failure::FailureKind;
use verbatim_core::language::Language;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::{Checkpoint, EngineError, EngineRequest, SpeechEngine};
use verbatim_core::transcript::Transcript;
use verbatim_engines::AzureEngine;
use verbatim_engines::azure::{AzureConfig, AzureLimits, AzureMode, AzureTimeouts};
use verbatim_standins::{AzureSettings, BatchRules, Fault, Hearing, Times};

use crate::support::bucket::{Bucket, NoUrls};
use crate::support::{Recorder, World, options, request, run, spoken, until, wav};

const SUBMIT: &str = ":submit";

struct Room {
    world: World,
    bucket: Arc<Bucket>,
}

impl Room {
    async fn new() -> Self {
        let world = World::new(AzureSettings { hearing: Hearing::Tones, ..AzureSettings::default() }).await;
        Self { world, bucket: Bucket::start(wav(&[spoken(3000)])).await }
    }

    /// Audio of more than two seconds goes to batch transcription.
    fn config(&self) -> AzureConfig {
        let limits = AzureLimits { batch_above: Duration::from_secs(2), ..AzureLimits::default() };
        AzureConfig { mode: AzureMode::Batch, limits, ..self.world.config() }
    }

    fn engine(&self) -> AzureEngine {
        self.world.engine_with(self.config(), Some(self.bucket.clone()))
    }

    fn seen(&self, part: &str) -> usize {
        self.world.azure.requests().iter().filter(|seen| seen.path.contains(part)).count()
    }

    /// How often a transcription was asked for.
    fn polls(&self) -> usize {
        let seen = self.world.azure.requests();
        seen.iter().filter(|seen| seen.method == "GET" && seen.path.contains("/transcriptions/")).count()
    }

    async fn run(&self) -> Result<Transcript, EngineError> {
        run(&self.engine(), long()).await.map(|(transcript, _)| transcript)
    }

    /// A worker that dies once `ready`: what it knew, and the checkpoint it left.
    async fn killed_worker(&self, ready: impl Fn(&Self) -> bool) -> Result<EngineRequest> {
        let (engine, recorder) = (self.engine(), Arc::new(Recorder::default()));
        let working = engine.transcribe(long(), recorder.clone(), CancellationToken::new());
        let dying = until(|| ready(self) && recorder.checkpoint().is_some());
        tokio::select! {
            done = working => anyhow::bail!("the batch ended: {:?}", done.map(drop)),
            () = dying => {}
        }
        let resume = Some(recorder.checkpoint().context("no checkpoint")?);
        Ok(EngineRequest { resume, ..long() })
    }
}

fn long() -> EngineRequest {
    let asked = TranscribeOptions { words: true, language: Some(Language::ENGLISH), ..options() };
    request(spoken(3000), asked)
}

fn held() -> BatchRules {
    BatchRules { held: true, ..BatchRules::default() }
}

#[tokio::test]
async fn long_audio_is_fetched_by_azure_and_comes_back_with_exact_times() -> Result<()> {
    let room = Room::new().await;
    let transcript = room.run().await?;
    assert_eq!(transcript.text(), "w0007 w2345");
    let words: Vec<_> = transcript.words().map(|word| (word.start_ms, word.end_ms)).collect();
    assert_eq!(words, [(500, 700), (1200, 1400)]);
    assert_eq!(room.seen(":transcribe"), 0);
    let seen = room.world.azure.requests();
    let mut body = seen.iter().find_map(|seen| seen.definition.clone()).context("no body")?;
    let url = body["contentUrls"][0].take();
    assert!(url.as_str().is_some_and(|url| url.contains("/audio/01JD")), "{url}");
    assert_eq!(
        body,
        json!({
            "contentUrls": [null],
            "locale": "en-US",
            "displayName": "verbatim work_01JD0000000000000000000000",
            "properties": { "timeToLiveHours": 48, "wordLevelTimestampsEnabled": true },
        }),
        "nothing of the tenant"
    );
    room.world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn short_audio_and_audio_without_a_url_go_to_fast_transcription() -> Result<()> {
    let room = Room::new().await;
    run(&room.engine(), request(spoken(2000), options())).await?;
    let folder = room.world.engine_with(room.config(), Some(Arc::new(NoUrls(room.bucket.clone()))));
    run(&folder, long()).await?;
    run(&room.engine(), EngineRequest { job: None, ..long() }).await?;
    assert_eq!((room.seen(":transcribe"), room.seen(SUBMIT)), (3, 0));
    assert_eq!(folder.capabilities().max_duration, None);
    assert!(room.world.engine_with(room.config(), None).capabilities().max_duration.is_some());
    room.world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn without_a_language_azure_chooses_among_candidates() -> Result<()> {
    let room = Room::new().await;
    let candidate_locales = vec!["de-DE".to_owned(), "en-GB".to_owned()];
    let blobs = room.bucket.clone();
    let engine = room.world.engine_with(AzureConfig { candidate_locales, ..room.config() }, Some(blobs));
    let asked = TranscribeOptions { diarize: true, ..options() };
    let (transcript, _) = run(&engine, request(spoken(3000), asked.clone())).await?;
    assert_eq!(transcript.segments[0].speaker.as_deref(), Some("speaker 1"));
    assert_eq!(transcript.language.code(), "de");
    run(&room.engine(), request(spoken(3000), asked)).await?;
    let seen = room.world.azure.requests();
    let asked: Vec<_> = seen.iter().filter_map(|seen| seen.definition.clone()).collect();
    let candidates = |body: &serde_json::Value| body["properties"]["languageIdentification"].clone();
    assert_eq!(candidates(&asked[0]), json!({ "candidateLocales": ["de-DE", "en-GB"] }));
    assert_eq!(candidates(&asked[1])["candidateLocales"].as_array().map(Vec::len), Some(10));
    room.world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn the_operation_is_checkpointed_before_it_is_polled() -> Result<()> {
    let room = Room::new().await;
    room.world.azure.misbehave_at("/transcriptions/", Fault::Status(403, "Forbidden"), Times::UntilHealed);
    let recorder = Arc::new(Recorder::default());
    let failed = room.engine().transcribe(long(), recorder.clone(), CancellationToken::new()).await;
    assert_eq!(failed.map(drop).map_err(|error| error.kind), Err(FailureKind::EngineUnavailable));
    assert_eq!(room.polls(), 1);
    let checkpoint = recorder.checkpoint().context("no checkpoint")?;
    assert_eq!(checkpoint.revision, "azure-batch/2024-11-15/westus");
    assert!(
        checkpoint.state["operation"]
            .as_str()
            .is_some_and(|url| url.contains("/speechtotext/transcriptions/"))
    );
    Ok(())
}

/// The issue: killing the worker during a batch job, the next worker polls the same operation.
#[tokio::test]
async fn the_next_worker_polls_the_operation_of_one_that_was_killed() -> Result<()> {
    let room = Room::new().await;
    room.world.azure.batches_go(held());
    let resumed = room.killed_worker(|room| room.polls() >= 2).await?;
    room.world.azure.batches_go(BatchRules::default());
    let (transcript, _) = run(&room.engine(), resumed).await?;
    assert_eq!(transcript.text(), "w0007 w2345");
    assert_eq!((room.seen(SUBMIT), room.world.azure.batches()), (1, 1));
    println!("submitted {} time(s), polled {} times by two workers", room.seen(SUBMIT), room.polls());
    room.world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn what_azure_has_forgotten_is_submitted_anew() -> Result<()> {
    let room = Room::new().await;
    room.world.azure.batches_go(held());
    let resumed = room.killed_worker(|room| room.polls() >= 1).await?;
    room.world.azure.batches_go(BatchRules::default());
    room.world.azure.forget_batches();
    let (transcript, recorder) = run(&room.engine(), resumed.clone()).await?;
    assert_eq!(transcript.text(), "w0007 w2345");
    assert_eq!(room.seen(SUBMIT), 2);
    assert_ne!(recorder.checkpoint(), resumed.resume, "the new operation is checkpointed");
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_of_somebody_else_is_no_operation() -> Result<()> {
    let room = Room::new().await;
    room.world.azure.batches_go(held());
    let resumed = room.killed_worker(|room| room.polls() >= 1).await?;
    room.world.azure.batches_go(BatchRules::default());
    let mut foreign = resumed.resume.clone().context("no checkpoint")?;
    foreign.revision = "azure-batch/2024-11-15/eastus".to_owned();
    run(&room.engine(), EngineRequest { resume: Some(foreign), ..resumed }).await?;
    assert_eq!(room.seen(SUBMIT), 2);
    Ok(())
}

#[tokio::test]
async fn polling_survives_what_passes() -> Result<()> {
    let room = Room::new().await;
    for fault in [
        Fault::Status(404, "NotFound"),
        Fault::Status(404, "NotFound"),
        Fault::Status(500, "InternalServerError"),
        Fault::Status(503, "ServiceUnavailable"),
        Fault::Throttle { retry_after: Some(Duration::ZERO) },
        Fault::Throttle { retry_after: None },
        Fault::Reset,
        Fault::TruncatedJson,
        Fault::WrongContentType,
        Fault::ExpiredToken,
    ] {
        room.world.azure.misbehave_at("/transcriptions/", fault, Times::Next(1));
    }
    room.world.azure.misbehave_at("/results/", Fault::Status(503, "ServerBusy"), Times::Next(1));
    assert_eq!(room.run().await?.text(), "w0007 w2345");
    assert_eq!(room.seen(SUBMIT), 1);
    assert_eq!(room.world.azure.tokens().len(), 2, "a token that was refused while polling is renewed");
    room.world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn polling_does_not_go_on_for_ever() {
    let room = Room::new().await;
    room.world.azure.misbehave_at(
        "/transcriptions/",
        Fault::Status(500, "InternalServerError"),
        Times::UntilHealed,
    );
    let failed = room.run().await.map(drop);
    assert_eq!(failed.map_err(|error| error.kind), Err(FailureKind::EngineFailed));
    assert_eq!(room.polls(), 21);

    let room = Room::new().await;
    room.world.azure.batches_go(held());
    let timeouts = AzureTimeouts {
        batch_base: Duration::from_millis(300),
        batch_per_audio: 0.0,
        ..room.config().timeouts
    };
    let config = AzureConfig { timeouts, ..room.config() };
    let engine = room.world.engine_with(config, Some(room.bucket.clone()));
    let failed = run(&engine, long()).await.map(drop);
    assert_eq!(failed.map_err(|error| error.kind), Err(FailureKind::TimedOut));
    assert_eq!(room.world.azure.batches(), 1, "the next attempt goes on with it");
}

#[tokio::test]
async fn a_batch_that_fails_says_why() {
    for (code, kind) in [
        ("InvalidData", FailureKind::BadAudio),
        ("InvalidAudioFormat", FailureKind::BadAudio),
        ("UnsupportedMediaType", FailureKind::UnsupportedMedia),
        ("InvalidLocale", FailureKind::UnsupportedOption),
        ("InvalidUri", FailureKind::EngineFailed),
        ("InternalServerError", FailureKind::EngineFailed),
        ("ServiceUnavailable", FailureKind::EngineFailed),
        ("TooManyRequests", FailureKind::EngineFailed),
    ] {
        let room = Room::new().await;
        let failure = Some((code, "as the test asked"));
        room.world.azure.batches_go(BatchRules { failure, ..BatchRules::default() });
        let failed = room.run().await.map(drop);
        assert_eq!(failed.map_err(|error| error.kind), Err(kind), "{code}");
    }
}

#[tokio::test]
async fn after_a_batch_that_failed_the_next_attempt_submits_anew() -> Result<()> {
    for (code, submissions) in [("TooManyRequests", 2), ("InvalidUri", 2), ("InvalidData", 1)] {
        let room = Room::new().await;
        room.world.azure.batches_go(held());
        let resumed = room.killed_worker(|room| room.polls() >= 1).await?;
        let failure = Some((code, "as the test asked"));
        room.world.azure.batches_go(BatchRules { failure, ..BatchRules::default() });
        let failed = run(&room.engine(), resumed).await;
        assert!(failed.is_err(), "{code}: whatever is submitted fails");
        assert_eq!(room.seen(SUBMIT), submissions, "{code}");
    }
    Ok(())
}

#[tokio::test]
async fn a_submission_that_is_refused_is_not_polled() {
    for (fault, kind) in [
        (Fault::Throttle { retry_after: None }, FailureKind::Throttled),
        (Fault::Status(503, "ServiceUnavailable"), FailureKind::EngineUnavailable),
        (Fault::Status(400, "InvalidLocale"), FailureKind::UnsupportedOption),
        (Fault::Reset, FailureKind::EngineUnavailable),
    ] {
        let room = Room::new().await;
        room.world.azure.misbehave_at(SUBMIT, fault.clone(), Times::UntilHealed);
        let failed = room.run().await.map(drop);
        assert_eq!(failed.map_err(|error| error.kind), Err(kind), "{fault:?}");
        assert_eq!((room.polls(), room.seen(SUBMIT)), (0, 1), "{fault:?}");
    }
}

#[tokio::test]
async fn cancelling_removes_the_operation_only_when_nobody_wants_the_job() {
    for abandoned in [true, false] {
        let room = Room::new().await;
        room.world.azure.batches_go(held());
        let (engine, cancel) = (room.engine(), CancellationToken::new());
        let recorder = Arc::new(Recorder::default());
        recorder.abandoned.store(abandoned, Ordering::Relaxed);
        let working = engine.transcribe(long(), recorder, cancel.clone());
        let cancelling = async {
            until(|| room.polls() > 0).await;
            cancel.cancel();
        };
        let (done, ()) = tokio::join!(working, cancelling);
        assert_eq!(done.map(drop).map_err(|error| error.kind), Err(FailureKind::Cancelled));
        assert_eq!(room.world.azure.batches(), usize::from(!abandoned));
    }
}

#[tokio::test]
async fn an_operation_from_whose_checkpoint_nobody_goes_on_is_removed() -> Result<()> {
    let room = Room::new().await;
    room.world.azure.batches_go(held());
    let left = room.killed_worker(|room| room.polls() > 0).await?;
    let checkpoint = left.resume.context("a checkpoint")?;
    let elsewhere = Checkpoint { revision: "azure-batch/1/elsewhere".to_owned(), ..checkpoint.clone() };
    room.engine().abandon(elsewhere).await;
    assert_eq!(room.world.azure.batches(), 1, "another region's is none of its business");
    room.engine().abandon(checkpoint.clone()).await;
    assert_eq!(room.world.azure.batches(), 0);
    // Again, when it is gone.
    room.engine().abandon(checkpoint).await;
    room.world.assert_no_violations();
    Ok(())
}

#[tokio::test]
async fn many_batches_at_once_do_not_mix() -> Result<()> {
    let room = Room::new().await;
    let engine = room.engine();
    for done in join_all((0..10).map(|_| run(&engine, long()))).await {
        assert_eq!(done?.0.text(), "w0007 w2345");
    }
    assert_eq!(room.world.azure.batches(), 10);
    room.world.assert_no_violations();
    Ok(())
}
