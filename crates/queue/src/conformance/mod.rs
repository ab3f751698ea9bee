//! The suite that every job store must pass: the invariants of DESIGN.md, one named check each or several, on a
//! virtual clock. An adapter implements [`Harness`] in its tests and calls [`conformance_suite!`](crate::conformance_suite).
//!
//! What DESIGN.md numbers: (1) each job in one index, counters true; (2) no submission lost or invented; (3) fences rise,
//! stale ones change nothing, one completion at most; (4) attempts and crashes are capped, every job ends; (5) one live
//! job per dedupe key; (6) cancelling one submission never ends another's job; (8) no tier starves; (9) jobs claimed
//! together share a class; (10) event streams show the end; (11) repeating a call is harmless. Fairness between tenants
//! and caps (7) have no check yet.

pub mod cancellation;
pub mod claims;
pub mod crashes;
pub mod dedupe;
pub mod events;
pub mod leases;
pub mod model;
pub mod repeats;
pub mod retries;
pub mod upkeep;
mod virtual_world;

use std::sync::Arc;

use async_trait::async_trait;
use verbatim_core::PortError;
use verbatim_core::ids::IdSource;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::{JobAdmin, JobClient, JobLeases, JobUpkeep};
use verbatim_core::time::Clock;

pub use virtual_world::{SeededIds, VirtualClock, World};

/// What a store did that it must not do, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Violation(String);

impl Violation {
    /// A violation told by `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl From<PortError> for Violation {
    fn from(error: PortError) -> Self {
        Self(format!("unexpected error ({:?}): {error}", error.kind()))
    }
}

/// What a check finds.
pub type Verdict<T = ()> = Result<T, Violation>;

/// What an adapter brings to its tests.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The store under test.
    type Store: JobClient + JobLeases + JobAdmin + JobUpkeep + 'static;

    /// An empty store of its own, which takes time and jitter from nowhere else.
    ///
    /// # Errors
    /// Whatever keeps the store from opening.
    async fn fresh(
        &self,
        policy: StorePolicy,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
    ) -> Result<Self::Store, PortError>;

    /// Looks behind the ports: every job in exactly the index that its state names, counters equal to real
    /// cardinalities, no dangling reference.
    ///
    /// # Errors
    /// What is inconsistent.
    async fn audit(&self, store: &Self::Store) -> Verdict;
}

/// Fails the check unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Violation::new(format!($($message)+)));
        }
    };
}

/// Fails the check unless both sides are equal.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($message:tt)+) => {
        match (&$left, &$right) {
            (left, right) if left == right => {}
            (left, right) => {
                let what = format!($($message)+);
                return Err($crate::conformance::Violation::new(format!("{what}: got {left:?}, expected {right:?}")));
            }
        }
    };
}

pub(crate) use {ensure, ensure_eq};

/// Makes one `#[tokio::test]` of each check. The argument is an expression that makes a fresh [`Harness`].
#[macro_export]
macro_rules! conformance_suite {
    ($harness:expr) => {
        $crate::conformance_suite! { @tests $harness;
            cancellation: a_cancelled_submission_leaves_the_others_alone,
            cancellation: a_queued_job_goes_with_its_last_submission,
            cancellation: a_running_job_is_asked_to_stop_and_publishes_nothing,
            cancellation: a_lapsed_lease_ends_a_job_that_was_to_be_cancelled,
            cancellation: new_work_is_not_attached_to_a_job_that_is_being_cancelled,
            cancellation: one_tenant_cannot_touch_anothers_submission,
            cancellation: deleting_the_last_ended_submission_takes_audio_and_result,
            claims: tiers_share_by_weight_and_none_starves,
            claims: within_a_tier_the_first_is_served_first,
            claims: attaching_raises_the_tier,
            claims: the_place_in_the_queue_counts_those_ahead,
            claims: no_job_is_claimed_twice_at_once,
            crashes: crashing_alone_runs_out_into_a_dead_letter,
            crashes: innocents_are_not_blamed_for_a_crash_beside_them,
            crashes: innocents_are_not_blamed_when_leases_lapse_one_after_the_other,
            crashes: a_suspect_runs_alone,
            crashes: a_suspect_is_not_starved_by_busy_workers,
            dedupe: identical_work_submitted_at_once_is_done_once,
            dedupe: different_work_is_done_separately,
            dedupe: a_finished_result_answers_until_its_time_is_over,
            dedupe: failed_and_cancelled_jobs_answer_nobody,
            events: a_watcher_sees_the_whole_story_in_order,
            events: a_waiting_watcher_is_woken_by_each_event,
            events: a_late_watcher_sees_what_counts_and_the_end,
            events: a_stream_resumes_without_gap_or_repetition,
            events: a_retried_job_starts_its_story_over,
            events: a_cancelled_submission_sees_its_own_end,
            events: an_attached_and_a_cached_submission_see_the_end,
            leases: fences_only_rise_and_stale_ones_change_nothing,
            leases: only_one_completion_is_ever_published,
            leases: renewed_leases_live_and_others_lapse,
            leases: the_next_worker_gets_the_checkpoint,
            leases: the_failure_of_one_job_touches_no_other_of_its_claim,
            repeats: submitting_a_ticket_again_changes_nothing,
            repeats: an_idempotency_key_replays_its_answer_for_a_day,
            repeats: a_claim_repeated_returns_the_same_leases,
            repeats: finishing_again_returns_the_same_answer,
            repeats: reporting_again_adds_nothing,
            repeats: cancelling_and_confirming_again_changes_nothing,
            retries: attempts_run_out_into_a_dead_letter,
            retries: a_permanent_failure_is_not_tried_again,
            retries: throttling_refunds_the_attempt_until_the_job_is_too_old,
            retries: a_released_job_is_next_and_lost_no_attempt,
            retries: a_job_at_its_greatest_age_ends_whatever_it_does,
            retries: a_deadline_ends_its_own_submission_only,
            upkeep: counters_equal_what_there_is,
            upkeep: every_submission_is_somewhere_until_it_expires,
            upkeep: pages_list_everything_newest_first,
            upkeep: audio_and_results_become_garbage_when_nobody_needs_them,
            upkeep: a_cached_answer_keeps_its_result_as_long_as_any_other,
            upkeep: a_full_queue_throttles_new_work_only,
            upkeep: workers_are_counted_while_they_are_heard_of,
        }
    };
    (@tests $harness:expr; $($group:ident : $check:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $check() -> Result<(), $crate::conformance::Violation> {
                $crate::conformance::$group::$check(&$harness).await
            }
        )*
    };
}
