//! A few of this process's metrics as figures, for people who have no Prometheus at hand.

use prometheus::core::Collector;
use prometheus::proto::{Histogram, Metric};

use crate::metrics::{DedupeOutcome, Metrics};

/// The requests of one route, since the process began.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteFigures {
    /// The route's template.
    pub route: String,
    /// The method.
    pub method: String,
    /// Requests answered.
    pub requests: u64,
    /// Seconds until the head of the response, on average.
    pub mean_secs: f64,
    /// Seconds within which half, 95 % and 99 % of them were answered, as far as the buckets of the histogram tell.
    pub quantiles: [f64; 3],
}

/// Which quantiles are told.
const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

impl Metrics {
    /// Submissions by where their answer came from.
    pub fn submission_counts(&self) -> [(DedupeOutcome, u64); 4] {
        DedupeOutcome::ALL.map(|outcome| (outcome, self.submissions_of(outcome)))
    }

    /// Response times of every route that was asked for, the busiest first.
    pub fn routes(&self) -> Vec<RouteFigures> {
        let families = self.http_seconds.collect();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        let mut routes: Vec<RouteFigures> = metrics.map(figures).collect();
        routes.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.route.cmp(&b.route)));
        routes
    }
}

fn figures(metric: &Metric) -> RouteFigures {
    let label = |name| {
        let pair = metric.get_label().iter().find(|pair| pair.name() == name);
        pair.map_or_else(String::new, |pair| pair.value().to_owned())
    };
    let histogram = metric.get_histogram();
    let requests = histogram.get_sample_count();
    RouteFigures {
        route: label("route"),
        method: label("method"),
        requests,
        mean_secs: if requests == 0 { 0.0 } else { histogram.get_sample_sum() / requests as f64 },
        quantiles: QUANTILES.map(|quantile| within(histogram, quantile)),
    }
}

/// As Prometheus's `histogram_quantile`: within its bucket, observations are taken to lie evenly; what lies beyond the
/// last bucket, at its bound.
fn within(histogram: &Histogram, quantile: f64) -> f64 {
    let rank = quantile * histogram.get_sample_count() as f64;
    let (mut below, mut lower) = (0, 0.0);
    for bucket in histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()) {
        let (count, upper) = (bucket.cumulative_count(), bucket.upper_bound());
        if count as f64 >= rank && count > below {
            return lower + (upper - lower) * (rank - below as f64) / (count - below) as f64;
        }
        (below, lower) = (count, upper);
    }
    lower
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_where_the_observations_do() {
        let metrics = Metrics::new().expect("metrics have distinct names");
        let jobs = metrics.http_seconds.with_label_values(&["/v1/jobs", "GET"]);
        // 90 within 1 ms, 10 between 25 and 50 ms, and on another route one that took for ever.
        (0..90).for_each(|_| jobs.observe(0.0008));
        (0..10).for_each(|_| jobs.observe(0.03));
        metrics.http_seconds.with_label_values(&["/v1/audio", "POST"]).observe(1e6);

        let routes = metrics.routes();
        assert_eq!(routes.len(), 2);
        let [jobs, audio] = &routes[..] else { panic!("{routes:?}") };
        assert_eq!((jobs.route.as_str(), jobs.method.as_str(), jobs.requests), ("/v1/jobs", "GET", 100));
        assert!((jobs.mean_secs - 0.003_72).abs() < 1e-9);
        let [half, most, nearly_all] = jobs.quantiles;
        assert!(half <= 0.001 && (0.025..0.05).contains(&most) && most < nearly_all && nearly_all < 0.05);
        assert_eq!(audio.quantiles, [60.0; 3]);
    }

    #[test]
    fn submissions_are_counted_by_origin() {
        let metrics = Metrics::new().expect("metrics have distinct names");
        metrics.count_submission(DedupeOutcome::Cached);
        let cached =
            metrics.submission_counts().into_iter().find(|(outcome, _)| *outcome == DedupeOutcome::Cached);
        assert_eq!(cached, Some((DedupeOutcome::Cached, 1)));
    }
}
