//! The port's promises: progress, checkpoints, cancellation.

use std::sync::Arc;

use verbatim_core::CancellationToken;
use verbatim_core::failure::FailureKind;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::{EngineRequest, SpeechEngine};
use verbatim_core::transcript::Segment;

use crate::support::{Notes, engine, request, say, silence, transcribe};

fn options() -> TranscribeOptions {
    TranscribeOptions::for_model("tiny.en")
}

/// Three windows with a sentence in each.
fn three_windows() -> anyhow::Result<Vec<f32>> {
    let mut audio = Vec::new();
    for sentence in
        ["The harbour was quiet.", "The road to the city is long.", "The bridge was finished at last."]
    {
        audio.extend(say(sentence)?);
        audio.resize(audio.len().next_multiple_of(30 * 16_000), 0.0);
    }
    Ok(audio)
}

fn segments(notes: &Notes) -> Vec<Segment> {
    notes
        .windows
        .lock()
        .expect("nobody panicked with it")
        .iter()
        .flat_map(|(_, segments)| segments.clone())
        .collect()
}

#[tokio::test]
async fn windows_report_what_they_add() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let notes = Arc::new(Notes::default());
    let request = request(three_windows()?, options());
    let transcript = engine.transcribe(request, notes.clone(), CancellationToken::new()).await?;
    assert_eq!(segments(&notes), transcript.segments);
    let positions: Vec<u64> = notes.windows.lock().unwrap().iter().map(|(position, _)| *position).collect();
    assert!(positions.len() >= 3 && positions.is_sorted(), "{positions:?}");
    assert_eq!(positions.last(), Some(&90_000));
    Ok(())
}

#[tokio::test]
async fn another_worker_goes_on_from_a_checkpoint() -> anyhow::Result<()> {
    let first = engine(&["tiny.en"])?;
    let audio = three_windows()?;
    let notes = Arc::new(Notes::default());
    let whole =
        first.transcribe(request(audio.clone(), options()), notes.clone(), CancellationToken::new()).await?;
    let checkpoint = notes.checkpoints.lock().unwrap()[0].clone();
    assert!(!checkpoint.segments.is_empty() && checkpoint.segments.len() < whole.segments.len());
    // It survives being stored.
    let checkpoint = serde_json::from_str(&serde_json::to_string(&checkpoint)?)?;
    drop(first);

    let second = engine(&["tiny.en"])?;
    let notes = Arc::new(Notes::default());
    let resumed = EngineRequest { resume: Some(checkpoint), ..request(audio.clone(), options()) };
    let transcript = second.transcribe(resumed, notes.clone(), CancellationToken::new()).await?;
    assert_eq!(transcript.text(), whole.text());
    assert_eq!(transcript.segments.len(), whole.segments.len());
    // What was decoded before is not reported again.
    let reported = segments(&notes);
    assert!(
        !reported.is_empty()
            && reported[..] == transcript.segments[transcript.segments.len() - reported.len()..]
    );
    assert!(reported.len() < transcript.segments.len());
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_of_other_work_is_not_believed() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let audio = three_windows()?;
    let notes = Arc::new(Notes::default());
    let whole =
        engine.transcribe(request(audio.clone(), options()), notes.clone(), CancellationToken::new()).await?;
    let checkpoint = notes.checkpoints.lock().unwrap()[1].clone();
    let older =
        verbatim_core::ports::engine::Checkpoint { revision: "whisper/v0".into(), ..checkpoint.clone() };
    let resumed = EngineRequest { resume: Some(older), ..request(audio.clone(), options()) };
    assert_eq!(transcribe(&engine, resumed).await?.segments.len(), whole.segments.len());
    // Made without voice activity, used with: positions mean something else.
    let span = verbatim_core::audio::SpeechSpan { start: 0, end: 60 * 16_000 };
    let resumed =
        EngineRequest { resume: Some(checkpoint), speech: Some(vec![span]), ..request(audio, options()) };
    let notes = Arc::new(Notes::default());
    let transcript = engine.transcribe(resumed, notes.clone(), CancellationToken::new()).await?;
    assert_eq!(segments(&notes), transcript.segments);
    Ok(())
}

#[tokio::test]
async fn cancelling_ends_a_job_at_the_next_window() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let notes = Arc::new(Notes::default());
    let cancel = notes.first_window.clone();
    let error =
        engine.transcribe(request(three_windows()?, options()), notes.clone(), cancel).await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Cancelled);
    assert_eq!(notes.windows.lock().unwrap().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_job_that_waits_for_a_replica_can_be_cancelled() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let (running, waiting) = (CancellationToken::new(), CancellationToken::new());
    let busy = engine.transcribe(request(three_windows()?, options()), Arc::new(Notes::default()), running);
    let waits =
        engine.transcribe(request(silence(1.0), options()), Arc::new(Notes::default()), waiting.clone());
    let cancel = async {
        // Polled last, when the first job has the replica and the second waits for it.
        waiting.cancel();
    };
    let mut busy = Box::pin(busy);
    let mut waits = Box::pin(waits);
    tokio::select! {
        biased;
        _ = &mut busy => anyhow::bail!("the long job ended first"),
        _ = &mut waits => anyhow::bail!("nothing had the replica"),
        () = cancel => {}
    }
    tokio::select! {
        biased;
        result = &mut waits => assert_eq!(result.unwrap_err().kind, FailureKind::Cancelled),
        _ = &mut busy => anyhow::bail!("the long job ended first"),
    }
    busy.await?;
    Ok(())
}

#[tokio::test]
async fn a_job_that_nobody_awaits_gives_its_replica_back() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let notes = Arc::new(Notes::default());
    let job =
        engine.transcribe(request(three_windows()?, options()), notes.clone(), CancellationToken::new());
    tokio::select! {
        biased;
        _ = job => anyhow::bail!("the job ended before its first window did"),
        () = notes.first_window.cancelled() => {}
    }
    transcribe(&engine, request(say("Good morning.")?, options())).await?;
    assert!(notes.windows.lock().unwrap().len() < 3);
    Ok(())
}
