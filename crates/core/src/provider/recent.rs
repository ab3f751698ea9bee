//! What happened at a provider within the last minute, in steps of ten seconds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

const STEP_MS: i64 = 10_000;
/// Steps that are kept: a minute.
const STEPS: i64 = 6;
/// Steps by which the breaker judges: the present one and the one before.
const JUDGED: i64 = 2;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Recent {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Step {
    number: i64,
    begun: u32,
    ended: u32,
    failed: u32,
}

impl Recent {
    pub(super) fn begun(&mut self, now: Timestamp) {
        self.step(now).begun += 1;
    }

    pub(super) fn ended(&mut self, now: Timestamp, failed: bool) {
        let step = self.step(now);
        step.ended += 1;
        step.failed += u32::from(failed);
    }

    /// A provider that healed is judged by what comes.
    pub(super) fn forget_failures(&mut self) {
        for step in &mut self.steps {
            (step.ended, step.failed) = (0, 0);
        }
    }

    /// Calls begun within the last minute, to the step.
    pub(super) fn begun_last_minute(&self, now: Timestamp) -> u32 {
        self.last(now, STEPS).map(|step| step.begun).sum()
    }

    /// Calls that ended, and those of them that failed, in the last ten to twenty seconds.
    pub(super) fn ended_and_failed(&self, now: Timestamp) -> (u32, u32) {
        self.last(now, JUDGED)
            .fold((0, 0), |(ended, failed), step| (ended + step.ended, failed + step.failed))
    }

    /// The time between two calls' ends, as far as it can be told.
    pub(super) fn time_between_ends(&self, now: Timestamp) -> Option<Duration> {
        let (ended, _) = self.ended_and_failed(now);
        let span = STEP_MS + now.as_millis().rem_euclid(STEP_MS);
        (ended > 0).then(|| Duration::from_millis(span.unsigned_abs() / u64::from(ended)))
    }

    fn last(&self, now: Timestamp, steps: i64) -> impl Iterator<Item = &Step> {
        let current = number(now);
        self.steps.iter().filter(move |step| step.number > current - steps)
    }

    fn step(&mut self, now: Timestamp) -> &mut Step {
        let current = number(now);
        self.steps.retain(|step| step.number > current - STEPS);
        let place = self.steps.iter().position(|step| step.number >= current).unwrap_or_else(|| {
            self.steps.push(Step { number: current, begun: 0, ended: 0, failed: 0 });
            self.steps.len() - 1
        });
        &mut self.steps[place]
    }
}

fn number(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(STEP_MS)
}
