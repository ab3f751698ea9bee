//! What happens to a job after a failed attempt: one pure function for every store.

use std::time::Duration;

use crate::failure::{FailureKind, JobFailure};

/// How often and how fast a job is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts before the job is a dead letter.
    pub max_attempts: u32,
    /// Crashes of workers, while they held only this job, before it is a dead letter.
    pub max_crashes: u32,
    /// The first delay is drawn from zero to this; the range doubles with every attempt.
    pub base_delay: Duration,
    /// The widest range.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            max_crashes: 3,
            base_delay: Duration::from_secs(2),
            max_delay: Duration::from_secs(300),
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Queue the job again after `delay`; `refund` says whether this attempt does not count.
    Retry {
        /// How long it waits.
        delay: Duration,
        /// Whether the attempt is given back.
        refund: bool,
    },
    /// The job is a dead letter.
    GiveUp,
}

/// The step after attempt number `attempt` (from 1) failed. `fraction` in `[0, 1)` is the jitter: delays are
/// exponential with full jitter (Brooker, "Exponential Backoff And Jitter", 2015), or the provider's own wish where that
/// is longer.
pub fn next_step(policy: &RetryPolicy, attempt: u32, failure: &JobFailure, fraction: f64) -> NextStep {
    if !failure.kind.is_retryable() {
        return NextStep::GiveUp;
    }
    // Neither a provider's limits and outages nor a full or unreachable store are the job's fault; its greatest age
    // ends it.
    let refund = matches!(
        failure.kind,
        FailureKind::Throttled | FailureKind::EngineUnavailable | FailureKind::StorageUnavailable
    );
    if attempt >= policy.max_attempts && !refund {
        return NextStep::GiveUp;
    }
    let doublings = attempt.saturating_sub(1).min(20);
    let range = policy.base_delay.saturating_mul(1 << doublings).min(policy.max_delay);
    let delay = range.mul_f64(fraction.clamp(0.0, 1.0)).max(failure.retry_after.unwrap_or_default());
    NextStep::Retry { delay, refund }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(attempt: u32, kind: FailureKind) -> NextStep {
        next_step(&RetryPolicy::default(), attempt, &JobFailure::new(kind, "x"), 0.5)
    }

    #[test]
    fn the_delay_doubles_and_is_capped() {
        let delays: Vec<_> = (1..5)
            .map(|attempt| match after(attempt, FailureKind::EngineFailed) {
                NextStep::Retry { delay, refund: false } => delay.as_secs(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(delays, [1, 2, 4, 8]);
        let patient = RetryPolicy { max_attempts: 99, ..RetryPolicy::default() };
        let late = next_step(&patient, 60, &JobFailure::new(FailureKind::TimedOut, "x"), 1.0);
        assert_eq!(late, NextStep::Retry { delay: Duration::from_secs(300), refund: false });
    }

    #[test]
    fn attempts_run_out_unless_the_job_is_not_to_blame() {
        assert_eq!(after(5, FailureKind::EngineFailed), NextStep::GiveUp);
        for kind in [FailureKind::Throttled, FailureKind::EngineUnavailable, FailureKind::StorageUnavailable]
        {
            assert!(matches!(after(5, kind), NextStep::Retry { refund: true, .. }));
        }
    }

    #[test]
    fn what_cannot_end_differently_is_not_tried_again() {
        assert_eq!(after(1, FailureKind::BadAudio), NextStep::GiveUp);
    }

    #[test]
    fn a_provider_that_asks_for_more_time_gets_it() {
        let mut failure = JobFailure::new(FailureKind::Throttled, "x");
        failure.retry_after = Some(Duration::from_secs(40));
        let step = next_step(&RetryPolicy::default(), 1, &failure, 0.1);
        assert_eq!(step, NextStep::Retry { delay: Duration::from_secs(40), refund: true });
    }
}
