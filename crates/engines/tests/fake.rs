//! The fake engine is deterministic, takes its time, and does what engines must do.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;
use verbatim_core::CancellationToken;
use verbatim_core::audio::SpeechSpan;
use verbatim_core::failure::FailureKind;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::{Checkpoint, EngineError, EngineObserver, EngineRequest, SpeechEngine};
use verbatim_core::transcript::{Segment, Transcript};
use verbatim_engines::{FakeEngine, FakeFailures};

#[derive(Default)]
struct Recorder {
    windows: Mutex<Vec<(u64, Vec<Segment>)>>,
    checkpoints: Mutex<Vec<Checkpoint>>,
}

impl EngineObserver for Recorder {
    fn window_done(&self, position_ms: u64, segments: &[Segment]) {
        self.windows.lock().expect("nobody panicked").push((position_ms, segments.to_vec()));
    }

    fn checkpoint(&self, checkpoint: Checkpoint) {
        self.checkpoints.lock().expect("nobody panicked").push(checkpoint);
    }
}

/// `secs` seconds of a sawtooth that begins at `phase`.
fn request(secs: usize, phase: usize) -> EngineRequest {
    let samples: Vec<f32> = (0..secs * 16_000).map(|n| ((n * 7 + phase) % 1000) as f32 / 1000.0).collect();
    let options = TranscribeOptions { words: true, ..TranscribeOptions::for_model("fake") };
    EngineRequest::new(Arc::new(samples), options)
}

async fn run(
    engine: &FakeEngine,
    request: EngineRequest,
) -> Result<(Transcript, Arc<Recorder>), EngineError> {
    let recorder = Arc::new(Recorder::default());
    let observer: Arc<dyn EngineObserver> = recorder.clone();
    let transcript = engine.transcribe(request, observer, CancellationToken::new()).await?;
    Ok((transcript, recorder))
}

#[tokio::test(start_paused = true)]
async fn the_same_audio_gives_the_same_words_and_other_audio_others() -> Result<()> {
    let engine = FakeEngine::new(0.0);
    let (first, recorder) = run(&engine, request(25, 0)).await?;
    let (again, _) = run(&engine, request(25, 0)).await?;
    let (other, _) = run(&engine, request(25, 500)).await?;
    assert_eq!(first, again);
    assert_ne!(first.text(), other.text());
    assert_eq!(first.duration_ms, 25_000);
    assert_eq!(
        first.segments.iter().map(|segment| segment.end_ms).collect::<Vec<_>>(),
        [10_000, 20_000, 25_000]
    );
    assert!(first.words().all(|word| word.start_ms < word.end_ms));

    let windows = recorder.windows.lock().expect("nobody panicked").clone();
    assert_eq!(windows.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [10_000, 20_000, 25_000]);
    let reported: Vec<Segment> = windows.into_iter().flat_map(|(_, segments)| segments).collect();
    assert_eq!(reported, first.segments);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn it_takes_its_time() -> Result<()> {
    let begun = Instant::now();
    run(&FakeEngine::new(0.5), request(20, 0)).await?;
    let taken = begun.elapsed();
    assert!((Duration::from_secs(10)..Duration::from_millis(10_100)).contains(&taken), "{taken:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_from_a_checkpoint_and_ends_with_the_same_transcript() -> Result<()> {
    let engine = FakeEngine::new(0.0);
    let (whole, recorder) = run(&engine, request(100, 0)).await?;
    let checkpoint =
        recorder.checkpoints.lock().expect("nobody panicked").first().cloned().context("no checkpoint")?;
    let (resumed, rest) = run(&engine, EngineRequest { resume: Some(checkpoint), ..request(100, 0) }).await?;
    assert_eq!(resumed, whole);
    assert_eq!(rest.windows.lock().expect("nobody panicked").len(), 4);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn it_says_nothing_where_nobody_speaks() -> Result<()> {
    let engine = FakeEngine::new(0.0);
    let silent = EngineRequest { speech: Some(Vec::new()), ..request(25, 0) };
    assert_eq!(run(&engine, silent).await?.0.segments, []);
    let spans = vec![SpeechSpan { start: 170_000, end: 180_000 }];
    let (transcript, _) = run(&engine, EngineRequest { speech: Some(spans), ..request(25, 0) }).await?;
    assert_eq!(transcript.segments.iter().map(|segment| segment.start_ms).collect::<Vec<_>>(), [10_000]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn it_fails_as_often_as_it_is_told_and_stops_when_it_is_cancelled() -> Result<()> {
    let every = NonZeroU64::new(3).context("not zero")?;
    let engine = FakeEngine::new(0.0).with_failures(FakeFailures { every, kind: FailureKind::Throttled });
    let mut kinds = Vec::new();
    for _ in 0..6 {
        kinds.push(run(&engine, request(1, 0)).await.err().map(|error| error.kind));
    }
    let failed = Some(FailureKind::Throttled);
    assert_eq!(kinds, [None, None, failed, None, None, failed]);

    let cancel = CancellationToken::new();
    cancel.cancel();
    let slow = FakeEngine::new(1e6);
    let stopped = slow.transcribe(request(9, 0), Arc::new(Recorder::default()), cancel).await;
    assert_eq!(stopped.err().map(|error| error.kind), Some(FailureKind::Cancelled));
    Ok(())
}
