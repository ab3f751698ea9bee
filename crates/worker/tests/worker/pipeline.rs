//! The pipeline without a queue, as `verbatim transcribe FILE` uses it.

use std::sync::{Arc, Mutex};

use crate::support::{World, noise_wav, wav};
use anyhow::Result;
use verbatim_core::CancellationToken;
use verbatim_core::audio::{Damage, Findings, NoWords};
use verbatim_core::event::Stage;
use verbatim_core::failure::FailureKind;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::{Checkpoint, EngineObserver};
use verbatim_core::transcript::Segment;
use verbatim_engines::FakeEngine;
use verbatim_worker_lib::{Heard, PipelineObserver};

#[derive(Default)]
struct Recorder {
    stages: Mutex<Vec<Stage>>,
    duration_ms: Mutex<Option<u64>>,
}

impl EngineObserver for Recorder {
    fn window_done(&self, _: u64, _: &[Segment]) {}

    fn checkpoint(&self, _: Checkpoint) {}
}

impl PipelineObserver for Recorder {
    fn stage(&self, stage: Stage) {
        self.stages.lock().expect("nobody panicked").push(stage);
    }

    fn decoded(&self, duration_ms: u64) {
        *self.duration_ms.lock().expect("nobody panicked") = Some(duration_ms);
    }
}

fn options(vad: bool) -> TranscribeOptions {
    TranscribeOptions { vad, ..TranscribeOptions::for_model("fake") }
}

#[tokio::test]
async fn a_file_is_transcribed_without_a_queue() -> Result<()> {
    let world = World::new()?;
    let file = world.dir.path().join("speech.wav");
    std::fs::write(&file, noise_wav(25))?;
    let recorder = Arc::new(Recorder::default());
    let Heard { transcript, findings } = world
        .pipeline(FakeEngine::new(0.0))?
        .transcribe_file(&file, options(false), recorder.clone(), CancellationToken::new())
        .await
        .map_err(|failure| anyhow::anyhow!(failure.message))?;
    assert_eq!((transcript.segments.len(), transcript.duration_ms), (3, 25_000));
    assert_eq!(findings, Findings::default());
    assert_eq!(*recorder.stages.lock().expect("nobody panicked"), [Stage::Decoding, Stage::Transcribing]);
    assert_eq!(*recorder.duration_ms.lock().expect("nobody panicked"), Some(25_000));
    Ok(())
}

#[tokio::test]
async fn silence_is_an_empty_transcript_when_speech_is_looked_for() -> Result<()> {
    let world = World::new()?;
    let file = world.dir.path().join("silence.wav");
    std::fs::write(&file, wav(std::iter::repeat_n(0, 16_000 * 12)))?;
    let pipeline = world.pipeline(FakeEngine::new(0.0))?;
    for (vad, segments, no_words) in [(true, 0, Some(NoWords::Silent)), (false, 2, None)] {
        let recorder = Arc::new(Recorder::default());
        let Heard { transcript, findings } = pipeline
            .transcribe_file(&file, options(vad), recorder, CancellationToken::new())
            .await
            .map_err(|failure| anyhow::anyhow!(failure.message))?;
        assert_eq!((transcript.segments.len(), transcript.duration_ms), (segments, 12_000));
        assert_eq!(findings, Findings { no_words, ..Findings::default() });
    }
    Ok(())
}

#[tokio::test]
async fn sound_without_words_says_why_and_damage_is_told() -> Result<()> {
    let world = World::new()?;
    let file = world.dir.path().join("hum.wav");
    // A hum that never changes is no speech; and the last third of it is missing.
    let hum = wav((0..16_000 * 12).map(|n| ((n as f32 * 0.1).sin() * 9000.0) as i16));
    std::fs::write(&file, &hum[..hum.len() * 2 / 3])?;
    let done = world
        .pipeline(FakeEngine::new(0.0))?
        .transcribe_file(&file, options(true), Arc::new(Recorder::default()), CancellationToken::new())
        .await;
    let Heard { transcript, findings } = done.map_err(|failure| anyhow::anyhow!(failure.message))?;
    assert_eq!(transcript.text(), "");
    let damage = Damage { ended_early: true, ..Damage::default() };
    assert_eq!(findings, Findings { damage, no_words: Some(NoWords::NoSpeech), ..Findings::default() });
    let codes: Vec<_> = findings.warnings().iter().map(|warning| warning.code).collect();
    assert_eq!(codes, ["ended_early", "no_speech_found"]);
    Ok(())
}

#[tokio::test]
async fn what_went_wrong_is_told() -> Result<()> {
    let world = World::new()?;
    let (missing, text) = (world.dir.path().join("no.wav"), world.dir.path().join("text.wav"));
    std::fs::write(&text, "this is not audio")?;
    let pipeline = world.pipeline(FakeEngine::new(0.0))?;
    let run = async |path, cancel| {
        let done =
            pipeline.transcribe_file(path, options(false), Arc::new(Recorder::default()), cancel).await;
        done.expect_err("a failure")
    };
    let failure = run(&missing, CancellationToken::new()).await;
    assert_eq!(failure.kind, FailureKind::AudioMissing);
    assert!(failure.message.contains("no.wav"), "{}", failure.message);
    assert_eq!(run(&text, CancellationToken::new()).await.kind, FailureKind::UnsupportedMedia);

    let good = world.dir.path().join("good.wav");
    std::fs::write(&good, noise_wav(1))?;
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    assert_eq!(run(&good, cancelled).await.kind, FailureKind::Cancelled);
    Ok(())
}
