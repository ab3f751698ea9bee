//! A speech service with limits of its own, which refuses what exceeds them, and the engine that calls it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use verbatim_core::CancellationToken;
use verbatim_core::failure::FailureKind;
use verbatim_core::language::Language;
use verbatim_core::model::ModelInfo;
use verbatim_core::ports::engine::{
    Capabilities, Checkpoint, EngineError, EngineObserver, EngineRequest, SpeechEngine,
};
use verbatim_core::transcript::{Segment, Transcript};

/// Time of a request on its way, and of a refusal on its way back.
const ON_THE_WAY: Duration = Duration::from_millis(10);

/// What the service allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    pub(crate) at_once: usize,
    /// Requests in any span of this length.
    pub(crate) per: Option<(usize, Duration)>,
    /// What it says with a refusal.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) latency: Duration,
}

impl Allowance {
    /// No limits to speak of.
    pub(crate) fn generous(latency: Duration) -> Self {
        Self { at_once: usize::MAX, per: None, retry_after: None, latency }
    }
}

#[derive(Default)]
struct Books {
    under_way: usize,
    begun: VecDeque<Instant>,
    served: Vec<Instant>,
    refused: usize,
    failures: VecDeque<FailureKind>,
    down: bool,
}

pub(crate) struct Service {
    pub(crate) allowance: Allowance,
    books: Mutex<Books>,
}

impl Service {
    pub(crate) fn new(allowance: Allowance) -> Arc<Self> {
        Arc::new(Self { allowance, books: Mutex::default() })
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// The next calls fail in these ways.
    pub(crate) fn fail_with(&self, kinds: &[FailureKind]) {
        self.lock().failures.extend(kinds);
    }

    pub(crate) fn served(&self) -> Vec<Instant> {
        self.lock().served.clone()
    }

    pub(crate) fn refused(&self) -> usize {
        self.lock().refused
    }

    pub(crate) fn under_way(&self) -> usize {
        self.lock().under_way
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().expect("no panic")
    }

    /// Takes a request in, or refuses it.
    fn enter(self: &Arc<Self>) -> Result<Inside, EngineError> {
        let mut books = self.lock();
        if books.down {
            return Err(EngineError::new(FailureKind::EngineUnavailable, "nobody answers"));
        }
        if let Some(kind) = books.failures.pop_front() {
            return Err(EngineError::new(kind, "as the test wishes"));
        }
        let now = Instant::now();
        let full = books.under_way >= self.allowance.at_once;
        let fast = self.allowance.per.is_some_and(|(most, per)| {
            while books.begun.front().is_some_and(|begun| now.duration_since(*begun) >= per) {
                books.begun.pop_front();
            }
            books.begun.len() >= most
        });
        if full || fast {
            books.refused += 1;
            let mut error = EngineError::new(FailureKind::Throttled, "too many requests");
            error.retry_after = self.allowance.retry_after;
            return Err(error);
        }
        books.begun.push_back(now);
        books.under_way += 1;
        Ok(Inside(Arc::clone(self)))
    }
}

struct Inside(Arc<Service>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
    }
}

/// Calls a service.
pub(crate) struct ServiceEngine {
    pub(crate) kind: &'static str,
    pub(crate) service: Arc<Service>,
    pub(crate) capabilities: Capabilities,
    /// Whether it writes a checkpoint and shows a segment before its call is answered.
    pub(crate) in_pieces: bool,
    /// How many requests a job takes. With more than one it says what each of them is billed for.
    pub(crate) requests: u32,
    /// What the last calls were given to go on from, and with which model.
    pub(crate) calls: Mutex<Vec<(Option<Checkpoint>, String)>>,
    /// Checkpoints from which nobody goes on.
    pub(crate) abandoned: Mutex<Vec<Checkpoint>>,
}

impl ServiceEngine {
    pub(crate) fn new(kind: &'static str, service: Arc<Service>) -> Self {
        let capabilities =
            Capabilities { models: vec![model(kind, "base", true)], concurrency: 4, max_duration: None };
        Self {
            kind,
            service,
            capabilities,
            in_pieces: false,
            requests: 1,
            calls: Mutex::default(),
            abandoned: Mutex::default(),
        }
    }

    fn halfway(&self, duration_ms: u64) -> Checkpoint {
        Checkpoint {
            revision: self.kind.to_owned(),
            position_ms: duration_ms / 2,
            segments: vec![segment(duration_ms / 2)],
            state: serde_json::json!({ "operation": 7 }),
        }
    }

    async fn call(&self, cancel: &CancellationToken) -> Result<(), EngineError> {
        tokio::time::sleep(ON_THE_WAY).await;
        let inside = match self.service.enter() {
            Ok(inside) => inside,
            Err(error) => {
                tokio::time::sleep(ON_THE_WAY).await;
                return Err(error);
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return Err(EngineError::new(FailureKind::Cancelled, "cancelled")),
            () = tokio::time::sleep(self.service.allowance.latency) => {}
        }
        drop(inside);
        self.service.lock().served.push(Instant::now());
        Ok(())
    }

    pub(crate) fn calls(&self) -> Vec<(Option<Checkpoint>, String)> {
        self.calls.lock().expect("no panic").clone()
    }
}

pub(crate) fn model(engine: &str, name: &str, multilingual: bool) -> ModelInfo {
    ModelInfo {
        name: name.to_owned(),
        engine: engine.to_owned(),
        multilingual,
        translates: multilingual,
        diarizes: false,
        revision: String::new(),
    }
}

fn segment(end_ms: u64) -> Segment {
    let (words, speaker, decoding) = (Vec::new(), None, None);
    Segment { index: 0, start_ms: 0, end_ms, text: "words".to_owned(), words, speaker, decoding }
}

#[async_trait]
impl SpeechEngine for ServiceEngine {
    fn name(&self) -> &str {
        self.kind
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    async fn transcribe(
        &self,
        request: EngineRequest,
        observer: Arc<dyn EngineObserver>,
        cancel: CancellationToken,
    ) -> Result<Transcript, EngineError> {
        let duration_ms = request.audio.duration_ms();
        let model = request.options.model;
        self.calls.lock().expect("no panic").push((request.resume, model.clone()));
        if self.in_pieces {
            observer.window_done(duration_ms / 2, &[segment(duration_ms / 2)]);
            observer.checkpoint(self.halfway(duration_ms));
        }
        for number in 0..self.requests {
            if number > 0
                && let Some(pace) = &request.pace
            {
                pace.another_request().await?;
            }
            self.call(&cancel).await?;
            if self.requests > 1 {
                observer.billed(Duration::from_millis(duration_ms) / self.requests);
            }
            if self.in_pieces && self.requests > 1 {
                observer.checkpoint(self.halfway(duration_ms));
            }
        }
        Ok(Transcript {
            task: request.options.task,
            language: Language::ENGLISH,
            language_probability: 1.0,
            duration_ms,
            engine: self.kind.to_owned(),
            model,
            segments: vec![segment(duration_ms)],
        })
    }

    async fn abandon(&self, checkpoint: Checkpoint) {
        self.abandoned.lock().expect("no panic").push(checkpoint);
    }
}
