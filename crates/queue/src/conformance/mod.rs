//! The suite that every job store must pass, on a virtual clock: named checks, and a property test against a reference
//! model ([`model`]). An adapter implements [`Harness`] in its tests and calls
//! [`conformance_suite!`](crate::conformance_suite).
//!
//! The checks of each invariant of DESIGN.md are tests in a module of its name, so that `cargo nextest run invariant_7` runs
//! those of the seventh. Besides, each check ends with [`Harness::audit`], which looks for violations of 1, 2 and 5 behind
//! the ports. The model predicts every
//! answer; what the order of service is for is said in [`service`], as a number.
//!
//! | | invariant | checks |
//! |---|---|---|
//! | 1 | each job in one index, counters true | [`upkeep`]: `counters_equal_what_there_is`; the audit of every check |
//! | 2 | no submission lost or invented | [`upkeep`]: `every_submission_is_somewhere_until_it_expires`, `a_cached_answer_…`; [`expiry`]: all |
//! | 3 | fences rise, stale ones change nothing, one completion at most | [`leases`]: `fences_only_rise_…`, `only_one_completion_…`, `renewed_leases_…`; [`dead_letters`]: `a_redriven_dead_letter_starts_afresh` |
//! | 4 | attempts and crashes are capped, every job ends | [`retries`]: all; [`crashes`]: `crashing_alone_…`, `innocents_…`; [`outages`]: all; [`dead_letters`]: `a_redriven_poison_job_…` |
//! | 5 | one live job per dedupe key, none points nowhere | [`dedupe`]: all; [`dead_letters`]: `a_dead_letter_is_not_redriven_…`, `a_discarded_…`; [`expiry`]: all |
//! | 6 | cancelling one submission never ends another's job | [`cancellation`]: all |
//! | 7 | tenants are served equally, caps hold | [`fairness`]: all; [`caps`], [`set_caps`]: all |
//! | 8 | no tier starves, nor any job | [`claims`]: `tiers_share_by_weight_and_none_starves`; [`service`]: all |
//! | 9 | one job's failure touches no other | [`leases`]: `the_failure_of_one_job_…`; [`crashes`]: `an_isolated_…`; [`alone`]: all |
//! | 10 | event streams show the end | [`events`], [`resuming`]: all; [`dead_letters`]: `a_redriven_job_tells_its_story_anew` |
//! | 11 | repeating a call is harmless | [`repeats`]: all; [`dead_letters`]: `redriving_and_discarding_again_…` |
//!
//! What the ports promise beyond the invariants is in a module called `promises`; what providers share is in modules of
//! the ports' names: [`shared_state`], [`ledger`] and [`limiter`].

pub mod abilities;
pub mod alone;
pub mod cancellation;
pub mod caps;
pub mod checkpoints;
pub mod claims;
pub mod crashes;
pub mod dead_letters;
pub mod dedupe;
pub mod directory;
pub mod events;
pub mod expiry;
pub mod fairness;
pub mod garbage;
pub mod leases;
pub mod ledger;
pub mod limiter;
pub mod model;
pub mod outages;
pub mod repeats;
pub mod resuming;
pub mod retries;
pub mod service;
pub mod set_caps;
pub mod shared_state;
pub mod shares;
pub mod upkeep;
mod virtual_world;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use verbatim_core::PortError;
use verbatim_core::ids::IdSource;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::{
    BlobOwner, JobAdmin, JobClient, JobLeases, JobUpkeep, Ledger, Limiter, SharedState,
};
use verbatim_core::time::Clock;

pub use virtual_world::{SeededIds, VirtualClock, World};

/// The shortest time there is.
const MOMENT: Duration = Duration::from_millis(1);

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
    type Store: JobClient
        + JobLeases
        + JobAdmin
        + JobUpkeep
        + BlobOwner
        + SharedState
        + Ledger
        + Limiter
        + 'static;

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
            invariant_1 {
                upkeep: counters_equal_what_there_is,
            }
            invariant_2 {
                expiry: a_duplicate_just_before_expiry_keeps_the_result,
                expiry: a_job_with_many_submissions_is_forgotten_whole,
                expiry: expiry_racing_a_redrive_loses_nothing,
                upkeep: a_cached_answer_keeps_its_result_as_long_as_any_other,
                upkeep: every_submission_is_somewhere_until_it_expires,
            }
            invariant_3 {
                dead_letters: a_redriven_dead_letter_starts_afresh,
                leases: fences_only_rise_and_stale_ones_change_nothing,
                leases: only_one_completion_is_ever_published,
                leases: renewed_leases_live_and_others_lapse,
            }
            invariant_4 {
                crashes: a_job_that_gets_further_is_not_blamed_for_deaths,
                crashes: crashing_alone_runs_out_into_a_dead_letter,
                crashes: innocents_are_not_blamed_for_a_crash_beside_them,
                crashes: innocents_are_not_blamed_when_leases_lapse_one_after_the_other,
                crashes: jobs_that_lapsed_at_once_return_one_by_one,
                crashes: one_death_isolates_nothing,
                dead_letters: a_redriven_poison_job_still_runs_alone,
                outages: a_claim_repeated_after_a_cut_off_counts_no_death,
                outages: a_store_that_comes_and_goes_still_finds_the_dead,
                outages: a_store_that_was_there_extends_nothing,
                outages: a_worker_that_comes_back_late_is_uncounted,
                outages: a_worker_that_was_cut_off_goes_on_with_what_nobody_took,
                outages: an_outage_of_one_to_ten_leases_costs_no_living_worker_its_job,
                outages: steps_of_the_clock_take_no_job,
                outages: who_died_in_an_outage_is_found_dead_a_lease_after_it,
                retries: a_deadline_ends_its_own_submission_only,
                retries: a_job_at_its_greatest_age_ends_whatever_it_does,
                retries: a_permanent_failure_is_not_tried_again,
                retries: a_released_job_is_next_and_lost_no_attempt,
                retries: attempts_run_out_into_a_dead_letter,
                retries: throttling_refunds_the_attempt_until_the_job_is_too_old,
            }
            invariant_5 {
                dead_letters: a_dead_letter_is_not_redriven_beside_its_own_work,
                dead_letters: a_discarded_dead_letter_leaves_nothing,
                dedupe: a_finished_result_answers_until_its_time_is_over,
                dedupe: different_work_is_done_separately,
                dedupe: failed_and_cancelled_jobs_answer_nobody,
                dedupe: identical_work_submitted_at_once_is_done_once,
                expiry: a_duplicate_just_after_expiry_is_new_work,
                expiry: expiry_racing_a_duplicate_loses_nothing,
            }
            invariant_6 {
                cancellation: a_cancelled_submission_leaves_the_others_alone,
                cancellation: a_lapsed_lease_ends_a_job_that_was_to_be_cancelled,
                cancellation: a_queued_job_goes_with_its_last_submission,
                cancellation: a_running_job_is_asked_to_stop_and_publishes_nothing,
                cancellation: an_isolated_job_goes_with_its_last_submission,
                cancellation: deleting_the_last_ended_submission_takes_audio_and_result,
                cancellation: new_work_is_not_attached_to_a_job_that_is_being_cancelled,
                cancellation: one_tenant_cannot_touch_anothers_submission,
            }
            invariant_7 {
                caps: a_new_cap_counts_at_once,
                caps: an_isolated_job_keeps_to_the_cap,
                caps: a_tenant_is_never_answered_from_anothers_work,
                caps: a_tenants_full_queue_throttles_its_new_work_only,
                caps: no_more_jobs_run_than_the_cap_allows,
                fairness: a_late_tenant_is_among_the_next_two,
                fairness: a_settlement_never_goes_back_in_time,
                fairness: a_failure_of_its_own_is_paid_for_and_a_release_is_not,
                fairness: an_idle_tenant_does_not_save_up_turns,
                fairness: an_isolated_job_is_served_in_turn,
                fairness: backlogged_tenants_are_served_by_seconds,
                fairness: refunded_attempts_give_the_charge_back,
                fairness: upkeep_forgets_no_charge_that_may_be_settled,
                fairness: wrong_estimates_are_settled,
                set_caps: a_set_cap_holds_whatever_submissions_bring,
                set_caps: a_set_cap_of_waiting_jobs_holds_for_every_key,
                set_caps: lifting_a_set_cap_lets_everything_begin,
            }
            invariant_8 {
                claims: tiers_share_by_weight_and_none_starves,
                service: isolated_jobs_begin_within_two_lengths_of_a_job,
                service: nobody_waits_longer_than_stated,
                service: one_worker_serves_isolated_jobs_too,
            }
            invariant_9 {
                alone: a_busy_worker_is_reserved_until_it_is_idle_and_the_others_go_on,
                alone: a_reservation_ends_when_its_worker_asks_no_more,
                alone: a_reservation_ends_with_its_worker,
                alone: a_reservation_gives_nothing_that_its_worker_can_do_no_longer,
                alone: an_idle_worker_takes_an_isolated_job_and_the_reserved_one_goes_on,
                alone: one_worker_in_eight_is_reserved_at_most,
                alone: only_a_worker_that_can_do_it_is_reserved,
                crashes: an_isolated_job_runs_alone,
                leases: the_failure_of_one_job_touches_no_other_of_its_worker,
            }
            invariant_10 {
                dead_letters: a_redriven_job_tells_its_story_anew,
                events: a_cancelled_submission_sees_its_own_end,
                events: a_late_watcher_sees_what_counts_and_the_end,
                events: a_retried_job_starts_its_story_over,
                events: a_stream_resumes_without_gap_or_repetition,
                events: a_waiting_watcher_is_woken_by_each_event,
                events: a_watcher_sees_the_whole_story_in_order,
                events: segments_keep_their_numbers_when_they_are_in_the_transcript,
                events: an_attached_and_a_cached_submission_see_the_end,
                resuming: segments_that_no_report_brought_are_told_with_the_completion,
                resuming: watchers_start_over_when_the_transcript_has_other_segments,
                resuming: who_comes_back_after_any_event_is_told_exactly_the_rest,
            }
            invariant_11 {
                dead_letters: redriving_and_discarding_again_changes_nothing,
                repeats: a_claim_repeated_returns_the_same_lease,
                repeats: an_idempotency_key_replays_its_answer_for_a_day,
                repeats: cancelling_and_confirming_again_changes_nothing,
                repeats: finishing_again_returns_the_same_answer,
                repeats: reporting_again_adds_nothing,
                repeats: submitting_a_removed_ticket_again_harms_no_job,
                repeats: submitting_a_ticket_again_changes_nothing,
            }
            promises {
                checkpoints: a_checkpoint_grows_under_one_lease_and_the_next,
                checkpoints: a_checkpoint_reported_again_has_each_segment_once,
                checkpoints: a_checkpoint_that_starts_over_leaves_nothing_of_the_one_before,
                checkpoints: a_dead_letter_keeps_its_checkpoint,
                abilities: a_job_that_no_worker_can_do_says_what_it_waits_for,
                abilities: a_tenant_that_no_worker_could_serve_has_saved_up_nothing,
                abilities: no_job_goes_to_a_worker_that_cannot_do_it,
                abilities: only_waiting_jobs_wait_for_a_worker,
                abilities: too_many_classes_are_told_apart_no_longer,
                claims: attaching_raises_the_tier,
                claims: no_job_is_claimed_twice_at_once,
                claims: the_place_in_the_queue_counts_those_ahead,
                claims: the_place_in_the_queue_counts_turns_of_other_tenants,
                claims: within_a_tier_the_first_is_served_first,
                dead_letters: a_dead_letter_tells_its_story,
                dead_letters: a_rare_tenants_dead_letters_are_found_by_going_on,
                dead_letters: dead_letters_are_listed_latest_first,
                leases: a_completed_submission_shows_the_model_that_answered,
                leases: every_attempt_belongs_to_the_trace_of_the_submission,
                leases: the_next_worker_gets_the_checkpoint,
                garbage: a_blob_that_cannot_be_deleted_keeps_no_other_from_it,
                dedupe: a_result_that_is_gone_answers_nobody,
                garbage: blobs_of_a_store_with_an_id_are_known_by_their_names,
                garbage: each_blob_is_taken_by_one_node,
                garbage: one_node_sweeps_and_none_while_it_is_forbidden,
                garbage: a_store_keeps_its_id_and_raises_its_mark,
                garbage: what_a_client_cancels_is_kept_for_its_grace,
                garbage: what_a_client_deletes_has_no_grace,
                garbage: what_work_leaves_behind_is_kept_for_its_grace,
                shares: a_tenant_that_is_alone_leaves_an_eighth_for_the_next,
                shares: once_seven_eighths_are_remembered_no_tenant_gets_beyond_an_equal_share,
                shares: submissions_count_once_however_they_are_answered,
                shares: what_is_forgotten_makes_room,
                upkeep: a_rare_status_is_found_by_going_on,
                upkeep: what_is_remembered_of_a_tenant_has_a_limit,
                upkeep: a_full_queue_throttles_new_work_only,
                upkeep: audio_and_results_become_garbage_when_nobody_needs_them,
                upkeep: pages_list_everything_newest_first,
                upkeep: workers_are_counted_while_they_are_heard_of,
            }
            shared_state {
                shared_state: a_stale_version_never_wins,
                shared_state: a_value_expires_unless_it_is_written_again,
                shared_state: an_update_may_leave_the_value_alone,
                shared_state: lists_are_by_prefix_and_in_order,
                shared_state: no_update_is_lost,
                shared_state: only_who_read_the_newest_value_replaces_it,
            }
            ledger {
                ledger: a_charge_counts_beyond_the_budget,
                ledger: a_charge_counts_once_and_ends_its_reservation,
                ledger: a_job_tells_what_it_was_charged_for,
                ledger: a_reservation_is_given_back_or_lapses,
                ledger: a_new_lease_gives_back_what_older_ones_put_aside,
                ledger: a_whole_job_must_fit,
                ledger: absurd_amounts_do_not_overflow,
                ledger: budgets_begin_anew_each_day,
                ledger: budgets_hold_under_concurrent_reservations,
                ledger: old_books_are_thrown_away,
                ledger: totals_add_up,
            }
            limiter {
                limiter: a_bucket_is_refilled_in_parts,
                limiter: a_clock_that_is_put_back_locks_nobody_out,
                limiter: a_tenant_has_its_limit_in_any_minute,
                limiter: limits_hold_when_many_ask_at_once,
                limiter: tenants_have_windows_of_their_own,
                limiter: the_project_has_a_bucket,
                limiter: usage_names_the_busiest,
                limiter: what_is_refused_is_not_counted,
                limiter: without_limits_everything_passes,
            }
        }
    };
    (@tests $harness:expr; $($module:ident { $($group:ident : $check:ident),* $(,)? })*) => {
        $(
            mod $module {
                #[allow(unused_imports, reason = "the harness may be named by a path")]
                use super::*;

                $(
                    #[tokio::test]
                    async fn $check() -> Result<(), $crate::conformance::Violation> {
                        $crate::conformance::$group::$check(&$harness).await
                    }
                )*
            }
        )*
    };
}
