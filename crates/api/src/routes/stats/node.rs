//! This node's own figures: they begin with its process.

use verbatim_telemetry::metrics::{DedupeOutcome, resident_bytes};

use super::dto::{Node, ReuseCounts, Route, Stage};
use crate::dto::rfc3339;
use crate::routes::providers::rounded;
use crate::state::ApiState;

pub(super) fn figures(state: &ApiState) -> Node {
    let counts = state.metrics.submission_counts();
    let of = |outcome| counts.iter().find(|(known, _)| *known == outcome).map_or(0, |(_, count)| *count);
    let submissions = ReuseCounts {
        new: of(DedupeOutcome::New),
        attached: of(DedupeOutcome::Attached),
        cached: of(DedupeOutcome::Cached),
        replayed: of(DedupeOutcome::Replayed),
    };
    let reused = submissions.attached + submissions.cached;
    let [cache_hit_ratio, reuse_ratio] =
        [submissions.cached, reused].map(|part| ratio(part, submissions.new + reused));
    Node {
        started_at: rfc3339(state.started_at()),
        version: env!("CARGO_PKG_VERSION"),
        resident_bytes: resident_bytes(),
        submissions,
        cache_hit_ratio,
        reuse_ratio,
        stages: stages(state),
        routes: routes(state),
    }
}

/// Of nothing, nothing is known.
fn ratio(part: u64, whole: u64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "counts of one process")]
    let ratio = part as f64 / whole as f64;
    (whole > 0).then(|| rounded(ratio))
}

fn stages(state: &ApiState) -> Vec<Stage> {
    // Looking at them makes them shrink when that is due.
    state.stages().look();
    let figures = state.metrics.limits.stages();
    figures
        .into_iter()
        .map(|figures| Stage {
            stage: figures.stage,
            places: figures.permits,
            taken: figures.held,
            waiting: figures.waiting,
            utilisation: rounded(figures.utilisation()),
            turned_away: figures.refused,
        })
        .collect()
}

fn routes(state: &ApiState) -> Vec<Route> {
    let ms = |secs: f64| (secs * 100_000.0).round() / 100.0;
    let figures = state.metrics.routes().into_iter();
    figures
        .map(|figures| {
            let [p50, p95, p99] = figures.quantiles;
            Route {
                route: figures.route,
                method: figures.method,
                requests: figures.requests,
                mean_ms: ms(figures.mean_secs),
                p50_ms: ms(p50),
                p95_ms: ms(p95),
                p99_ms: ms(p99),
            }
        })
        .collect()
}
