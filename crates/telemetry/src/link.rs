//! Metrics of the way to the job store of a cluster, and of what was found there.

use prometheus::{IntCounter, IntGauge, Registry};

use crate::metrics::{opts, register};

/// What this process sees of the job store.
#[derive(Debug)]
pub struct LinkMetrics {
    given_up: IntCounter,
    replaced: IntCounter,
    slot_moving: IntGauge,
}

impl LinkMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help| register(registry, IntCounter::with_opts(opts(name, help)));
        Ok(Self {
            given_up: counter(
                "store_connections_given_up_total",
                "Connections to the job store that were left because nobody answered on them.",
            )?,
            replaced: counter(
                "store_replaced_total",
                "How often the job store came back empty, or as another one.",
            )?,
            slot_moving: register(
                registry,
                IntGauge::with_opts(opts(
                    "store_slot_moving",
                    "Whether the slot of the queue moves between nodes of the Redis cluster (1): then nothing is done.",
                )),
            )?,
        })
    }

    /// Sets what was counted since the process started, and what is so now.
    pub fn set(&self, given_up: u64, replaced: u64, slot_moving: bool) {
        self.given_up.inc_by(given_up.saturating_sub(self.given_up.get()));
        self.replaced.inc_by(replaced.saturating_sub(self.replaced.get()));
        self.slot_moving.set(i64::from(slot_moving));
    }
}
