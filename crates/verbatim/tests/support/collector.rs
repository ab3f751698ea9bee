//! An OpenTelemetry collector of the test's own: takes spans by OTLP over HTTP (protobuf) and remembers them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode as Status};
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A span as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Exported {
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    /// In hexadecimal digits, like all ids here.
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty where there is none.
    pub(crate) parent: String,
    pub(crate) failed: bool,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Who sent it.
    pub(crate) resource: BTreeMap<String, String>,
    /// All of it, to search in.
    pub(crate) whole: String,
}

impl Exported {
    fn of(span: &Span, resource: &[KeyValue]) -> Self {
        Self {
            name: span.name.clone(),
            kind: span.kind(),
            trace: hex::encode(&span.trace_id),
            id: hex::encode(&span.span_id),
            parent: hex::encode(&span.parent_span_id),
            failed: span.status.as_ref().is_some_and(|status| status.code() == Status::Error),
            attributes: named(&span.attributes),
            resource: named(resource),
            whole: format!("{span:?} {resource:?}"),
        }
    }

    /// An attribute that has to be there.
    pub(crate) fn attribute(&self, name: &str) -> Result<&str> {
        self.attributes.get(name).map(String::as_str).with_context(|| format!("no `{name}` in {self:?}"))
    }
}

fn named(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &KeyValue| match value.value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

/// Listens on a port of its own until it is dropped.
pub(crate) struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Exported>>>,
    listener: JoinHandle<()>,
}

impl Collector {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let spans = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&spans);
        let listener = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let taken = Arc::clone(&taken);
                let take = service_fn(move |request| take(request, Arc::clone(&taken)));
                // Ends with its client.
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), take));
            }
        });
        Ok(Self { url, spans, listener })
    }

    /// The base address, as it stands in the configuration.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// All that has arrived. A service that has ended orderly has sent all it had.
    pub(crate) fn spans(&self) -> Vec<Exported> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn take(
    request: Request<Incoming>,
    taken: Arc<Mutex<Vec<Exported>>>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    match read(request).await {
        Ok(spans) => taken.lock().unwrap_or_else(PoisonError::into_inner).extend(spans),
        Err(error) => {
            eprintln!("the collector refuses a request: {error:#}");
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
    }
    Ok(response)
}

async fn read(request: Request<Incoming>) -> Result<Vec<Exported>> {
    let (head, body) = request.into_parts();
    ensure!(head.method == "POST" && head.uri.path() == "/v1/traces", "{} {}", head.method, head.uri);
    let kind = head.headers.get("content-type").context("a content type")?;
    ensure!(kind == "application/x-protobuf", "{kind:?}");
    let export = ExportTraceServiceRequest::decode(body.collect().await?.to_bytes())?;
    let mut spans = Vec::new();
    for sent in export.resource_spans {
        let resource = sent.resource.unwrap_or_default().attributes;
        let all = sent.scope_spans.iter().flat_map(|scope| &scope.spans);
        spans.extend(all.map(|span| Exported::of(span, &resource)));
    }
    Ok(spans)
}
