//! What is counted of providers, the engines behind the service. `provider` is a name from the configuration.

use prometheus::{CounterVec, Gauge, GaugeVec, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use verbatim_core::failure::FailureKind;

use crate::metrics::{JOB_BUCKETS, histogram, opts, register};

/// What became of the need for a short-lived token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenOutcome {
    /// A fresh one was issued.
    Issued,
    /// One that was there was used again.
    Reused,
    /// None could be had.
    Failed,
}

impl TokenOutcome {
    fn label(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Reused => "reused",
            Self::Failed => "failed",
        }
    }
}

/// A call under way.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Metrics of providers.
#[derive(Debug)]
pub struct ProviderMetrics {
    /// Calls answered, by `provider` and `outcome` (`completed` or the code of a failure).
    requests: IntCounterVec,
    /// Jobs that were given to a provider, by `provider` and `choice` (`first`, `failover`).
    pub choices: IntCounterVec,
    /// Time between a call and its answer, by `provider`.
    pub seconds: HistogramVec,
    /// Time that jobs waited for room, by `provider`.
    pub wait_seconds: HistogramVec,
    /// Calls under way from this process, by `provider`.
    in_flight: IntGaugeVec,
    /// Calls that all nodes may have under way at once, as found, by `provider`.
    pub concurrency_limit: GaugeVec,
    /// Whether the breaker is closed (0), half open (1) or open (2), by `provider`.
    pub breaker: IntGaugeVec,
    /// Whether an operator paused it, by `provider`.
    pub paused: IntGaugeVec,
    tokens: IntCounterVec,
    /// Seconds of audio billed, by `provider`.
    pub billed_seconds: CounterVec,
    /// Money spent, in the configured currency, by `provider`.
    pub cost: CounterVec,
    /// Part of the daily budget that is spent, by `provider`.
    pub budget_used: GaugeVec,
    /// The same of the tenant who has spent most of it; tenants are too many for a label, and none of others' business.
    pub tenant_budget_used: Gauge,
}

impl ProviderMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let r = registry;
        let counters =
            |name, help, labels: &[&str]| register(r, IntCounterVec::new(opts(name, help), labels));
        let sums = |name, help| register(r, CounterVec::new(opts(name, help), &["provider"]));
        let gauges = |name, help| register(r, IntGaugeVec::new(opts(name, help), &["provider"]));
        let ratios = |name, help| register(r, GaugeVec::new(opts(name, help), &["provider"]));
        let times =
            |name, help| register(r, HistogramVec::new(histogram(name, help, &JOB_BUCKETS), &["provider"]));
        Ok(Self {
            requests: counters(
                "provider_requests_total",
                "Calls to providers by how they ended.",
                &["provider", "outcome"],
            )?,
            choices: counters(
                "provider_choices_total",
                "Jobs given to a provider, as the first or after another failed.",
                &["provider", "choice"],
            )?,
            seconds: times("provider_request_duration_seconds", "Time until a provider answered.")?,
            wait_seconds: times("provider_wait_seconds", "Time that jobs waited for room at a provider.")?,
            in_flight: gauges("provider_in_flight", "Calls under way from this process.")?,
            concurrency_limit: ratios(
                "provider_concurrency_limit",
                "Calls that all nodes may have under way at once, as found.",
            )?,
            breaker: gauges("provider_breaker_state", "Circuit breaker: 0 closed, 1 half open, 2 open.")?,
            paused: gauges("provider_paused", "Whether an operator paused the provider.")?,
            tokens: counters("tokens_total", "Needs for short-lived tokens by outcome.", &["outcome"])?,
            billed_seconds: sums("provider_billed_seconds_total", "Seconds of audio billed.")?,
            cost: sums("provider_cost_total", "Money spent, in the configured currency.")?,
            budget_used: ratios("provider_budget_used_ratio", "Part of the daily budget that is spent.")?,
            tenant_budget_used: register(
                r,
                Gauge::with_opts(opts(
                    "tenant_budget_used_ratio",
                    "Part of the daily budget of tenants that is spent, of the tenant with the least left.",
                )),
            )?,
        })
    }

    /// Counts a call that was answered: with a transcript, or with a failure of this kind.
    pub fn count_request(&self, provider: &str, failure: Option<FailureKind>) {
        let outcome = failure.map_or("completed", FailureKind::code);
        self.requests.with_label_values(&[provider, outcome]).inc();
    }

    /// Counts a call as under way until what is returned is dropped.
    #[must_use]
    pub fn count_in_flight(&self, provider: &str) -> InFlight {
        let gauge = self.in_flight.with_label_values(&[provider]);
        gauge.inc();
        InFlight(gauge)
    }

    /// Counts the need for a token.
    pub fn count_token(&self, outcome: TokenOutcome) {
        self.tokens.with_label_values(&[outcome.label()]).inc();
    }
}
