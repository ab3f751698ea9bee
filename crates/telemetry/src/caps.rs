//! What is counted of the caps of tenants. No tenant is named: there may be any number of them.

use prometheus::{IntCounter, IntGaugeVec, Registry};
use verbatim_core::caps::AtCap;

use crate::metrics::{opts, register};

/// Metrics of the caps of tenants.
#[derive(Debug)]
pub struct CapsMetrics {
    at_cap: IntGaugeVec,
    /// Times that the caps could not be put in force as they were set.
    pub failures: IntCounter,
}

impl CapsMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let at_cap = IntGaugeVec::new(
            opts("tenants_at_cap", "Tenants that take up as much as they may: `running` or `queued` jobs."),
            &["cap"],
        );
        let failures = IntCounter::with_opts(opts(
            "caps_not_applied_total",
            "Times that the caps of tenants could not be put in force as they were set.",
        ));
        let caps = Self { at_cap: register(registry, at_cap)?, failures: register(registry, failures)? };
        caps.set_at_cap(AtCap::default());
        Ok(caps)
    }

    /// So many tenants are at their caps now.
    pub fn set_at_cap(&self, tenants: AtCap) {
        let AtCap { running, queued } = tenants;
        for (cap, count) in [("running", running), ("queued", queued)] {
            self.at_cap.with_label_values(&[cap]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
