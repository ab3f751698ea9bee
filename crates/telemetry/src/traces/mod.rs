//! Spans of distributed traces: one trace leads from a request to the job that it submits, and on to the attempts at that
//! job, whichever processes they happen in.
//!
//! These spans are apart from those of the log, and all that leaves the house stands here: ids, names from closed sets,
//! numbers. What clients send (words, file names, addresses, keys) is in the log's spans at most. Where nothing is exported
//! they are never made.

mod export;

use std::future::Future;

use futures::future::Either;
use opentelemetry::Context;
use opentelemetry::context::FutureExt;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, get_active_span,
};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use verbatim_core::failure::FailureKind;
use verbatim_core::job::{Lease, Submission};
use verbatim_core::trace::TraceParent;

use crate::metrics::{DedupeOutcome, JobOutcome};

pub use export::{Collector, TraceError, Traces};

/// The target of the spans that are exported, and of nothing else; the log leaves it out.
pub(crate) const TARGET: &str = "verbatim_trace";
/// The status of a span that ended badly, as OpenTelemetry calls it.
const ERROR: &str = "ERROR";

/// A request at a route (the template, never the path), below the span that the client named.
pub fn request(method: &'static str, route: Option<&str>, parent: Option<TraceParent>) -> Span {
    let span = tracing::info_span!(
        target: TARGET,
        parent: None,
        "request",
        otel.name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}")),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        "error.type" = Empty,
        otel.status_code = Empty,
    );
    adopt(&span, parent);
    span
}

/// How a request was answered; `code` names the problem, where there was one.
pub fn answered(span: &Span, status: u16, code: Option<&'static str>) {
    span.record("http.response.status_code", i64::from(status));
    span.record("error.type", code);
    if status >= 500 {
        span.record("otel.status_code", ERROR);
    }
}

/// Handing a job to the store. What it leads to is below it.
pub fn submission() -> Span {
    tracing::info_span!(
        target: TARGET,
        "submit",
        otel.kind = "producer",
        job.id = Empty,
        submission.id = Empty,
        submission.outcome = Empty,
    )
}

/// What became of it. The job may be one that another submission made, in another trace.
pub fn submitted(span: &Span, submission: &Submission, outcome: DedupeOutcome) {
    span.record("job.id", submission.job_id.as_str());
    span.record("submission.id", submission.id.as_str());
    span.record("submission.outcome", outcome.label());
}

/// An attempt at a job, below the span that submitted it.
pub fn attempt(lease: &Lease) -> Span {
    let span = tracing::info_span!(
        target: TARGET,
        parent: None,
        "attempt",
        otel.kind = "consumer",
        job.id = lease.token.job_id.as_str(),
        job.attempt = i64::from(lease.attempt),
        job.engine = Empty,
        job.model = Empty,
        job.outcome = Empty,
        "error.type" = Empty,
        otel.status_code = Empty,
    );
    adopt(&span, lease.trace);
    span
}

/// Which engine and model an attempt was made with, or was to be made with.
pub fn worked_with(span: &Span, engine: &str, model: &str) {
    span.record("job.engine", engine);
    span.record("job.model", model);
}

/// How an attempt ended; `None` when nobody knows.
pub fn attempted(span: &Span, outcome: Option<JobOutcome>, failure: Option<FailureKind>) {
    span.record("job.outcome", outcome.map_or("unknown", JobOutcome::label));
    span.record("error.type", failure.map(FailureKind::code));
    if failure.is_some() || outcome.is_none() {
        span.record("otel.status_code", ERROR);
    }
}

/// A stage of an attempt: `fetch`, `decode`, `transcribe`, `store`, `finish`.
pub fn stage(name: &'static str) -> Span {
    tracing::info_span!(target: TARGET, "stage", otel.name = name)
}

/// A provider's work on a job; `local` when it is done in this process.
pub fn provider_call(provider: &str, model: &str, local: bool) -> Span {
    tracing::info_span!(
        target: TARGET,
        "provider call",
        otel.kind = if local { "internal" } else { "client" },
        provider.name = provider,
        provider.model = model,
        "error.type" = Empty,
        otel.status_code = Empty,
    )
}

/// How a provider failed.
pub fn provider_failed(span: &Span, kind: FailureKind) {
    span.record("error.type", kind.code());
    span.record("otel.status_code", ERROR);
}

/// The span around what is being done now, for what it leads to elsewhere. `None` where nothing is traced.
pub fn current() -> Option<TraceParent> {
    get_active_span(|span| parent_of(span.span_context()))
}

/// The trace that a span of this module belongs to, as it stands in `traceparent`. `None` where nothing is traced.
pub fn trace_id(span: &Span) -> Option<String> {
    let context = (!span.is_disabled()).then(|| span.context())?;
    Some(context.span().span_context().trace_id())
        .filter(|id| *id != TraceId::INVALID)
        .map(|id| id.to_string())
}

/// The same work below the span around what is being done now, also when another task does it.
pub fn carried<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let context = Context::current();
    if context.has_active_span() { Either::Left(work.with_context(context)) } else { Either::Right(work) }
}

fn parent_of(span: &SpanContext) -> Option<TraceParent> {
    TraceParent::new(span.trace_id().to_bytes(), span.span_id().to_bytes(), span.is_sampled())
}

/// Puts a span that has not begun below one of another process.
fn adopt(span: &Span, parent: Option<TraceParent>) {
    let Some(parent) = parent.filter(|_| !span.is_disabled()) else { return };
    let flags = if parent.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (trace, above) = (TraceId::from_bytes(parent.trace_id()), SpanId::from_bytes(parent.span_id()));
    let remote = SpanContext::new(trace, above, flags, true, TraceState::NONE);
    // Fails where spans are not exported.
    let _ = span.set_parent(Context::new().with_remote_span_context(remote));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_collector_nothing_is_traced() {
        let parent = TraceParent::new([1; 16], [2; 8], true);
        let span = request("POST", Some("/v1/jobs"), parent);
        assert!(span.is_disabled() && trace_id(&span).is_none());
        assert!(stage("decode").is_disabled());
        assert_eq!(carried(async { current() }).await, None);
    }
}
