//! What is counted of the limits that protect the service.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use verbatim_core::places::{PlacesGauge, PlacesUse};
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
    turned_away: IntCounterVec,
    stages: Mutex<Vec<StageGauge>>,
}

/// One stage of this process in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageFigures {
    /// Which.
    pub stage: &'static str,
    /// Places there are now.
    pub places: i64,
    /// Those taken.
    pub taken: i64,
    /// Who waits for one.
    pub waiting: i64,
    /// Who was turned away since the process began.
    pub turned_away: u64,
}

impl StageFigures {
    /// Part of the places that is taken.
    pub fn utilisation(&self) -> f64 {
        if self.places == 0 { 0.0 } else { self.taken as f64 / self.places as f64 }
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

    /// Where the places of this stage show how full they are.
    pub fn stage(&self, stage: &'static str) -> Box<dyn PlacesGauge> {
        let label = [stage];
        let gauge = StageGauge {
            stage,
            places: self.places.with_label_values(&label),
            taken: self.places_taken.with_label_values(&label),
            waiting: self.waiting.with_label_values(&label),
            utilisation: self.utilisation.with_label_values(&label),
            turned_away: self.turned_away.with_label_values(&label),
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

#[derive(Debug, Clone)]
struct StageGauge {
    stage: &'static str,
    places: IntGauge,
    taken: IntGauge,
    waiting: IntGauge,
    utilisation: Gauge,
    turned_away: IntCounter,
}

impl StageGauge {
    fn figures(&self) -> StageFigures {
        StageFigures {
            stage: self.stage,
            places: self.places.get(),
            taken: self.taken.get(),
            waiting: self.waiting.get(),
            turned_away: self.turned_away.get(),
        }
    }
}

impl PlacesGauge for StageGauge {
    fn show(&self, now: PlacesUse) {
        let figure = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.places.set(figure(now.places));
        self.taken.set(figure(now.taken));
        self.waiting.set(figure(now.waiting));
        self.utilisation.set(now.utilisation());
    }

    fn turned_away(&self) {
        self.turned_away.inc();
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
    use std::time::Duration;

    use verbatim_core::places::{Places, PlacesConfig, Sizing};

    use super::*;
    use crate::Metrics;

    #[tokio::test]
    async fn a_stage_shows_itself() {
        let metrics = Metrics::new().expect("metrics have distinct names");
        let config = PlacesConfig { sizing: Sizing::fixed(4), max_waiting: 0 };
        let places = Places::new(config, Vec::new(), metrics.limits.stage("decode"));
        let _one = places.take(Duration::ZERO).await.expect("a place");
        let text = metrics.render().expect("renders");
        assert!(text.contains("verbatim_stage_utilisation_ratio{stage=\"decode\"} 0.25"), "{text}");
        let shown = StageFigures { stage: "decode", places: 4, taken: 1, waiting: 0, turned_away: 0 };
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
