//! Every metric of Verbatim: names, help, units, buckets. Labels come from closed sets, see `labels.rs`.

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use verbatim_core::PortError;
use verbatim_core::failure::FailureKind;
use verbatim_core::ports::Room;
use verbatim_core::ports::jobs::QueueStats;

pub use crate::labels::{DedupeOutcome, JobOutcome, RestartReason};

use crate::access::AccessMetrics;
use crate::caps::CapsMetrics;
use crate::labels::{REFUSALS, refusal};
use crate::limits::LimitMetrics;
use crate::link::LinkMetrics;
use crate::outages::OutageMetrics;
use crate::providers::ProviderMetrics;

/// Seconds from a millisecond to a minute: for requests.
const REQUEST_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];
/// Seconds from a tenth to hours: for jobs.
pub(crate) const JOB_BUCKETS: [f64; 12] =
    [0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 14400.0];
/// Processing time over audio time.
const REAL_TIME_BUCKETS: [f64; 10] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// All metrics of one process. Make one, share it.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Of the engines behind the service.
    pub providers: ProviderMetrics,
    /// Of keys and of the audit.
    pub access: AccessMetrics,
    /// Of the caps of tenants.
    pub caps: CapsMetrics,
    /// Of what protects it.
    pub limits: LimitMetrics,
    /// Of the way to the job store of a cluster.
    pub link: LinkMetrics,
    /// Of the job store's outages.
    pub outages: OutageMetrics,
    /// HTTP requests by `route` (the template, never the path), `method` and `status`.
    pub http_requests: IntCounterVec,
    /// HTTP latency by `route` and `method`, until the response's head.
    pub http_seconds: HistogramVec,
    /// Bytes of uploads that arrived.
    pub upload_bytes: IntCounter,
    /// Uploads being received.
    pub uploads_in_flight: IntGauge,
    submissions: IntCounterVec,
    refusals: IntCounterVec,
    attempts: IntCounterVec,
    failures: IntCounterVec,
    /// Time between submission and claim.
    pub queue_seconds: Histogram,
    /// Time between claim and finish of completed jobs, by `engine`.
    pub processing_seconds: HistogramVec,
    /// Processing time over audio time of completed jobs, by `engine`.
    pub real_time_factor: HistogramVec,
    /// Seconds of audio transcribed, by `engine`.
    pub audio_seconds: prometheus::CounterVec,
    /// Leases held by this process.
    pub leases_held: IntGauge,
    restarts: IntCounterVec,
    /// Whether this process's worker has passed a limit, claims nothing more and finishes what it holds (1).
    pub worker_retiring: IntGauge,
    /// Errors of the job store met by this process, by `operation`.
    pub store_errors: IntCounterVec,
    /// Results that were gone from the blob store although they should have been there.
    pub results_lost: IntCounter,
    /// Times that the job store had come back older than its blobs, or empty.
    pub job_store_went_back: IntCounter,
    blob_store_lost: IntGauge,
    blob_deletions: IntCounterVec,
    blobs_to_delete: IntGauge,
    queue_depth: IntGaugeVec,
    queue_oldest_seconds: GaugeVec,
    jobs: IntGaugeVec,
    remembered: IntGauge,
    remembered_limit: IntGauge,
    remembered_tenants: IntGauge,
    workers: IntGauge,
    queue_unserved: IntGauge,
    queue_isolated: IntGauge,
    resident_bytes: IntGauge,
    disk_free_bytes: IntGaugeVec,
    disk_size_bytes: IntGaugeVec,
    /// Seconds since the epoch at which this process started.
    pub start_seconds: Gauge,
}

/// Registers the metric `made`, which can only fail when two metrics share a name: a bug that the first start shows.
pub(crate) fn register<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<M>,
) -> prometheus::Result<M> {
    let metric = made?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

pub(crate) fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("verbatim")
}

pub(crate) fn histogram(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::new(name, help).namespace("verbatim").buckets(buckets.to_vec())
}

/// Starts each of these labels at 0: Prometheus sees no increase when a counter first appears at 1.
pub(crate) fn from_zero(counters: IntCounterVec, labels: &[&str]) -> IntCounterVec {
    for label in labels {
        counters.with_label_values(&[label]).inc_by(0);
    }
    counters
}

impl Metrics {
    /// Declares every metric.
    ///
    /// # Errors
    /// When two metrics share a name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = &registry;
        let counters =
            |name, help, labels: &[&str]| register(r, IntCounterVec::new(opts(name, help), labels));
        let gauges = |name, help, labels: &[&str]| register(r, IntGaugeVec::new(opts(name, help), labels));
        let histograms = |name, help, buckets: &[f64], labels: &[&str]| {
            register(r, HistogramVec::new(histogram(name, help, buckets), labels))
        };
        Ok(Self {
            providers: ProviderMetrics::new(r)?,
            access: AccessMetrics::new(r)?,
            caps: CapsMetrics::new(r)?,
            limits: LimitMetrics::new(r)?,
            link: LinkMetrics::new(r)?,
            outages: OutageMetrics::new(r)?,
            http_requests: counters(
                "http_requests_total",
                "HTTP requests answered.",
                &["route", "method", "status"],
            )?,
            http_seconds: histograms(
                "http_request_duration_seconds",
                "Time until the response's head.",
                &REQUEST_BUCKETS,
                &["route", "method"],
            )?,
            upload_bytes: register(
                r,
                IntCounter::with_opts(opts("upload_bytes_total", "Bytes of uploads that arrived.")),
            )?,
            uploads_in_flight: register(
                r,
                IntGauge::with_opts(opts("uploads_in_flight", "Uploads being received.")),
            )?,
            submissions: counters(
                "submissions_total",
                "Submissions by where their answer came from.",
                &["outcome"],
            )?,
            refusals: from_zero(
                counters(
                    "submissions_refused_total",
                    "Submissions that the job store did not take, by why.",
                    &["reason"],
                )?,
                &REFUSALS,
            ),
            attempts: counters("job_attempts_total", "Attempts by how they ended.", &["outcome"])?,
            failures: from_zero(
                counters("job_failures_total", "Failed attempts by kind.", &["kind"])?,
                &[FailureKind::AudioMissing.code()],
            ),
            queue_seconds: register(
                r,
                Histogram::with_opts(histogram(
                    "queue_duration_seconds",
                    "Time between submission and claim.",
                    &JOB_BUCKETS,
                )),
            )?,
            processing_seconds: histograms(
                "processing_duration_seconds",
                "Time between claim and finish of completed jobs.",
                &JOB_BUCKETS,
                &["engine"],
            )?,
            real_time_factor: histograms(
                "real_time_factor",
                "Processing time over audio time of completed jobs.",
                &REAL_TIME_BUCKETS,
                &["engine"],
            )?,
            audio_seconds: register(
                r,
                prometheus::CounterVec::new(
                    opts("audio_seconds_total", "Seconds of audio transcribed."),
                    &["engine"],
                ),
            )?,
            leases_held: register(
                r,
                IntGauge::with_opts(opts("leases_held", "Leases held by this process.")),
            )?,
            restarts: counters(
                "worker_restarts_total",
                "Restarts of this process by its worker, which passed a limit.",
                &["reason"],
            )?,
            worker_retiring: register(
                r,
                IntGauge::with_opts(opts(
                    "worker_retiring",
                    "Whether this worker passed a limit, claims nothing more and finishes what it holds (1).",
                )),
            )?,
            store_errors: counters(
                "store_errors_total",
                "Errors of the job store met by this process.",
                &["operation"],
            )?,
            results_lost: register(
                r,
                IntCounter::with_opts(opts(
                    "results_lost_total",
                    "Results asked for that were gone from the blob store although they should have been there.",
                )),
            )?,
            job_store_went_back: register(
                r,
                IntCounter::with_opts(opts(
                    "job_store_went_back_total",
                    "Times that the job store was seen to have come back older than its blobs, or empty.",
                )),
            )?,
            blob_store_lost: register(
                r,
                IntGauge::with_opts(opts(
                    "blob_store_lost",
                    "Whether this process sees another place than that of the audio and results of its job store (1).",
                )),
            )?,
            blob_deletions: counters(
                "blob_deletions_total",
                "Attempts of this process to delete blobs that no job needs, by how they ended.",
                &["outcome"],
            )?,
            blobs_to_delete: register(
                r,
                IntGauge::with_opts(opts(
                    "blobs_to_delete",
                    "Blobs listed for deletion, those in their grace too.",
                )),
            )?,
            queue_depth: gauges("queue_depth", "Jobs waiting.", &["tier"])?,
            queue_oldest_seconds: register(
                r,
                GaugeVec::new(
                    opts("queue_oldest_age_seconds", "How long the oldest job has waited."),
                    &["tier"],
                ),
            )?,
            jobs: gauges("jobs", "Jobs remembered, by state.", &["state"])?,
            remembered: register(
                r,
                IntGauge::with_opts(opts("remembered_submissions", "Submissions remembered.")),
            )?,
            remembered_limit: register(
                r,
                IntGauge::with_opts(opts(
                    "remembered_submissions_limit",
                    "The most submissions that may be remembered, which tenants share; 0 for no limit.",
                )),
            )?,
            remembered_tenants: register(
                r,
                IntGauge::with_opts(opts(
                    "remembered_tenants",
                    "Tenants of which submissions are remembered.",
                )),
            )?,
            workers: register(
                r,
                IntGauge::with_opts(opts("workers", "Workers that were heard of within the last lease.")),
            )?,
            queue_unserved: register(
                r,
                IntGauge::with_opts(opts("queue_unserved", "Queued jobs that no worker there can do.")),
            )?,
            queue_isolated: register(
                r,
                IntGauge::with_opts(opts(
                    "queue_isolated",
                    "Queued jobs that must run alone, since two workers died while they held them.",
                )),
            )?,
            resident_bytes: register(
                r,
                IntGauge::with_opts(opts("process_resident_memory_bytes", "Memory of this process in RAM.")),
            )?,
            // Without labels, but not there before it is set: not every process has such a disk.
            disk_free_bytes: gauges("disk_free_bytes", "Room on the disk that uploads go to.", &[])?,
            disk_size_bytes: gauges("disk_size_bytes", "Size of the disk that uploads go to.", &[])?,
            start_seconds: register(
                r,
                Gauge::with_opts(opts("process_start_time_seconds", "When this process started, Unix time.")),
            )?,
            registry,
        })
    }

    /// Counts a submission.
    pub fn count_submission(&self, outcome: DedupeOutcome) {
        self.submissions.with_label_values(&[outcome.label()]).inc();
    }

    /// Counts a submission that was not taken.
    pub fn count_refusal(&self, error: &PortError) {
        self.refusals.with_label_values(&[refusal(error)]).inc();
    }

    /// Submissions counted so far.
    pub(crate) fn submissions_of(&self, outcome: DedupeOutcome) -> u64 {
        self.submissions.with_label_values(&[outcome.label()]).get()
    }

    /// Counts the end of an attempt.
    pub fn count_attempt(&self, outcome: JobOutcome) {
        self.attempts.with_label_values(&[outcome.label()]).inc();
    }

    /// Counts a failed attempt.
    pub fn count_failure(&self, kind: FailureKind) {
        self.failures.with_label_values(&[kind.code()]).inc();
    }

    /// Sets whether the process sees the right blob store; called once per scrape.
    pub fn set_blob_store_lost(&self, lost: bool) {
        self.blob_store_lost.set(i64::from(lost));
    }

    /// Counts blobs that were to be deleted: how many are gone, and how many could not be deleted.
    pub fn count_deletions(&self, gone: usize, left: usize) {
        for (outcome, blobs) in [("deleted", gone), ("failed", left)] {
            self.blob_deletions.with_label_values(&[outcome]).inc_by(blobs as u64);
        }
    }

    /// Counts restarts that happened before this image of the process began: a counter goes on where the last image left it.
    pub fn count_restarts(&self, reason: RestartReason, count: u64) {
        self.restarts.with_label_values(&[reason.label()]).inc_by(count);
    }

    /// Sets the gauges that speak of the whole cluster; called once per scrape.
    pub fn set_queue(&self, stats: &QueueStats) {
        let clamp = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        for tier in &stats.tiers {
            let label = [tier.priority.as_str()];
            self.queue_depth.with_label_values(&label).set(clamp(tier.depth));
            self.queue_oldest_seconds.with_label_values(&label).set(tier.oldest_age.as_secs_f64());
        }
        for (state, count) in &stats.states {
            self.jobs.with_label_values(&[state.as_str()]).set(clamp(*count));
        }
        self.remembered.set(clamp(stats.submissions));
        self.remembered_limit.set(clamp(stats.max_submissions.unwrap_or(0)));
        self.remembered_tenants.set(clamp(stats.holders));
        self.workers.set(clamp(stats.workers));
        self.blobs_to_delete.set(clamp(stats.garbage));
        self.queue_isolated.set(clamp(stats.isolated));
        self.queue_unserved.set(clamp(stats.unserved.iter().map(|(_, jobs)| jobs).sum()));
    }

    /// Sets the gauges of the disk that uploads go to; called once per scrape.
    pub fn set_disk(&self, room: Room) {
        for (gauge, bytes) in
            [(&self.disk_free_bytes, room.free_bytes), (&self.disk_size_bytes, room.size_bytes)]
        {
            gauge.with_label_values::<&str>(&[]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// Everything in Prometheus's text format, with the process's memory read just now.
    ///
    /// # Errors
    /// When the encoder fails, which only malformed metrics make it do.
    pub fn render(&self) -> prometheus::Result<String> {
        if let Some(bytes) = resident_bytes() {
            self.resident_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        String::from_utf8(out).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

/// Resident memory of this process in bytes, where the system tells (Linux).
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_rendered_with_help_and_unit() {
        let metrics = Metrics::new().expect("metrics have distinct names");
        metrics.count_submission(DedupeOutcome::Cached);
        metrics.queue_seconds.observe(3.0);
        let text = metrics.render().expect("renders");
        assert!(text.contains("# HELP verbatim_submissions_total Submissions"));
        assert!(text.contains("verbatim_submissions_total{outcome=\"cached\"} 1"));
        assert!(text.contains("verbatim_queue_duration_seconds_bucket{le=\"5\"} 1"));
    }

    #[test]
    fn what_alerts_look_for_is_there_before_it_happens() {
        let metrics = Metrics::new().expect("metrics have distinct names");
        let text = metrics.render().expect("renders");
        for refused in REFUSALS {
            let zero = format!("verbatim_submissions_refused_total{{reason=\"{refused}\"}} 0");
            assert!(text.contains(&zero), "{zero}");
        }
        assert!(text.contains("verbatim_job_failures_total{kind=\"audio_missing\"} 0"));
    }

    #[test]
    fn a_process_without_a_disk_does_not_claim_that_one_is_full() {
        let metrics = Metrics::new().expect("metrics have distinct names");
        let render = || metrics.render().expect("renders");
        assert!(!render().contains("verbatim_disk"));
        metrics.set_disk(Room { free_bytes: 3, size_bytes: 1 << 40 });
        let text = render();
        assert!(text.contains("\nverbatim_disk_free_bytes 3\n"), "{text}");
        assert!(text.contains("\nverbatim_disk_size_bytes 1099511627776\n"), "{text}");
    }
}
