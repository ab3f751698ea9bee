//! How many calls a provider takes at once, found by trying: additive increase, multiplicative decrease (Chiu and Jain,
//! 1989), with a memory of where the ceiling was, so that the limit is held just under it instead of sawing between half
//! of it and all of it (as CUBIC does, RFC 9438). ADR 51 says why.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::state::Slot;
use crate::time::Timestamp;

/// Time after a decrease before more than the ceiling is tried, if the last try was worth it; doubles while it is not.
const FIRST_TRY: Duration = Duration::from_secs(15);
/// The longest such time.
const LAST_TRY: Duration = Duration::from_secs(600);
/// A refused try stops everybody for the cool-down: it is made so rarely that it costs a twentieth of the time.
const COOL_DOWNS_BETWEEN_TRIES: u32 = 20;
/// The first cool-down when the provider names none; doubles with every decrease that did not help.
const FIRST_COOL_DOWN: Duration = Duration::from_secs(1);
const DEFAULT_COOL_DOWN_MOST: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Concurrency {
    /// Zero before the first call.
    limit: u32,
    /// What is allowed, as whoever began a call last knew it.
    max: u32,
    /// The fewest calls under way at which one was refused lately.
    ceiling: Option<u32>,
    /// Refusals of calls that began before the last decrease lower the ceiling no further than this: they may have other
    /// reasons than concurrency.
    floor: u32,
    /// Successes since the limit last moved, where it moves once per window of them.
    credit: u32,
    /// Whether the limit was reached since it last moved: one that nobody reaches is not raised.
    reached: bool,
    decreased_at: Option<Timestamp>,
    /// Whether a call that began after the last decrease succeeded.
    proven: bool,
    /// Decreases in a row without such a success.
    unproven: u32,
    try_at: Option<Timestamp>,
    try_wait: Duration,
    /// Whether the ceiling was raised since the last decrease.
    raised: bool,
}

impl Concurrency {
    /// Calls that may be under way at once.
    pub(super) fn limit(&self, max: u32) -> u32 {
        let limit = if self.limit == 0 { modest(max) } else { self.limit };
        limit.clamp(1, max.max(1))
    }

    /// A call began; `under_way` counts it.
    pub(super) fn begun(&mut self, under_way: u32, max: u32) {
        (self.limit, self.max) = (self.limit(max), max);
        self.reached |= under_way >= self.limit;
    }

    /// A call succeeded; `under_way` counts it still. Up to just under the ceiling (anywhere, where none is known) the
    /// limit rises with every success; from there on by one per window of successes, and only when a try is due.
    pub(super) fn succeeded(&mut self, now: Timestamp, slot: &Slot, under_way: u32) {
        let limit = self.limit(self.max);
        if !self.is_older(slot) {
            (self.proven, self.unproven) = (true, 0);
            if self.ceiling.is_some_and(|ceiling| slot.ordinal >= ceiling) {
                self.ceiling = Some(slot.ordinal + 1);
                self.raised = true;
            }
        }
        if limit >= self.max || !(self.reached || under_way >= limit) {
            return;
        }
        let known = self.ceiling.is_none_or(|ceiling| limit + 1 < ceiling);
        if !known {
            if self.try_at.is_some_and(|at| now < at) {
                return;
            }
            self.credit += 1;
        }
        if known || self.credit >= limit {
            (self.limit, self.credit, self.reached) = (limit + 1, 0, false);
        }
    }

    /// A call was refused: "too many". Returns how long nobody is to call now.
    pub(super) fn refused(&mut self, now: Timestamp, slot: &Slot, retry_after: Option<Duration>) -> Duration {
        let limit = self.limit(self.max);
        let at = self.ceiling.map_or(slot.ordinal, |ceiling| ceiling.min(slot.ordinal));
        if self.is_older(slot) {
            // The decrease has answered this one. It may tell more exactly where the ceiling is.
            let at = at.max(self.floor);
            self.ceiling = Some(at);
            self.limit = limit.min(at.saturating_sub(1)).max(1);
            return retry_after.unwrap_or_default();
        }
        self.unproven = if self.proven { 0 } else { self.unproven + 1 };
        let cool_down = retry_after.unwrap_or_else(|| {
            FIRST_COOL_DOWN.saturating_mul(1 << self.unproven.min(10)).min(DEFAULT_COOL_DOWN_MOST)
        });
        let above = self.ceiling.is_some_and(|ceiling| slot.ordinal >= ceiling);
        let near = self.ceiling.is_some_and(|ceiling| slot.ordinal * 10 >= ceiling * 9);
        self.try_wait = match above && !self.raised {
            true => (self.try_wait * 2).clamp(FIRST_TRY, LAST_TRY),
            false => FIRST_TRY,
        };
        if near && self.proven {
            // A try above the ceiling, or a tremble of it: what was held before is held again.
            self.floor = (at - at / 10).max(1);
            self.ceiling = Some(at);
            self.limit = at.saturating_sub(1).max(1);
        } else {
            self.floor = limit / 2 + 1;
            self.ceiling = Some(at.max(self.floor));
            self.limit = (limit / 2).max(1);
        }
        let wait = self.try_wait.max(cool_down.saturating_mul(COOL_DOWNS_BETWEEN_TRIES).min(LAST_TRY));
        self.try_at = Some(now.plus(wait));
        self.decreased_at = Some(now);
        (self.credit, self.reached, self.proven, self.raised) = (0, false, false, false);
        cool_down
    }

    /// After an outage: begins modestly again, the ceiling remembered.
    pub(super) fn begin_again(&mut self) {
        self.limit = self.limit(self.max).min(modest(self.max));
        (self.credit, self.reached) = (0, false);
    }

    /// Whether a call began before the last decrease, and so cannot tell anything about the limit of now.
    fn is_older(&self, slot: &Slot) -> bool {
        self.decreased_at.is_some_and(|at| slot.begun_at <= at)
    }
}

/// Where to begin: a tenth of what is allowed, at least four.
fn modest(max: u32) -> u32 {
    (max / 10).max(4).min(max.max(1))
}
