//! What operators see of a provider.

use serde::{Deserialize, Serialize};

use super::breaker::BreakerState;
use super::state::ProviderFacts;
use crate::time::Timestamp;

/// How a call ended, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    /// With a transcript.
    Succeeded,
    /// It was told to slow down.
    Throttled,
    /// By the provider's fault.
    Failed,
    /// For a reason that says nothing about the provider.
    Neutral,
}

/// How the last call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastOutcome {
    /// When.
    pub at: Timestamp,
    /// How.
    pub kind: OutcomeKind,
}

/// Calls that ended, since the provider is known to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// With a transcript.
    pub succeeded: u64,
    /// Told to slow down.
    pub throttled: u64,
    /// By the provider's fault.
    pub failed: u64,
}

/// One provider, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProviderView {
    /// Its name in the configuration.
    pub name: String,
    /// What the nodes that run it say about it.
    #[serde(flatten)]
    pub facts: ProviderFacts,
    /// When a node last said so.
    pub announced_at: Timestamp,
    /// Whether it is called.
    pub breaker: BreakerState,
    /// Seconds until an open breaker lets a probe through; zero when it is not open.
    pub open_secs: f64,
    /// Whether an operator paused it.
    pub paused: bool,
    /// Seconds for which nobody calls it because it asked for that.
    pub cool_down_secs: f64,
    /// Calls under way on all nodes. Zero for a local one, which each node bounds for itself.
    pub in_use: u32,
    /// Calls that may be under way at once, as found.
    pub concurrency_limit: u32,
    /// Calls begun within the last minute.
    pub requests_last_minute: u32,
    /// Seconds it takes for a second of audio, averaged over the last calls; `None` before the first.
    pub secs_per_audio_sec: Option<f64>,
    /// Calls that ended.
    pub totals: Totals,
    /// How the last call ended.
    pub last_outcome: Option<LastOutcome>,
}
