//! A provider's state in the store that all nodes share: each function is one atomic step, and can be repeated after a
//! timeout whose outcome is unknown.

use std::time::Duration;

use super::state::{Outcome, ProviderFacts, ProviderState, SlotDecision, SlotLimits, SlotRequest};
use super::view::ProviderView;
use crate::error::PortError;
use crate::ports::shared_state::{Reading, SharedState, parse, update};
use crate::time::Timestamp;

const PREFIX: &str = "provider:";
/// An operator's pause must not end by itself: the state is kept for a year after its last change.
const KEPT: Duration = Duration::from_secs(365 * 86_400);
/// How often a node repeats what it says about its providers.
const ANNOUNCED_EVERY: Duration = Duration::from_secs(60);
/// A provider that no node has run for a day is shown no more.
const SHOWN: Duration = Duration::from_secs(86_400);

fn cell(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// Asks for a slot at this provider.
///
/// # Errors
/// Those of the store: the slot may have been taken; it lapses, or is released.
pub async fn acquire(
    shared: &dyn SharedState,
    name: &str,
    request: &SlotRequest,
) -> Result<SlotDecision, PortError> {
    update(shared, &cell(name), KEPT, |state: &mut ProviderState, now| {
        let decision = state.acquire(now, request);
        (matches!(decision, SlotDecision::Granted { .. }), decision)
    })
    .await
}

/// Keeps a slot for `lease` from now. `false` when it has lapsed or never was.
///
/// # Errors
/// Those of the store.
pub async fn renew(
    shared: &dyn SharedState,
    name: &str,
    holder: &str,
    lease: Duration,
) -> Result<bool, PortError> {
    update(shared, &cell(name), KEPT, |state: &mut ProviderState, now| {
        let held = state.renew(now, holder, lease);
        (held, held)
    })
    .await
}

/// Asks for another request under a slot that is held.
///
/// # Errors
/// Those of the store: the request may have been counted.
pub async fn another_request(
    shared: &dyn SharedState,
    name: &str,
    limits: SlotLimits,
) -> Result<SlotDecision, PortError> {
    update(shared, &cell(name), KEPT, |state: &mut ProviderState, now| {
        let decision = state.another_request(now, limits);
        (matches!(decision, SlotDecision::Granted { .. }), decision)
    })
    .await
}

/// Gives a slot back and records how its call ended. Nothing when it has lapsed or was given back before.
///
/// # Errors
/// Those of the store.
pub async fn release(
    shared: &dyn SharedState,
    name: &str,
    holder: &str,
    outcome: Outcome,
) -> Result<(), PortError> {
    update(shared, &cell(name), KEPT, |state: &mut ProviderState, now| {
        (state.release(now, holder, outcome), ())
    })
    .await
}

/// Says what this node knows about a provider that it runs. Cheap when nothing is new; to be called about once a minute.
///
/// # Errors
/// Those of the store.
pub async fn announce(
    shared: &dyn SharedState,
    name: &str,
    facts: &ProviderFacts,
) -> Result<ProviderView, PortError> {
    update(shared, &cell(name), KEPT, |state: &mut ProviderState, now| {
        let changed = state.announce(now, facts, ANNOUNCED_EVERY);
        (changed, state.view_as(name, now, facts))
    })
    .await
}

/// Pauses a provider, or lets it be used again; what it is working on goes on. `None` when no node ever ran such a
/// provider.
///
/// # Errors
/// Those of the store.
pub async fn pause(
    shared: &dyn SharedState,
    name: &str,
    paused: bool,
) -> Result<Option<ProviderView>, PortError> {
    update(shared, &cell(name), KEPT, |state: &mut ProviderState, now| {
        let changed = state.is_known() && state.pause(paused);
        (changed, state.view(name, now))
    })
    .await
}

/// The state of one provider and the store's time; the state of one never used where there is none.
///
/// # Errors
/// Those of the store.
pub async fn look(shared: &dyn SharedState, name: &str) -> Result<(ProviderState, Timestamp), PortError> {
    let cell = cell(name);
    let Reading { current, now } = shared.read(&cell).await?;
    let state = match current {
        Some(current) => parse(&cell, &current.value)?,
        None => ProviderState::default(),
    };
    Ok((state, now))
}

/// Every provider that a node ran within the last day, in order of their names.
///
/// # Errors
/// Those of the store.
pub async fn list(shared: &dyn SharedState) -> Result<Vec<ProviderView>, PortError> {
    let cells = shared.list(PREFIX).await?;
    // Only a read tells the store's time.
    let Some((first, _)) = cells.first() else { return Ok(Vec::new()) };
    let now = shared.read(first).await?.now;
    let mut views = Vec::new();
    for (cell, value) in &cells {
        let state: ProviderState = parse(cell, value)?;
        let view = state.view(cell.strip_prefix(PREFIX).unwrap_or(cell), now);
        views.extend(view.filter(|view| now.since(view.announced_at) < SHOWN));
    }
    Ok(views)
}
