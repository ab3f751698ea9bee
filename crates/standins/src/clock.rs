//! A clock that tests move.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use verbatim_core::time::{Clock, Timestamp};

/// 2026-01-01T00:00:00Z.
const BEGINNING: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// Runs `scale` times as fast as real time and jumps when told. Starts on 2026-01-01.
#[derive(Debug)]
pub struct StandInClock {
    started: Instant,
    scale: f64,
    jumped: Mutex<Duration>,
}

impl StandInClock {
    /// A clock that runs `scale` times as fast as real time; 0 moves only when told.
    pub fn new(scale: f64) -> Self {
        Self { started: Instant::now(), scale, jumped: Mutex::default() }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        *crate::desk::lock(&self.jumped) += by;
    }
}

impl Clock for StandInClock {
    fn now(&self) -> Timestamp {
        let jumped = *crate::desk::lock(&self.jumped);
        BEGINNING.plus(self.started.elapsed().mul_f64(self.scale) + jumped)
    }
}
