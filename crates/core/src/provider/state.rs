//! The state of one provider and how it changes. Every change bears being made twice by the same holder.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::breaker::{Breaker, BreakerState, PROBES};
use super::concurrency::Concurrency;
use super::rate::{Rate, RateState};
use super::recent::Recent;
use super::view::{LastOutcome, OutcomeKind, ProviderView, Totals};
use crate::money::Money;
use crate::time::Timestamp;

/// The longest wish of a provider that is honoured.
const MOST_COOL_DOWN: Duration = Duration::from_secs(3600);
/// When to look again where nothing can be foreseen.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Looking again more often would tell nothing.
const SOONEST_LOOK: Duration = Duration::from_millis(20);
/// Weight of the last call in the average latency.
const LATENCY_WEIGHT: f64 = 0.2;

/// What a subscription allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotLimits {
    /// Calls under way at once, at most: what is found may be less. 0 is taken for 1.
    pub max_concurrency: u32,
    /// How fast calls may begin; `None` for as fast as one likes.
    pub rate: Option<Rate>,
}

/// A node's wish to call a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRequest {
    /// Names this one call, of all calls of all nodes.
    pub holder: String,
    /// For how long the slot is held unless it is renewed.
    pub lease: Duration,
    /// What the subscription allows.
    pub limits: SlotLimits,
}

/// Whether the provider may be called now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotDecision {
    /// It may.
    Granted {
        /// Whether this call finds out if the provider has healed.
        probe: bool,
    },
    /// As many calls as it takes are under way.
    Full {
        /// When to look again, roughly.
        retry_after: Duration,
    },
    /// Calls would begin faster than it takes.
    RateLimited {
        /// When the next one may begin.
        retry_after: Duration,
    },
    /// It asked for a pause.
    CoolingDown {
        /// How long that lasts.
        retry_after: Duration,
    },
    /// It is down.
    Open {
        /// When a probe may be made.
        retry_after: Duration,
    },
    /// An operator paused it.
    Paused,
}

/// How a call ended, as far as it tells something about the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With a transcript.
    Success {
        /// How long it took.
        took: Duration,
        /// Length of the audio.
        audio: Duration,
    },
    /// It was told to slow down.
    Throttled {
        /// The provider's wish.
        retry_after: Option<Duration>,
    },
    /// By the provider's fault.
    Failed {
        /// Whether it could not be reached or used at all.
        unavailable: bool,
        /// When it wishes to be tried again.
        retry_after: Option<Duration>,
    },
    /// For a reason that says nothing about the provider, or nobody knows.
    Neutral,
}

/// What does not change while the provider runs; for display.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderFacts {
    /// What it is: `azure`, `whisper`, …
    pub kind: String,
    /// Whether it computes on the node itself.
    pub local: bool,
    /// Lower is tried first.
    pub priority: u32,
    /// Its share among equals.
    pub weight: u32,
    /// Calls under way at once, at most.
    pub max_concurrency: u32,
    /// Calls begun within a minute, at most; `None` for as many as one likes.
    pub requests_per_minute: Option<u32>,
    /// Price of an hour of audio; `None` when it is not known.
    pub price_per_hour: Option<Money>,
    /// What may be spent in a day.
    pub daily_budget: Option<Money>,
}

/// One call under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(Timestamp, Timestamp, u32, bool)", into = "(Timestamp, Timestamp, u32, bool)")]
pub(super) struct Slot {
    /// When it lapses.
    until: Timestamp,
    pub(super) begun_at: Timestamp,
    /// Calls under way when it began, itself among them.
    pub(super) ordinal: u32,
    probe: bool,
}

impl From<(Timestamp, Timestamp, u32, bool)> for Slot {
    fn from((until, begun_at, ordinal, probe): (Timestamp, Timestamp, u32, bool)) -> Self {
        Self { until, begun_at, ordinal, probe }
    }
}

impl From<Slot> for (Timestamp, Timestamp, u32, bool) {
    fn from(slot: Slot) -> Self {
        (slot.until, slot.begun_at, slot.ordinal, slot.probe)
    }
}

/// Everything that nodes share about a provider.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProviderState {
    facts: Option<ProviderFacts>,
    announced_at: Option<Timestamp>,
    paused: bool,
    slots: BTreeMap<String, Slot>,
    concurrency: Concurrency,
    rate: RateState,
    breaker: Breaker,
    cool_until: Option<Timestamp>,
    recent: Recent,
    latency: Option<f64>,
    totals: Totals,
    last_outcome: Option<LastOutcome>,
}

impl ProviderState {
    /// Asks for a slot. Only `Granted` changes anything that matters. Asking again for the same call gives the same slot.
    pub fn acquire(&mut self, now: Timestamp, request: &SlotRequest) -> SlotDecision {
        let SlotRequest { holder, lease, limits } = request;
        self.slots.retain(|_, slot| now < slot.until);
        if let Some(slot) = self.slots.get_mut(holder) {
            slot.until = slot.until.max(now.plus(*lease));
            return SlotDecision::Granted { probe: slot.probe };
        }
        if self.paused {
            return SlotDecision::Paused;
        }
        let breaker = self.breaker.state(now);
        if breaker == BreakerState::Open {
            return SlotDecision::Open { retry_after: self.breaker.remaining(now) };
        }
        let cool_down = self.cool_down(now);
        if !cool_down.is_zero() {
            return SlotDecision::CoolingDown { retry_after: cool_down };
        }
        let probe = breaker == BreakerState::HalfOpen;
        if probe && self.slots.values().filter(|slot| slot.probe).count() >= PROBES {
            return SlotDecision::Open { retry_after: LOOK_AGAIN };
        }
        let max = limits.max_concurrency;
        if self.slots.len() >= self.concurrency.limit(max) as usize {
            return SlotDecision::Full { retry_after: self.look_again(now) };
        }
        if let Some(rate) = limits.rate {
            let retry_after = self.rate.wait(now, rate);
            if !retry_after.is_zero() {
                return SlotDecision::RateLimited { retry_after };
            }
            self.rate.take(now, rate);
        }
        let ordinal = count(self.slots.len() + 1);
        let slot = Slot { until: now.plus(*lease), begun_at: now, ordinal, probe };
        self.slots.insert(holder.clone(), slot);
        self.concurrency.begun(ordinal, max);
        self.recent.begun(now);
        SlotDecision::Granted { probe }
    }

    /// Asks for another request under a slot that is held. Only `Granted` changes anything: it counts, and counts again when it
    /// is asked for again.
    pub fn another_request(&mut self, now: Timestamp, limits: SlotLimits) -> SlotDecision {
        if self.paused {
            return SlotDecision::Paused;
        }
        let cool_down = self.cool_down(now);
        if !cool_down.is_zero() {
            return SlotDecision::CoolingDown { retry_after: cool_down };
        }
        if let Some(rate) = limits.rate {
            let retry_after = self.rate.wait(now, rate);
            if !retry_after.is_zero() {
                return SlotDecision::RateLimited { retry_after };
            }
            self.rate.take(now, rate);
        }
        self.recent.begun(now);
        SlotDecision::Granted { probe: false }
    }

    /// Keeps a slot for `lease` from now. `false` when it has lapsed: it may be another's by now.
    pub fn renew(&mut self, now: Timestamp, holder: &str, lease: Duration) -> bool {
        match self.slots.get_mut(holder) {
            Some(slot) if now < slot.until => {
                slot.until = slot.until.max(now.plus(lease));
                true
            }
            _ => false,
        }
    }

    /// Gives a slot back and learns from how its call ended. `false`, and nothing changed, when there is no such slot.
    pub fn release(&mut self, now: Timestamp, holder: &str, outcome: Outcome) -> bool {
        let under_way = count(self.slots.len());
        let Some(slot) = self.slots.remove(holder) else { return false };
        let kind = match outcome {
            Outcome::Success { took, audio } => {
                self.succeeded(now, &slot, under_way);
                self.measure(took, audio);
                OutcomeKind::Succeeded
            }
            Outcome::Throttled { retry_after } => {
                self.throttled(now, &slot, retry_after);
                OutcomeKind::Throttled
            }
            Outcome::Failed { unavailable, retry_after } => {
                self.recent.ended(now, true);
                self.totals.failed += 1;
                self.breaker.failed(now, slot.probe, unavailable, &self.recent);
                self.cool(now, retry_after.unwrap_or_default());
                OutcomeKind::Failed
            }
            Outcome::Neutral => OutcomeKind::Neutral,
        };
        self.last_outcome = Some(LastOutcome { at: now, kind });
        true
    }

    fn succeeded(&mut self, now: Timestamp, slot: &Slot, under_way: u32) {
        self.totals.succeeded += 1;
        self.recent.ended(now, false);
        if self.breaker.answered(now, slot.probe) {
            self.healed();
        } else {
            self.concurrency.succeeded(now, slot, under_way);
        }
    }

    fn throttled(&mut self, now: Timestamp, slot: &Slot, retry_after: Option<Duration>) {
        self.totals.throttled += 1;
        // It answers, so it is not down.
        if self.breaker.answered(now, slot.probe) {
            self.healed();
        }
        let cool_down = self.concurrency.refused(now, slot, retry_after);
        self.cool(now, cool_down);
    }

    fn healed(&mut self) {
        self.recent.forget_failures();
        self.concurrency.begin_again();
    }

    fn measure(&mut self, took: Duration, audio: Duration) {
        if audio.is_zero() {
            return;
        }
        let now = took.as_secs_f64() / audio.as_secs_f64();
        self.latency = Some(self.latency.map_or(now, |then| then + LATENCY_WEIGHT * (now - then)));
    }

    fn cool(&mut self, now: Timestamp, time: Duration) {
        let until = now.plus(time.min(MOST_COOL_DOWN));
        self.cool_until = self.cool_until.max(Some(until));
    }

    fn cool_down(&self, now: Timestamp) -> Duration {
        self.cool_until.map_or(Duration::ZERO, |until| until.since(now))
    }

    /// When the next call may have ended.
    fn look_again(&self, now: Timestamp) -> Duration {
        self.recent.time_between_ends(now).unwrap_or(LOOK_AGAIN).clamp(SOONEST_LOOK, LOOK_AGAIN)
    }

    /// Takes down what a node says about it. `true` when that has to be written: it is new, or was last said longer than
    /// `every` ago.
    pub fn announce(&mut self, now: Timestamp, facts: &ProviderFacts, every: Duration) -> bool {
        let fresh = self.announced_at.is_some_and(|at| now.since(at) < every);
        if fresh && self.facts.as_ref() == Some(facts) {
            return false;
        }
        self.facts = Some(facts.clone());
        self.announced_at = Some(now);
        true
    }

    /// Pauses it or lets it be used again: at once, whatever it asked for before. `false` when nothing changes.
    pub fn pause(&mut self, paused: bool) -> bool {
        let cooled = !paused && self.cool_until.take().is_some();
        (std::mem::replace(&mut self.paused, paused) != paused) | cooled
    }

    /// Whether any node ever ran it.
    pub fn is_known(&self) -> bool {
        self.facts.is_some()
    }

    /// Whether an operator paused it.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// What operators see; `None` when no node ever ran it.
    pub fn view(&self, name: &str, now: Timestamp) -> Option<ProviderView> {
        Some(self.view_as(name, now, self.facts.as_ref()?))
    }

    /// What operators see of a provider with these facts.
    pub fn view_as(&self, name: &str, now: Timestamp, facts: &ProviderFacts) -> ProviderView {
        ProviderView {
            name: name.to_owned(),
            facts: facts.clone(),
            announced_at: self.announced_at.unwrap_or(now),
            breaker: self.breaker.state(now),
            open_secs: self.breaker.remaining(now).as_secs_f64(),
            paused: self.paused,
            cool_down_secs: self.cool_down(now).as_secs_f64(),
            in_use: count(self.slots.values().filter(|slot| now < slot.until).count()),
            concurrency_limit: self.concurrency.limit(facts.max_concurrency),
            requests_last_minute: self.recent.begun_last_minute(now),
            secs_per_audio_sec: self.latency,
            totals: self.totals,
            last_outcome: self.last_outcome,
        }
    }
}

fn count(slots: usize) -> u32 {
    u32::try_from(slots).unwrap_or(u32::MAX)
}
