//! OpenAI's audio API, as API.md and OpenAI's reference have it.

mod form;
mod render;

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use axum::extract::multipart::MultipartRejection;
use axum::extract::{DefaultBodyLimit, Multipart, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router, middleware};
use serde_json::json;

use crate::audio::Audio;
use crate::desk::{self, Call, Desk, Latency, Limits, Manners, Refusal, lock};
use crate::front::Front;
use crate::hearing::Hearing;
use crate::server::Server;

use form::Asked;

const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";
const TRANSLATIONS: &str = "/v1/audio/translations";

/// What a service makes of `verbose_json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbose {
    /// What the reference says.
    Full,
    /// An answer without segments, as of servers that know the name only.
    WithoutSegments,
    /// 400, as of OpenAI's models after Whisper.
    Refused,
}

/// How the stand-in behaves.
#[derive(Debug, Clone)]
pub struct OpenAiSettings {
    /// The only key that is good; `None` asks for none.
    pub key: Option<String>,
    /// The models there are; the first also translates.
    pub models: Vec<String>,
    /// Largest request, in bytes.
    pub max_bytes: usize,
    /// What is let through.
    pub limits: Limits,
    /// How long a request takes.
    pub latency: Latency,
    /// What is heard.
    pub hearing: Hearing,
    /// What becomes of `verbose_json`.
    pub verbose: Verbose,
    /// The language that is heard when none is named, in English and lower case.
    pub language: String,
}

impl Default for OpenAiSettings {
    fn default() -> Self {
        Self {
            key: Some("openai-stand-in-key".to_owned()),
            models: vec!["whisper-1".to_owned()],
            max_bytes: 25 * 1024 * 1024,
            limits: Limits::default(),
            latency: Latency::default(),
            hearing: Hearing::Levels,
            verbose: Verbose::Full,
            language: "english".to_owned(),
        }
    }
}

struct OpenAi {
    settings: OpenAiSettings,
    hearing: Arc<Mutex<Hearing>>,
}

/// An OpenAI audio API on this machine. It ends when this is dropped.
pub struct OpenAiStandIn {
    front: Front,
}

impl Deref for OpenAiStandIn {
    type Target = Front;

    fn deref(&self) -> &Front {
        &self.front
    }
}

impl OpenAiStandIn {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(settings: OpenAiSettings) -> Self {
        let desk = Desk::new(Manners {
            limits: settings.limits.clone(),
            latency: settings.latency,
            is_limited: |path| [TRANSCRIPTIONS, TRANSLATIONS].contains(&path),
            is_spared: |_| false,
            error,
        });
        let hearing = Arc::new(Mutex::new(settings.hearing.clone()));
        let openai = Arc::new(OpenAi { settings, hearing: Arc::clone(&hearing) });
        let router = Router::new()
            .route(TRANSCRIPTIONS, post(transcribe))
            .route(TRANSLATIONS, post(transcribe))
            .fallback(unknown)
            .layer(DefaultBodyLimit::disable())
            .layer(middleware::from_fn_with_state(Arc::clone(&desk), desk::pass))
            .with_state(openai);
        let server = Server::start(|_| router).await.expect("a free port");
        Self { front: Front { server, desk, hearing } }
    }

    /// The base URL as OpenAI's clients have it: with `/v1` at its end.
    pub fn url(&self) -> String {
        format!("{}/v1", self.front.server.url())
    }
}

async fn unknown(Extension(call): Extension<Call>, uri: Uri) -> Response {
    call.refuse(&Refusal::violation(404, "not_found", format!("Invalid URL ({})", uri.path())))
}

async fn transcribe(
    State(openai): State<Arc<OpenAi>>,
    Extension(call): Extension<Call>,
    uri: Uri,
    headers: HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Response {
    match openai.answer(&call, &uri, &headers, form).await {
        Ok(response) => response,
        Err(refusal) => call.refuse(&refusal),
    }
}

impl OpenAi {
    fn authorised(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(key) = &self.settings.key else { return Ok(()) };
        let header = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        if header == format!("Bearer {key}").as_bytes() {
            return Ok(());
        }
        Err(Refusal::fair(401, "invalid_api_key", "Incorrect API key provided."))
    }

    async fn answer(
        &self,
        call: &Call,
        uri: &Uri,
        headers: &HeaderMap,
        form: Result<Multipart, MultipartRejection>,
    ) -> Result<Response, Refusal> {
        self.authorised(headers)?;
        let (settings, translates) = (&self.settings, uri.path() == TRANSLATIONS);
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length: usize = length.unwrap_or(0);
        if length > settings.max_bytes {
            let most = settings.max_bytes;
            let message = format!("413: Maximum content size limit ({most}) exceeded ({length} bytes read)");
            return Err(Refusal::fair(413, "", message));
        }
        let form = form.map_err(|error| Refusal::violation(400, "", error.to_string()))?;
        let asked = form::read(form, translates).await?;
        call.note(|seen| seen.definition = Some(asked.fields.clone()));
        asked.check()?;
        let models = if translates { &settings.models[..1] } else { &settings.models[..] };
        if !models.contains(&asked.model) {
            let message =
                format!("The model `{}` does not exist or you do not have access to it.", asked.model);
            return Err(Refusal::fair(404, "model_not_found", message));
        }
        if asked.format == "verbose_json" && settings.verbose == Verbose::Refused {
            let message =
                "response_format 'verbose_json' is not compatible with this model. Use 'json' instead.";
            return Err(Refusal::fair(400, "unsupported_value", message));
        }
        let undecodable = "The audio file could not be decoded or its format is not supported.";
        let audio = Audio::read(&asked.file).map_err(|_| Refusal::fair(400, "", undecodable))?;
        call.note(|seen| seen.audio_ms = Some(audio.duration_ms));
        if audio.duration_ms < 100 {
            let message = "Audio file is too short. Minimum audio length is 0.1 seconds.";
            return Err(Refusal::fair(400, "audio_too_short", message));
        }
        let phrases = lock(&self.hearing).hear(&audio, &[]);
        Ok(render::response(&asked, &phrases, audio.duration_ms, self))
    }

    /// The full name of the language.
    fn language(&self, asked: &Asked) -> String {
        let named =
            asked.language.as_deref().and_then(|code| verbatim_core::language::Language::parse(code).ok());
        named.map_or_else(|| self.settings.language.clone(), |language| language.name().to_owned())
    }
}

/// The shape of OpenAI's errors; an empty code is `null`.
fn error(status: u16, code: &str, message: &str) -> Response {
    let kind = match (status, code) {
        (_, "insufficient_quota") => "insufficient_quota",
        (429, _) => "requests",
        (413 | 500.., _) => "server_error",
        _ => "invalid_request_error",
    };
    let code = match code {
        "" => None,
        "TooManyRequests" => Some("rate_limit_exceeded"),
        "Unauthorized" => Some("invalid_api_key"),
        code => Some(code),
    };
    let param = (code == Some("unsupported_value")).then_some("response_format");
    let body = json!({ "error": { "message": message, "type": kind, "param": param, "code": code } });
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(body)).into_response()
}
