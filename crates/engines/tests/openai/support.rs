//! An engine at a stand-in, and an observer that remembers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use verbatim_core::CancellationToken;
use verbatim_core::audio::{PcmSource, SAMPLE_RATE};
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::{
    Checkpoint, EngineError, EngineObserver, EngineRequest, Pace, SpeechEngine,
};
use verbatim_core::transcript::{Segment, Transcript};
use verbatim_engines::openai::{OpenAiConfig, OpenAiEngine};
use verbatim_standins::OpenAiStandIn;

pub(crate) const KEY: &str = "openai-stand-in-key";
pub(crate) const WHISPER: &str = "whisper-1";

/// What an engine said while it worked.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) windows: Mutex<Vec<(u64, Vec<Segment>)>>,
    pub(crate) checkpoints: Mutex<Vec<Checkpoint>>,
    /// Length of the audio that is billed.
    pub(crate) billed: Mutex<Duration>,
    /// Stops the work at this many checkpoints.
    pub(crate) stop: Option<(usize, CancellationToken)>,
}

impl EngineObserver for Recorder {
    fn window_done(&self, position_ms: u64, segments: &[Segment]) {
        locked(&self.windows).push((position_ms, segments.to_vec()));
    }

    fn billed(&self, audio: Duration) {
        *locked(&self.billed) += audio;
    }

    fn checkpoint(&self, checkpoint: Checkpoint) {
        let mut checkpoints = locked(&self.checkpoints);
        checkpoints.push(checkpoint);
        if let Some((most, token)) = &self.stop
            && checkpoints.len() == *most
        {
            token.cancel();
        }
    }
}

/// Counts who asks for another request.
#[derive(Default)]
pub(crate) struct Counted(pub(crate) AtomicUsize);

#[async_trait]
impl Pace for Counted {
    async fn another_request(&self) -> Result<(), EngineError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn config(stand_in: &OpenAiStandIn) -> OpenAiConfig {
    OpenAiConfig::at(stand_in.url(), Some(KEY.into()))
}

pub(crate) fn engine(stand_in: &OpenAiStandIn) -> Result<OpenAiEngine> {
    Ok(OpenAiEngine::new(config(stand_in))?)
}

/// A tone of so many milliseconds.
pub(crate) fn tone(ms: u64) -> Arc<dyn PcmSource> {
    let samples = 0..ms * u64::from(SAMPLE_RATE) / 1000;
    Arc::new(samples.map(|at| (at as f32 * 0.2).sin() * 0.3).collect::<Vec<f32>>())
}

pub(crate) fn options() -> TranscribeOptions {
    TranscribeOptions::for_model(WHISPER)
}

/// Two seconds of a tone with these options.
pub(crate) fn request(options: TranscribeOptions) -> EngineRequest {
    EngineRequest::new(tone(2_000), options)
}

pub(crate) async fn transcribe(
    engine: &OpenAiEngine,
    request: EngineRequest,
) -> Result<Transcript, EngineError> {
    engine.transcribe(request, Arc::new(Recorder::default()), CancellationToken::new()).await
}

/// The error that there must be.
pub(crate) async fn failure(engine: &OpenAiEngine, request: EngineRequest) -> EngineError {
    match transcribe(engine, request).await {
        Ok(transcript) => panic!("there is a transcript: {transcript:?}"),
        Err(error) => error,
    }
}
