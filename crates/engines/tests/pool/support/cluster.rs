//! Workers of several processes that drain one queue through pools of their own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use verbatim_core::CancellationToken;
use verbatim_core::failure::JobFailure;
use verbatim_core::ids::IdSource;
use verbatim_core::ports::engine::{EngineRequest, SpeechEngine};
use verbatim_core::retry::{NextStep, RetryPolicy, next_step};
use verbatim_engines::pool::ProviderPool;

use super::Notebook;

struct Waiting {
    request: EngineRequest,
    attempt: u32,
    due: Instant,
}

/// A queue that retries as the job store does.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<VecDeque<Waiting>>,
    /// Jobs done, and by which engine.
    pub(crate) done: Mutex<Vec<(Instant, String)>>,
    /// Jobs that will not be tried again.
    pub(crate) failed: Mutex<Vec<JobFailure>>,
    /// Attempts that were given back unblamed.
    pub(crate) refunded: Mutex<usize>,
}

impl Queue {
    pub(crate) fn submit(&self, request: EngineRequest) {
        let waiting = Waiting { request, attempt: 1, due: Instant::now() };
        self.waiting.lock().expect("no panic").push_back(waiting);
    }

    pub(crate) fn ended(&self) -> usize {
        self.done.lock().expect("no panic").len() + self.failed.lock().expect("no panic").len()
    }

    fn claim(&self) -> Option<Waiting> {
        let mut waiting = self.waiting.lock().expect("no panic");
        let now = Instant::now();
        let place = waiting.iter().position(|job| job.due <= now)?;
        waiting.remove(place)
    }

    fn fail(&self, job: Waiting, failure: JobFailure, fraction: f64) {
        let Waiting { request, attempt, .. } = job;
        match next_step(&RetryPolicy::default(), attempt, &failure, fraction) {
            NextStep::GiveUp => self.failed.lock().expect("no panic").push(failure),
            NextStep::Retry { delay, refund } => {
                if refund {
                    *self.refunded.lock().expect("no panic") += 1;
                }
                let attempt = if refund { attempt } else { attempt + 1 };
                let waiting = Waiting { request, attempt, due: Instant::now() + delay };
                self.waiting.lock().expect("no panic").push_back(waiting);
            }
        }
    }
}

/// A worker with as many jobs at once as its pool can use. Ends when `total` jobs have ended.
pub(crate) async fn work(pool: Arc<ProviderPool>, queue: Arc<Queue>, ids: Arc<dyn IdSource>, total: usize) {
    let mut slots = JoinSet::new();
    for _ in 0..pool.capabilities().concurrency {
        let (pool, queue, ids) = (Arc::clone(&pool), Arc::clone(&queue), Arc::clone(&ids));
        slots.spawn(async move {
            while queue.ended() < total {
                let Some(job) = queue.claim() else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let (request, cancel) = (job.request.clone(), CancellationToken::new());
                match pool.transcribe(request, Arc::new(Notebook::default()), cancel).await {
                    Ok(transcript) => {
                        let done = (Instant::now(), transcript.engine);
                        queue.done.lock().expect("no panic").push(done);
                    }
                    Err(error) => queue.fail(job, JobFailure::from(&error), ids.fraction()),
                }
            }
        });
    }
    slots.join_all().await;
}
