//! What is counted of the limits that protect the service.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use verbatim_admission::{PoolGauge, PoolUse, Refused};
use verbatim_core::ports::limiter::LimitScope;

use crate::metrics::{opts, register, resident_bytes};

/// Metrics of limits.
#[derive(Debug)]
pub struct LimitMetrics {
    requests: IntCounterVec,
    places: IntGaugeVec,
    places_taken: IntGaugeVec,
    waiting: IntGaugeVec,
    utilisation: GaugeVec,
    holders: IntGaugeVec,
    turned_away: IntCounterVec,
    refused: IntCounterVec,
    connections_closed: IntCounterVec,
    stages: Mutex<Vec<StageGauge>>,
}

/// One stage of this process in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageFigures {
    /// Which.
    pub stage: &'static str,
    /// Permits there are now.
    pub permits: i64,
    /// Permits that are held.
    pub held: i64,
    /// Permits that are waited for.
    pub waiting: i64,
    /// Requests that got none in time since the process began.
    pub refused: u64,
}

impl StageFigures {
    /// Part of the permits that is held.
    pub fn utilisation(&self) -> f64 {
        if self.permits == 0 { 0.0 } else { self.held as f64 / self.permits as f64 }
    }
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
            places: gauges("stage_places", "Permits of each stage of this process.")?,
            places_taken: gauges("stage_places_taken", "Permits of each stage that are held.")?,
            waiting: gauges("stage_waiting", "Permits of each stage that are waited for.")?,
            utilisation: register(
                r,
                GaugeVec::new(
                    opts("stage_utilisation_ratio", "Part of the permits that is held."),
                    &["stage"],
                ),
            )?,
            holders: gauges(
                "stage_holders",
                "Tenants or addresses that hold or wait for a permit of each stage.",
            )?,
            refused: register(
                r,
                IntCounterVec::new(
                    opts(
                        "stage_refused_total",
                        "Requests that got no permit of a stage in time: all were in use (full), or the share of its tenant \
                         or address was (share).",
                    ),
                    &["stage", "reason"],
                ),
            )?,
            turned_away: register(
                r,
                IntCounterVec::new(
                    opts("stage_turned_away_total", "Requests that got no permit of a stage in time."),
                    &["stage"],
                ),
            )?,
            connections_closed: register(
                r,
                IntCounterVec::new(
                    opts(
                        "connections_closed_total",
                        "Connections that the node closed although their clients did not: idle ones, so that another address                          got one (gave_way), and those whose client did not read its answers (unread).",
                    ),
                    &["reason"],
                ),
            )?,
            stages: Mutex::default(),
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

    /// The counters of connections that the node closed.
    pub fn connections_closed(&self) -> ConnectionsClosed {
        let counter = |end: ConnectionEnd| self.connections_closed.with_label_values(&[end.label()]);
        let [gave_way, unread] = ConnectionEnd::ALL.map(counter);
        ConnectionsClosed { gave_way, unread }
    }

    /// The gauge on which the pool of this stage shows how full it is.
    pub fn stage(&self, stage: &'static str) -> Box<dyn PoolGauge> {
        let label = [stage];
        let gauge = StageGauge {
            stage,
            places: self.places.with_label_values(&label),
            taken: self.places_taken.with_label_values(&label),
            waiting: self.waiting.with_label_values(&label),
            utilisation: self.utilisation.with_label_values(&label),
            holders: self.holders.with_label_values(&label),
            turned_away: self.turned_away.with_label_values(&label),
            refused: Refused::ALL.map(|why| self.refused.with_label_values(&[stage, why.label()])),
        };
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.retain(|known| known.stage != stage);
        stages.push(gauge.clone());
        Box::new(gauge)
    }

    /// Every stage of this process, in order of their names.
    pub fn stages(&self) -> Vec<StageFigures> {
        let stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut figures: Vec<StageFigures> = stages.iter().map(StageGauge::figures).collect();
        figures.sort_by_key(|figures| figures.stage);
        figures
    }
}

/// Why a node closed a connection that its client kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// Another address wanted one, and had fewer.
    GaveWay,
    /// The client did not read its answers.
    Unread,
}

impl ConnectionEnd {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::GaveWay, Self::Unread];

    fn label(self) -> &'static str {
        match self {
            Self::GaveWay => "gave_way",
            Self::Unread => "unread",
        }
    }
}

/// Counts connections that the node closed; clones count together.
#[derive(Debug, Clone)]
pub struct ConnectionsClosed {
    gave_way: IntCounter,
    unread: IntCounter,
}

impl ConnectionsClosed {
    /// One more.
    pub fn count(&self, end: ConnectionEnd) {
        self.of(end).inc();
    }

    /// How many so far.
    pub fn get(&self, end: ConnectionEnd) -> u64 {
        self.of(end).get()
    }

    fn of(&self, end: ConnectionEnd) -> &IntCounter {
        match end {
            ConnectionEnd::GaveWay => &self.gave_way,
            ConnectionEnd::Unread => &self.unread,
        }
    }
}

#[derive(Debug, Clone)]
struct StageGauge {
    stage: &'static str,
    places: IntGauge,
    taken: IntGauge,
    waiting: IntGauge,
    utilisation: Gauge,
    holders: IntGauge,
    turned_away: IntCounter,
    /// By reason, in the order of [`Refused::ALL`].
    refused: [IntCounter; Refused::ALL.len()],
}

impl StageGauge {
    fn figures(&self) -> StageFigures {
        StageFigures {
            stage: self.stage,
            permits: self.places.get(),
            held: self.taken.get(),
            waiting: self.waiting.get(),
            refused: self.turned_away.get(),
        }
    }
}

impl PoolGauge for StageGauge {
    fn show(&self, now: PoolUse) {
        let figure = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let utilisation = now.utilisation();
        let PoolUse { permits, max: _, held, waiting, holders } = now;
        self.places.set(figure(permits));
        self.taken.set(figure(held));
        self.waiting.set(figure(waiting));
        self.holders.set(figure(holders));
        self.utilisation.set(utilisation);
    }

    fn refused(&self, why: Refused) {
        self.turned_away.inc();
        for (reason, counter) in Refused::ALL.iter().zip(&self.refused) {
            if *reason == why {
                counter.inc();
            }
        }
    }
}

/// Bytes that this process may still take: up to `limit`, where there is one, and what the machine and the control
/// group have left. `None` where the system does not tell.
pub fn free_memory(limit: Option<u64>) -> Option<u64> {
    let own = limit.zip(resident_bytes()).map(|(limit, resident)| limit.saturating_sub(resident));
    [own, machine(), control_group()].into_iter().flatten().min()
}

/// Bytes that this process can still write into a folder; `None` when nobody knows. Must not block for long: asked only where
/// something is about to grow.
pub fn free_disk(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    // What only the administrator may still use does not count as free.
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

fn machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Of the container, as it sees itself. Pages of files that were not used of late do not count: they can be dropped.
fn control_group() -> Option<u64> {
    let read = |name| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let taken: u64 = read("memory.current")?.trim().parse().ok()?;
    let inactive = read("memory.stat").and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("inactive_file "))?.trim().parse::<u64>().ok()
    });
    Some(limit.saturating_sub(taken.saturating_sub(inactive.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use verbatim_admission::{Holder, Pool, PoolConfig, Reserve, Sizing};

    use super::*;
    use crate::Metrics;

    #[tokio::test]
    async fn a_stage_shows_itself() {
        let metrics = Metrics::new().expect("metrics have distinct names");
        let config = PoolConfig { sizing: Sizing::fixed(4), max_waiting: 0, reserve: Reserve::Nothing };
        let pool = Pool::new(config, Vec::new(), metrics.limits.stage("decode"));
        let _one = pool.try_acquire(&Holder::tenant("t")).expect("a permit");
        let text = metrics.render().expect("renders");
        assert!(text.contains("verbatim_stage_utilisation_ratio{stage=\"decode\"} 0.25"), "{text}");
        let shown = StageFigures { stage: "decode", permits: 4, held: 1, waiting: 0, refused: 0 };
        assert_eq!(metrics.limits.stages(), [shown]);
    }

    #[test]
    fn a_process_over_its_limit_has_no_memory_left() {
        assert_eq!(free_memory(Some(1)), Some(0));
        assert!(free_memory(None).is_none_or(|free| free > 0));
        assert!(free_disk(&std::env::temp_dir()).is_some_and(|free| free > 0));
        assert_eq!(free_disk(Path::new("/no/such/folder")), None);
    }
}
