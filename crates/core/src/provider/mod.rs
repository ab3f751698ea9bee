//! The health and limits of one provider (an engine behind the service), shared by all nodes in one cell of
//! [`SharedState`](crate::ports::SharedState), so that N workers together respect one subscription. Everything here is
//! arithmetic over the store's time: who holds a slot, how many there are, how fast they are given out, and whether the
//! provider is well enough to be called at all.

mod breaker;
mod concurrency;
mod rate;
mod recent;
mod shared;
mod state;
mod view;

pub use breaker::BreakerState;
pub use rate::Rate;
pub use shared::{acquire, announce, another_request, list, look, pause, release, renew};
pub use state::{Outcome, ProviderFacts, ProviderState, SlotDecision, SlotLimits, SlotRequest};
pub use view::{LastOutcome, OutcomeKind, ProviderView, Totals};
