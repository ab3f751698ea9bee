//! Whose turn it is to decode: a permit is given up between two packets when others wait, and what was decoded stays.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use verbatim_admission::Permit;
use verbatim_audio::{Pace, ProcessorClock};
use verbatim_core::CancellationToken;

use super::PipelineObserver;
use crate::stages::Stages;

/// Processor time that a decoder has to itself before it makes way for others.
const TURN: Duration = Duration::from_millis(250);

/// The permit of one decoder, which blocks its thread while others have their turn.
pub(super) struct Turn {
    stages: Stages,
    runtime: Handle,
    cancel: CancellationToken,
    clock: Arc<dyn ProcessorClock>,
    observer: Arc<dyn PipelineObserver>,
    state: Mutex<State>,
}

struct State {
    permit: Option<Permit>,
    /// The time of the thread at which this turn began; of the first, once that thread is there.
    began: Option<Duration>,
}

impl Turn {
    /// Begins with `permit`. Made on the runtime, used on a thread that may block.
    pub(super) fn new(
        stages: Stages,
        permit: Permit,
        clock: Arc<dyn ProcessorClock>,
        observer: Arc<dyn PipelineObserver>,
        cancel: CancellationToken,
    ) -> Self {
        let state = Mutex::new(State { permit: Some(permit), began: None });
        Self { stages, runtime: Handle::current(), cancel, clock, observer, state }
    }
}

impl Pace for Turn {
    fn step(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.thread_time();
        let began = *state.began.get_or_insert(now);
        if now.saturating_sub(began) < TURN {
            return;
        }
        state.began = Some(now);
        let Some(permit) = state.permit.take_if(|permit| permit.others_wait()) else { return };
        let holder = permit.holder().clone();
        drop(permit);
        // What was stopped notices that by its token.
        state.permit = self.runtime.block_on(self.stages.decode(&holder, &self.cancel)).ok();
        self.observer.resumed();
    }
}
