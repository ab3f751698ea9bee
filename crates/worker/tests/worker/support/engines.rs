//! Engines that misbehave or wait as the test says.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::PATIENCE;
use verbatim_core::CancellationToken;
use verbatim_core::class::Abilities;
use verbatim_core::failure::FailureKind;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::{
    Capabilities, Checkpoint, EngineError, EngineObserver, EngineRequest, SpeechEngine,
};
use verbatim_core::transcript::{Segment, Transcript};
use verbatim_engines::FakeEngine;

/// Wraps the fake engine: work on jobs whose prompt asks for it panics, hangs or waits.
#[derive(Clone, Default)]
pub(crate) struct OddEngine {
    gate: Arc<watch::Sender<Gate>>,
}

/// Who is at the gate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate {
    pub(crate) open: bool,
    /// Jobs that came to the gate.
    pub(crate) arrived: u32,
    /// Jobs that were told to stop there.
    pub(crate) cancelled: u32,
    /// Jobs of which it was said that their work begins.
    pub(crate) begun: u32,
    /// Whether the engine never says what it can do.
    pub(crate) mute: bool,
    /// How often it was asked what it can do.
    pub(crate) asked: u32,
}

/// Panics.
pub(crate) const PANIC: &str = "panic";
/// Never ends, whatever it is told.
pub(crate) const HANG: &str = "hang";
/// Ends when the gate is open, or when it is told to stop.
pub(crate) const WAIT: &str = "wait";
/// As [`WAIT`], and says before that it has begun.
pub(crate) const BEGIN: &str = "begin";
/// Has room after [`LATE_BY`], and needs that time again.
pub(crate) const LATE: &str = "late";
/// See [`LATE`].
pub(crate) const LATE_BY: Duration = Duration::from_secs(99);
/// Only other workers can do it.
pub(crate) const ELSEWHERE: &str = "elsewhere";
/// Reports nothing as it goes.
pub(crate) const QUIET: &str = "quiet";
/// Fails at once when all is done.
pub(crate) const SPOIL: &str = "spoil";
/// Takes over from another engine, which has heard two segments where there is one.
pub(crate) const TAKE_OVER: &str = "take over";
/// Says that it was cancelled, which it was not.
pub(crate) const LIE: &str = "lie";

/// Hears nothing.
struct Nobody;

impl EngineObserver for Nobody {
    fn window_done(&self, _: u64, _: &[Segment]) {}

    fn checkpoint(&self, _: Checkpoint) {}
}

impl OddEngine {
    pub(crate) fn mute() -> Self {
        let engine = Self::default();
        engine.gate.send_modify(|gate| gate.mute = true);
        engine
    }

    pub(crate) fn open(&self) {
        self.gate.send_modify(|gate| gate.open = true);
    }

    pub(crate) async fn until(&self, such: impl FnMut(&Gate) -> bool) -> Gate {
        let mut gate = self.gate.subscribe();
        let waited = tokio::time::timeout(PATIENCE, gate.wait_for(such)).await;
        waited.expect("it comes to this").expect("the engine lives").clone()
    }
}

#[async_trait]
impl SpeechEngine for OddEngine {
    fn name(&self) -> &str {
        "odd"
    }

    fn capabilities(&self) -> Capabilities {
        FakeEngine::new(0.0).capabilities()
    }

    fn check(&self, options: &TranscribeOptions) -> Result<(), EngineError> {
        match options.prompt.as_deref() {
            Some(ELSEWHERE) => Err(EngineError::new(FailureKind::EngineUnavailable, "not here")),
            _ => Ok(()),
        }
    }

    async fn abilities(&self) -> Abilities {
        self.gate.send_modify(|gate| gate.asked += 1);
        if self.gate.borrow().mute {
            std::future::pending::<()>().await;
        }
        Abilities::all()
    }

    async fn transcribe(
        &self,
        request: EngineRequest,
        observer: Arc<dyn EngineObserver>,
        cancel: CancellationToken,
    ) -> Result<Transcript, EngineError> {
        self.gate.send_modify(|gate| gate.arrived += 1);
        match request.options.prompt.as_deref() {
            Some(PANIC) => panic!("the engine was asked to panic"),
            Some(HANG) => {
                observer.begun(Duration::ZERO);
                std::future::pending().await
            }
            Some(LIE) => return Err(EngineError::new(FailureKind::Cancelled, "cancelled")),
            Some(LATE) => {
                tokio::time::sleep(LATE_BY).await;
                observer.begun(Duration::ZERO);
                tokio::time::sleep(LATE_BY).await;
            }
            Some(how @ (WAIT | BEGIN)) => tokio::select! {
                () = cancel.cancelled() => {
                    self.gate.send_modify(|gate| gate.cancelled += 1);
                    return Err(EngineError::new(FailureKind::Cancelled, "cancelled"));
                }
                _ = async {
                    if how == BEGIN {
                        observer.begun(Duration::ZERO);
                        self.gate.send_modify(|gate| gate.begun += 1);
                    }
                    self.until(|gate| gate.open).await
                } => {}
            },
            Some(SPOIL) => {
                FakeEngine::new(0.0).transcribe(request, observer, cancel).await?;
                return Err(EngineError::new(FailureKind::EngineFailed, "spoilt in the end"));
            }
            Some(TAKE_OVER) => {
                let half = |index: u32| Segment {
                    index,
                    start_ms: u64::from(index) * 5_000,
                    end_ms: u64::from(index + 1) * 5_000,
                    text: " half of it".to_owned(),
                    words: Vec::new(),
                    speaker: None,
                    decoding: None,
                };
                observer.window_done(10_000, &[half(0), half(1)]);
                observer.begun_anew();
            }
            Some(QUIET) => return FakeEngine::new(0.0).transcribe(request, Arc::new(Nobody), cancel).await,
            _ => {}
        }
        FakeEngine::new(0.0).transcribe(request, observer, cancel).await
    }
}
