//! What the job store's outages left behind: leases that lapsed, and jobs that had been done before.

use prometheus::{IntCounter, IntGauge, Registry};
use verbatim_core::ports::jobs::TickReport;

use crate::metrics::{opts, register};

/// Metrics of the job store's outages.
#[derive(Debug)]
pub struct OutageMetrics {
    gaps: IntCounter,
    away_seconds: prometheus::Counter,
    lapsed: IntCounter,
    extended: IntCounter,
    revived: IntCounter,
    /// Transcripts of earlier attempts that were published, since the audio of a job that had been done was gone.
    pub adopted: IntCounter,
    ticks_here: IntGauge,
}

impl OutageMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help| register(registry, IntCounter::with_opts(opts(name, help)));
        Ok(Self {
            gaps: counter(
                "store_gaps_total",
                "Times at which nobody had reached the job store for a while, as the node that looks after it noticed.",
            )?,
            away_seconds: register(
                registry,
                prometheus::Counter::with_opts(opts(
                    "store_away_seconds_total",
                    "Time in which nobody reached the job store, or no node was there to look after it.",
                )),
            )?,
            lapsed: counter(
                "leases_lapsed_total",
                "Leases that were taken back from workers that vanished.",
            )?,
            extended: counter(
                "leases_extended_total",
                "Leases that lapsed while the job store was away and were given one more lease.",
            )?,
            revived: counter(
                "leases_revived_total",
                "Leases that were taken back from workers that turned out to live: what was counted for it was taken back.",
            )?,
            adopted: counter(
                "transcripts_adopted_total",
                "Transcripts of earlier attempts that were published because the audio of their jobs was gone.",
            )?,
            ticks_here: register(
                registry,
                IntGauge::with_opts(opts(
                    "maintenance_here",
                    "Whether this node looks after the job store for the cluster: 1, or 0 where another one does.",
                )),
            )?,
        })
    }

    /// Counts what a round of maintenance met.
    pub fn count_tick(&self, tick: &TickReport) {
        let TickReport {
            promoted: _,
            lapsed,
            failed: _,
            expired: _,
            extended,
            away,
            revived,
            elsewhere,
            unreadable: _,
        } = *tick;
        self.lapsed.inc_by(lapsed);
        self.extended.inc_by(extended);
        self.revived.inc_by(revived);
        self.ticks_here.set(i64::from(!elsewhere));
        if let Some(away) = away {
            self.gaps.inc();
            self.away_seconds.inc_by(away.as_secs_f64());
        }
    }
}
