//! What is counted of the limits that protect the service.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Registry};
use verbatim_core::ports::limiter::LimitScope;

use crate::metrics::{opts, register};

/// Metrics of limits.
#[derive(Debug)]
pub struct LimitMetrics {
    requests: IntCounterVec,
    /// Places at each `stage` of this process.
    pub places: IntGaugeVec,
    /// Places taken, by `stage`.
    pub places_taken: IntGaugeVec,
    /// Who waits for a place, by `stage`.
    pub waiting: IntGaugeVec,
    /// Part of the places that is taken, by `stage`.
    pub utilisation: GaugeVec,
    /// Who was turned away, by `stage`.
    pub turned_away: IntCounterVec,
}

impl LimitMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let r = registry;
        let gauges = |name, help| register(r, IntGaugeVec::new(opts(name, help), &["stage"]));
        Ok(Self {
            requests: register(
                r,
                IntCounterVec::new(
                    opts("limited_requests_total", "Requests that were held against the request limits."),
                    &["scope", "decision"],
                ),
            )?,
            places: gauges("stage_places", "Places at each stage of this process.")?,
            places_taken: gauges("stage_places_taken", "Places taken at each stage.")?,
            waiting: gauges("stage_waiting", "Who waits for a place at each stage.")?,
            utilisation: register(
                r,
                GaugeVec::new(
                    opts("stage_utilisation_ratio", "Part of the places that is taken."),
                    &["stage"],
                ),
            )?,
            turned_away: register(
                r,
                IntCounterVec::new(
                    opts("stage_turned_away_total", "Who found no place in time."),
                    &["stage"],
                ),
            )?,
        })
    }

    /// Counts a request that the limits let pass or refused.
    pub fn count_request(&self, scope: LimitScope, allowed: bool) {
        let scope = match scope {
            LimitScope::Tenant => "tenant",
            LimitScope::Project => "project",
        };
        self.requests.with_label_values(&[scope, if allowed { "allowed" } else { "refused" }]).inc();
    }
}
