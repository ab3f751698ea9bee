//! Azure AI Speech, as API.md has its contract, with every path on one host.

mod auth;
mod batch;
mod definition;
mod fast;
mod short;

use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router, middleware};
use serde_json::json;
use verbatim_core::time::Clock;

use crate::clock::StandInClock;
use crate::desk::{self, Call, Desk, Latency, Limits, Manners, Refusal};
use crate::front::Front;
use crate::hearing::Hearing;
use crate::server::Server;

pub use auth::IssuedToken;
pub use batch::BatchRules;

const ISSUE_TOKEN: &str = "/sts/v1.0/issueToken";
const FAST: &str = "/speechtotext/transcriptions:transcribe";
const SUBMIT: &str = "/speechtotext/transcriptions:submit";
const SHORT: &str = "/speech/recognition/conversation/cognitiveservices/v1";
const API_VERSIONS: [&str; 2] = ["2024-11-15", "2025-10-15"];

/// How the stand-in behaves.
#[derive(Clone)]
pub struct AzureSettings {
    /// The only subscription key that is good.
    pub key: String,
    /// When tokens expire by, and nothing else.
    pub clock: Arc<dyn Clock>,
    /// How long a token is good.
    pub token_lifetime: Duration,
    /// What is let through of `:transcribe`, short audio and `:submit` together.
    pub limits: Limits,
    /// How long those take.
    pub latency: Latency,
    /// What is heard.
    pub hearing: Hearing,
    /// Longest audio that `:transcribe` takes.
    pub max_duration: Duration,
    /// Largest file that `:transcribe` takes.
    pub max_bytes: usize,
    /// How batches go on.
    pub batch: BatchRules,
}

impl Default for AzureSettings {
    fn default() -> Self {
        Self {
            key: "azure-stand-in-key".to_owned(),
            clock: Arc::new(StandInClock::new(1.0)),
            token_lifetime: Duration::from_secs(600),
            limits: Limits::default(),
            latency: Latency::default(),
            hearing: Hearing::Levels,
            max_duration: Duration::from_secs(2 * 3600),
            max_bytes: 250 * 1024 * 1024,
            batch: BatchRules::default(),
        }
    }
}

/// What the handlers share.
struct Azure {
    settings: AzureSettings,
    url: String,
    hearing: Arc<Mutex<Hearing>>,
    tokens: Mutex<Vec<IssuedToken>>,
    batches: Mutex<batch::Batches>,
    http: reqwest::Client,
}

/// An Azure AI Speech on this machine. It ends when this is dropped.
pub struct AzureStandIn {
    front: Front,
    azure: Arc<Azure>,
}

impl Deref for AzureStandIn {
    type Target = Front;

    fn deref(&self) -> &Front {
        &self.front
    }
}

impl AzureStandIn {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(settings: AzureSettings) -> Self {
        let desk = Desk::new(Manners {
            limits: settings.limits.clone(),
            latency: settings.latency,
            is_limited: |path| [FAST, SHORT, SUBMIT].contains(&path),
            is_spared: |path| path == ISSUE_TOKEN,
            error,
        });
        let mut shared = None;
        let server = Server::start(|address| {
            let azure = Arc::new(Azure {
                url: format!("http://{address}"),
                hearing: Arc::new(Mutex::new(settings.hearing.clone())),
                tokens: Mutex::default(),
                batches: Mutex::new(batch::Batches::new(&settings.batch)),
                http: reqwest::Client::new(),
                settings,
            });
            shared = Some(Arc::clone(&azure));
            router(azure, Arc::clone(&desk))
        });
        let server = server.await.expect("a free port");
        let azure = shared.expect("the router is made before the server starts");
        let hearing = Arc::clone(&azure.hearing);
        Self { front: Front { server, desk, hearing }, azure }
    }

    /// Scheme, host and port.
    pub fn url(&self) -> String {
        self.front.server.url()
    }

    /// The tokens issued so far.
    pub fn tokens(&self) -> Vec<IssuedToken> {
        desk::lock(&self.azure.tokens).clone()
    }

    /// Every token issued so far is refused from now on.
    pub fn revoke_tokens(&self) {
        for token in desk::lock(&self.azure.tokens).iter_mut() {
            token.revoked = true;
        }
    }

    /// Changes how batches go on, those under way too.
    pub fn batches_go(&self, rules: BatchRules) {
        desk::lock(&self.azure.batches).rules = rules;
    }

    /// Forgets every batch, so that polling answers 404.
    pub fn forget_batches(&self) {
        desk::lock(&self.azure.batches).forget();
    }

    /// How many batches there are that were submitted and not deleted.
    pub fn batches(&self) -> usize {
        desk::lock(&self.azure.batches).count()
    }
}

fn router(azure: Arc<Azure>, desk: Arc<Desk>) -> Router {
    Router::new()
        .route(ISSUE_TOKEN, post(auth::issue))
        .route(FAST, post(fast::transcribe))
        .route(SHORT, post(short::recognise))
        .route(SUBMIT, post(batch::submit))
        .route("/speechtotext/transcriptions/{id}", get(batch::poll))
        .route("/speechtotext/transcriptions/{id}", delete(batch::remove))
        .route("/speechtotext/transcriptions/{id}/files", get(batch::files))
        .route("/results/{id}/{file}", get(batch::result))
        .fallback(unknown)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(desk, desk::pass))
        .with_state(azure)
}

async fn unknown(Extension(call): Extension<Call>, uri: Uri) -> Response {
    call.refuse(&Refusal::violation(404, "NotFound", format!("there is no {}", uri.path())))
}

/// The shape of Azure's errors.
fn error(status: u16, code: &str, message: &str) -> Response {
    let body =
        json!({ "code": code, "message": message, "innerError": { "code": code, "message": message } });
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(body)).into_response()
}

/// The value of a query parameter.
fn query<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = uri.query().unwrap_or_default().split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Checks `api-version`.
fn versioned(uri: &Uri) -> Result<(), Refusal> {
    let version = query(uri, "api-version").unwrap_or_default();
    if API_VERSIONS.contains(&version) {
        return Ok(());
    }
    Err(Refusal::violation(400, "InvalidRequest", format!("api-version `{version}` is not supported")))
}
