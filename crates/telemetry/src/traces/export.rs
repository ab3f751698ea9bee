//! Sending spans to a collector: OTLP over HTTP, in batches, by a thread of their own that nobody waits for.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter,
};
use reqwest::redirect;
use tokio::runtime::Handle;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Layer, Registry};

use super::TARGET;

/// Spans that wait to be sent; more are thrown away.
const QUEUE: usize = 4096;
/// Spans in one request.
const BATCH: usize = 512;
/// How long spans wait for others.
const DELAY: Duration = Duration::from_secs(2);
/// How long the collector may take for one request.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the end of the process waits for the last spans to be sent.
const FAREWELL: Duration = Duration::from_secs(5);
/// How often it is said that spans are lost.
const COMPLAIN: Duration = Duration::from_secs(300);
/// The longest answer that is read, in bytes.
const MOST_ANSWER: usize = 64 * 1024;

/// Where spans go, and who says that they come from it.
#[derive(Debug, Clone)]
pub struct Collector {
    /// The whole URL, with `/v1/traces`.
    pub endpoint: String,
    /// The part of traces begun here that is recorded, from 0 to 1. One that a client has begun is recorded if the client
    /// says so.
    pub sample_ratio: f64,
    /// The version of the program.
    pub version: &'static str,
    /// What the process is for: `serve`, `api` or `worker`.
    pub role: &'static str,
    /// A name that no other process has.
    pub instance: String,
}

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// TLS cannot be set up.
    #[error("traces cannot be sent: the HTTP client cannot be made")]
    Client(#[from] reqwest::Error),
    /// The address or `OTEL_EXPORTER_OTLP_HEADERS` are not usable.
    #[error("traces cannot be sent")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// The way of this process's spans to their collector.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Makes ready to send. Nothing is sent yet, and the collector need not be there. Must be called on the runtime that
    /// is to send.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn to(collector: Collector) -> Result<Self, TraceError> {
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("verbatim/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(Sender { client, runtime: Handle::current() })
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(collector.endpoint)
            .with_timeout(PATIENCE)
            .build()?;
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        let batches = BatchSpanProcessor::builder(Discreet { exporter, losses: Mutex::default() });
        let resource = Resource::builder()
            .with_service_name("verbatim")
            .with_attribute(KeyValue::new("service.version", collector.version))
            .with_attribute(KeyValue::new("service.instance.id", collector.instance))
            .with_attribute(KeyValue::new("verbatim.role", collector.role))
            .build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(collector.sample_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(batches.with_batch_config(config).build())
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        Ok(Self(provider))
    }

    /// What takes the spans of [`super`], and neither other spans nor events: those have what clients send in them, and
    /// what the exporter itself does must not make spans.
    pub(crate) fn layer(&self) -> impl Layer<Registry> + Send + Sync + use<> {
        OpenTelemetryLayer::new(self.0.tracer("verbatim"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(TARGET, tracing::Level::INFO))
    }

    /// Sends what there is, within bounds; spans that end later are lost.
    pub async fn end(self) {
        let ending = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FAREWELL));
        match ending.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans may not have been sent"),
            Err(error) => tracing::error!(%error, "the sending of spans broke down"),
        }
    }
}

/// Sends for the exporter's thread, which has no runtime of its own.
struct Sender {
    client: reqwest::Client,
    runtime: Handle,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let sending = send(self.client.clone(), request);
        self.runtime.spawn(sending).await?.map_err(Into::into)
    }
}

async fn send(client: reqwest::Client, request: reqwest::Request) -> reqwest::Result<Response<Bytes>> {
    let mut answer = client.execute(request).await?;
    let mut body = BytesMut::new();
    while body.len() < MOST_ANSWER
        && let Some(piece) = answer.chunk().await?
    {
        body.extend_from_slice(&piece);
    }
    let mut response = Response::new(body.freeze());
    *response.status_mut() = answer.status();
    std::mem::swap(response.headers_mut(), answer.headers_mut());
    Ok(response)
}

/// An exporter that says seldom that it fails, however many batches it loses.
#[derive(Debug)]
struct Discreet<E> {
    exporter: E,
    losses: Mutex<Losses>,
}

impl<E: SpanExporter> SpanExporter for Discreet<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let outcome = self.exporter.export(batch).await;
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        match &outcome {
            Ok(()) => {
                if let Some(lost) = losses.end() {
                    tracing::info!(lost, "the collector takes traces again");
                }
            }
            Err(error) => {
                if let Some(lost) = losses.add(spans, Instant::now()) {
                    tracing::warn!(%error, lost, "traces do not reach their collector (tracing.otlp_endpoint)");
                }
            }
        }
        outcome
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Spans that were lost and what was said of them.
#[derive(Debug, Default)]
struct Losses {
    lost: usize,
    /// Whether those who read the log think that spans are being lost.
    told: bool,
    complained_at: Option<Instant>,
}

impl Losses {
    /// Counts lost spans; returns how many there are by now when it is time to say so.
    fn add(&mut self, spans: usize, now: Instant) -> Option<usize> {
        self.lost += spans;
        if self.complained_at.is_some_and(|at| now.duration_since(at) < COMPLAIN) {
            return None;
        }
        (self.told, self.complained_at) = (true, Some(now));
        Some(self.lost)
    }

    /// The end of the losses; returns how many there were when somebody has been told of any.
    fn end(&mut self) -> Option<usize> {
        std::mem::take(&mut self.told).then(|| std::mem::take(&mut self.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_at_once_and_then_seldom() {
        let (mut losses, begin) = (Losses::default(), Instant::now());
        assert_eq!(losses.end(), None);
        assert_eq!(losses.add(3, begin), Some(3));
        assert_eq!(losses.add(5, begin + COMPLAIN / 2), None);
        assert_eq!(losses.add(2, begin + COMPLAIN), Some(10));
        assert_eq!(losses.end(), Some(10));
        assert_eq!(losses.end(), None);
        // A collector that comes and goes makes no more lines than one that stays away.
        assert_eq!(losses.add(1, begin + COMPLAIN), None);
        assert_eq!(losses.end(), None);
        assert_eq!(losses.add(1, begin + COMPLAIN * 2), Some(2));
    }
}
