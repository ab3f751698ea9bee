//! The circuit breaker of a provider (Nygard, "Release It!", 2007): a provider that is down is not called, save for a
//! probe now and then.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::recent::Recent;
use crate::time::Timestamp;

/// How long it is open the first time.
const FIRST_OPEN: Duration = Duration::from_secs(5);
/// The longest time for which it is open.
const MOST_OPEN: Duration = Duration::from_secs(300);
/// A provider that fails again within this time after it healed has not healed: the time doubles on.
const RELAPSE: Duration = Duration::from_secs(60);
/// Calls that must have ended recently before a part of them means anything.
const FEWEST_CALLS: u32 = 6;
/// Failures in a row that open it, however slowly they came.
const FAILED_IN_ROW: u32 = 6;
/// The same for failures that say the provider cannot be reached or used at all.
const UNAVAILABLE_IN_ROW: u32 = 3;
/// Probes that may be under way at once.
pub(super) const PROBES: usize = 2;

/// Whether a provider is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// It is well.
    #[default]
    Closed,
    /// It was down; a few calls find out whether it still is.
    HalfOpen,
    /// It is down and not called.
    Open,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Breaker {
    /// Set while it is not closed; half open once this time has come.
    open_until: Option<Timestamp>,
    closed_at: Option<Timestamp>,
    /// How often the time was doubled.
    doublings: u32,
    failed_in_row: u32,
    unavailable_in_row: u32,
}

impl Breaker {
    pub(super) fn state(&self, now: Timestamp) -> BreakerState {
        match self.open_until {
            None => BreakerState::Closed,
            Some(until) if now < until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// How long it stays open; zero when it is not.
    pub(super) fn remaining(&self, now: Timestamp) -> Duration {
        self.open_until.map_or(Duration::ZERO, |until| until.since(now))
    }

    /// A call was answered as it should, or at least refused politely. `true` when that closed the breaker. Without
    /// `probe`, the call began before it opened and says nothing new.
    pub(super) fn answered(&mut self, now: Timestamp, probe: bool) -> bool {
        if self.open_until.is_some() && !probe {
            return false;
        }
        self.failed_in_row = 0;
        self.unavailable_in_row = 0;
        let closes = self.open_until.take().is_some();
        if closes {
            self.closed_at = Some(now);
        }
        closes
    }

    /// A call failed by the provider's fault; `recent` counts it already.
    pub(super) fn failed(&mut self, now: Timestamp, probe: bool, unavailable: bool, recent: &Recent) {
        if self.open_until.is_some() {
            // One failed probe is enough, of several that fail together.
            if probe && self.state(now) == BreakerState::HalfOpen {
                self.open(now, self.doublings + 1);
            }
            return;
        }
        self.failed_in_row += 1;
        self.unavailable_in_row = if unavailable { self.unavailable_in_row + 1 } else { 0 };
        let (ended, failed) = recent.ended_and_failed(now);
        let many = ended >= FEWEST_CALLS && failed * 2 >= ended;
        if many || self.failed_in_row >= FAILED_IN_ROW || self.unavailable_in_row >= UNAVAILABLE_IN_ROW {
            let relapse = self.closed_at.is_some_and(|closed| now.since(closed) < RELAPSE);
            self.open(now, if relapse { self.doublings + 1 } else { 0 });
        }
    }

    fn open(&mut self, now: Timestamp, doublings: u32) {
        self.doublings = doublings.min(16);
        let time = FIRST_OPEN.saturating_mul(1 << self.doublings).min(MOST_OPEN);
        *self = Self { open_until: Some(now.plus(time)), doublings: self.doublings, ..Self::default() };
    }
}
