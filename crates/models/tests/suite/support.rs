//! A hub on this machine: the endpoints that hf-hub uses, with large files behind a redirect to another host as the
//! real one has them, and with faults to order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures::StreamExt;
use sha1::{Digest, Sha1};
use sha2::Sha256;
use verbatim_models::{HubTimeouts, KnownModel, PullOptions, SourceChoice};

/// What the hub does wrong, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Answers that begin at this byte break off after a few bytes, so many times.
    Cut { at: usize, times: u32 },
    /// Answers that begin at this byte never go on, so many times.
    Stall { at: usize, times: u32 },
}

#[derive(Default)]
struct Shared {
    files: BTreeMap<String, Bytes>,
    large: Vec<String>,
    fault: Option<Fault>,
    lies: bool,
    asked: Vec<String>,
    mirror: String,
}

/// The hub; its servers end with the test's runtime.
pub(crate) struct FakeHub {
    endpoint: String,
    shared: Arc<Mutex<Shared>>,
}

impl FakeHub {
    /// A hub with these files; those over 1 MB count as large.
    pub(crate) async fn start(files: &[(&str, Bytes)]) -> anyhow::Result<Self> {
        let large = files.iter().filter(|(_, body)| body.len() > 1_000_000);
        let large = large.map(|(name, _)| (*name).to_owned()).collect();
        let files = files.iter().map(|(name, body)| ((*name).to_owned(), body.clone())).collect();
        let shared = Arc::new(Mutex::new(Shared { files, large, ..Shared::default() }));
        let router = Router::new()
            .route("/api/models/{owner}/{repo}/revision/{revision}", get(info))
            .route("/{owner}/{repo}/resolve/{revision}/{file}", get(resolve))
            .route("/mirror/{file}", get(mirror))
            .with_state(shared.clone());
        let endpoint = serve(router.clone()).await?;
        locked(&shared).mirror = serve(router).await?;
        Ok(Self { endpoint, shared })
    }

    /// Options that use this hub, with short pauses.
    pub(crate) fn options(&self) -> PullOptions {
        options(self.endpoint.clone())
    }

    /// From now on this goes wrong.
    pub(crate) fn break_with(&self, fault: Fault) {
        locked(&self.shared).fault = Some(fault);
    }

    /// Whether the hub serves other bytes than it tells the checksum of.
    pub(crate) fn lie(&self, lies: bool) {
        locked(&self.shared).lies = lies;
    }

    /// The ranges of `file` that were asked for since the last call, and `info` for each listing.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut locked(&self.shared).asked)
    }
}

/// Options for the hub at `endpoint`, without waits and without packages' Python.
pub(crate) fn options(endpoint: String) -> PullOptions {
    let ms = std::time::Duration::from_millis;
    PullOptions {
        endpoint,
        source: SourceChoice::Auto,
        python: "/nonexistent/python3".into(),
        timeouts: HubTimeouts { connect: ms(5000), idle: ms(20_000), attempts: 3, pause: ms(1) },
        ..PullOptions::default()
    }
}

/// A model that lives on the hub alone.
pub(crate) fn model(pins: &'static [(&'static str, &'static str)]) -> &'static KnownModel {
    Box::leak(Box::new(KnownModel {
        name: "test",
        aliases: &[],
        repository: "owner/faster-whisper-test",
        revision: "0123456789012345678901234567890123456789",
        multilingual: false,
        bytes: 1,
        pins,
        packages: &[],
    }))
}

async fn serve(router: Router) -> anyhow::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(format!("http://{address}"))
}

type Hub = Arc<Mutex<Shared>>;

fn locked(hub: &Hub) -> std::sync::MutexGuard<'_, Shared> {
    hub.lock().unwrap_or_else(PoisonError::into_inner)
}

fn git_id(body: &[u8]) -> String {
    hex::encode(Sha1::new().chain_update(format!("blob {}\0", body.len())).chain_update(body).finalize())
}

async fn info(State(hub): State<Hub>) -> Response {
    let mut hub = locked(&hub);
    hub.asked.push("info".to_owned());
    let siblings: Vec<_> = hub
        .files
        .iter()
        .map(|(name, body)| {
            let mut sibling =
                serde_json::json!({ "rfilename": name, "size": body.len(), "blobId": git_id(body) });
            if hub.large.contains(name) {
                sibling["lfs"] = serde_json::json!({ "sha256": hex::encode(Sha256::digest(body)) });
            }
            sibling
        })
        .collect();
    Json(serde_json::json!({ "sha": "0123", "siblings": siblings })).into_response()
}

type Parts = (String, String, String, String);

async fn resolve(
    State(hub): State<Hub>,
    Path((.., revision, file)): Path<Parts>,
    headers: HeaderMap,
) -> Response {
    let mut shared = locked(&hub);
    let Some(body) = shared.files.get(&file).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut response = if shared.large.contains(&file) {
        let mut away = Redirect::temporary(&format!("{}/mirror/{file}", shared.mirror)).into_response();
        if let Ok(sha256) = HeaderValue::from_str(&format!("\"{}\"", hex::encode(Sha256::digest(&body)))) {
            away.headers_mut().insert("x-linked-etag", sha256);
        }
        away
    } else {
        range_of(&mut shared, &file, &headers)
    };
    if let Ok(revision) = HeaderValue::from_str(&revision) {
        response.headers_mut().insert("x-repo-commit", revision);
    }
    response
}

async fn mirror(State(hub): State<Hub>, Path(file): Path<String>, headers: HeaderMap) -> Response {
    range_of(&mut locked(&hub), &file, &headers)
}

fn range_of(shared: &mut Shared, file: &str, headers: &HeaderMap) -> Response {
    let whole = shared.files.get(file).cloned().unwrap_or_default();
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    let (start, stop) = range.trim_start_matches("bytes=").split_once('-').unwrap_or(("0", ""));
    let start: usize = start.parse().unwrap_or(0);
    let stop = stop.parse().unwrap_or(whole.len()).min(whole.len() - 1) + 1;
    let mut part = whole.slice(start..stop);
    let only_asks_for_the_size = stop == 1;
    if !only_asks_for_the_size {
        shared.asked.push(format!("{file} {start}"));
        if shared.lies {
            part = vec![0; part.len()].into();
        }
    }
    let response = Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header(header::ETAG, format!("\"{}\"", git_id(&whole)))
        .header(header::CONTENT_LENGTH, part.len())
        .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{}", stop - 1, whole.len()));
    let body = if only_asks_for_the_size { Body::from(part) } else { faulty(&mut shared.fault, start, part) };
    response.body(body).unwrap_or_default()
}

/// The part as it leaves the hub: whole, or as the fault has it.
fn faulty(fault: &mut Option<Fault>, start: usize, part: Bytes) -> Body {
    let head = futures::stream::iter([Ok(part.slice(..part.len().min(1000)))]);
    match fault {
        Some(Fault::Cut { at, times: times @ 1.. }) if *at == start => {
            *times -= 1;
            let cut = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            Body::from_stream(head.chain(futures::stream::iter([Err(cut)])))
        }
        Some(Fault::Stall { at, times: times @ 1.. }) if *at == start => {
            *times -= 1;
            Body::from_stream(head.chain(futures::stream::pending::<std::io::Result<Bytes>>()))
        }
        _ => Body::from(part),
    }
}
