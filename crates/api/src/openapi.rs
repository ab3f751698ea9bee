//! What `/openapi.json` says beside the handlers: the title page and the forms, which are read field by field and so
//! have no type of their own.

#![expect(dead_code, reason = "the forms exist for their schemas only")]

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use sha2::{Digest, Sha256};
use utoipa::openapi::schema::Type;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Content, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi, ToSchema};
use verbatim_core::api_key::Scope;

use crate::problem::ApiStyle;

/// The title page.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Verbatim",
        description = "Speech to text. Two faces over one queue: the native job API, and OpenAI's audio API, so that existing clients work unchanged.\n\nErrors of the native API are RFC 9457 problems; `code` is stable. Every response has an `x-request-id`.\n\nWhere keys are on, send yours as `Authorization: Bearer <key>` or as `X-API-Key`; each sees its own tenant's jobs only.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "jobs", description = "Submit audio, follow the job, fetch the transcript."),
        (name = "openai", description = "For OpenAI's clients: point their `base_url` at `/v1` of this server."),
        (name = "admin", description = "For operators: jobs that failed for good, providers, tenants, keys. Takes a key with the scope `admin`."),
        (name = "operations", description = "Health, readiness, metrics, figures."),
    ),
    components(schemas(crate::problem::Problem)),
    modifiers(&Keys),
)]
pub(crate) struct TitlePage;

/// The document as it is sent: written once, since writing it takes longer than anything else that needs no key.
#[derive(Clone)]
pub(crate) struct Document {
    bytes: Bytes,
    tag: HeaderValue,
}

impl Document {
    /// This document, written.
    pub(crate) fn of(document: &utoipa::openapi::OpenApi) -> Self {
        let bytes = Bytes::from(serde_json::to_vec(document).unwrap_or_else(|error| {
            tracing::error!(%error, "the OpenAPI document cannot be written");
            b"{}".to_vec()
        }));
        let tag = format!("\"{}\"", &hex::encode(Sha256::digest(&bytes))[..32]);
        let tag = HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\""));
        Self { bytes, tag }
    }

    /// The answer to a request with these headers: nothing but its name for whoever has it already.
    pub(crate) fn answer(&self, headers: &HeaderMap) -> axum::response::Response {
        let tag = (header::ETAG, self.tag.clone());
        if headers.get(header::IF_NONE_MATCH) == Some(&self.tag) {
            return (StatusCode::NOT_MODIFIED, [tag]).into_response();
        }
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        ([tag, kind], self.bytes.clone()).into_response()
    }
}

/// The headers in which a key may come.
const SCHEMES: [&str; 2] = ["bearer", "api_key"];

/// Names the two headers in which a key may come.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("vbk_…").build();
        let header = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(SCHEMES[0], SecurityScheme::Http(bearer));
        components.add_security_scheme(SCHEMES[1], SecurityScheme::ApiKey(header));
    }
}

/// Says of every route in `document` that it takes a key with this scope, and what happens without one.
pub(crate) fn asks_for_key(document: &mut utoipa::openapi::OpenApi, scope: Scope) {
    let name = scope.as_str();
    for (path, item) in &mut document.paths.paths {
        let style = ApiStyle::of(path);
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            operation.security =
                Some(SCHEMES.map(|scheme| SecurityRequirement::new(scheme, [name])).to_vec());
            let mut add = |status: &str, text: String| {
                let answer = || refusal(style, text).into();
                operation.responses.responses.entry(status.to_owned()).or_insert_with(answer);
            };
            add("401", "`unauthenticated`: no key, or one that opens nothing".to_owned());
            add("403", format!("`forbidden`: the key does not have the scope `{name}`"));
            add("503", "A dependency is down; see `Retry-After`".to_owned());
        }
    }
}

/// Says of every route in `document` that its requests are counted.
pub(crate) fn tells_limits(document: &mut utoipa::openapi::OpenApi) {
    let headers = [
        ("RateLimit-Limit", "Requests allowed, where they are limited"),
        ("RateLimit-Remaining", "Of these, requests left"),
        ("RateLimit-Reset", "Seconds until all of them are there again"),
    ];
    for item in document.paths.paths.values_mut() {
        let Some(operation) = &mut item.post else { continue };
        for answer in operation.responses.responses.values_mut() {
            let RefOr::T(answer) = answer else { continue };
            for (name, description) in headers {
                let schema = ObjectBuilder::new().schema_type(Type::Integer);
                let header = HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build();
                answer.headers.insert(name.to_owned(), RefOr::T(header));
            }
        }
    }
}

fn refusal(style: ApiStyle, description: String) -> Response {
    let (schema, media_type) = match style {
        ApiStyle::Native => ("Problem", "application/problem+json"),
        ApiStyle::OpenAi => ("OpenAiError", "application/json"),
    };
    let content = Content::new(Some(Ref::from_schema_name(schema)));
    ResponseBuilder::new().description(description).content(media_type, content).build()
}

/// The form of `POST /v1/jobs`.
#[derive(ToSchema)]
pub(crate) struct JobForm {
    /// The audio: wav, flac, mp3, ogg (Opus, Vorbis), m4a/mp4/aac or webm. Its content decides, not its name.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<u8>,
    /// One of `GET /v1/models`; the first of them when absent.
    #[schema(example = "tiny.en")]
    model: Option<String>,
    /// The language spoken, as a code (`de`) or an English name (`german`); detected when absent.
    #[schema(example = "en")]
    language: Option<String>,
    /// `transcribe` (default), or `translate` into English.
    #[schema(example = "transcribe")]
    task: Option<String>,
    /// Text that precedes the audio: names, spelling, style.
    #[schema(max_length = 4000)]
    prompt: Option<String>,
    /// Sampling temperature; 0 (default) chooses by itself.
    #[schema(minimum = 0, maximum = 1, default = 0)]
    temperature: Option<f32>,
    /// What gets times: `segment` (always) and `word`. May be given more than once.
    #[schema(rename = "timestamp_granularities[]", example = json!(["segment", "word"]))]
    timestamp_granularities: Option<Vec<String>>,
    /// Whether stretches without speech are skipped.
    #[schema(default = true)]
    vad: Option<bool>,
    /// `auto` (default) or the name of an engine.
    #[schema(example = "auto")]
    engine: Option<String>,
    /// `high`, `normal` (default) or `low`.
    #[schema(example = "normal")]
    priority: Option<String>,
    /// Your own notes: a JSON object of at most 16 strings, with names of at most 64 characters and values of at most 512.
    #[schema(example = r#"{"case":"17"}"#)]
    metadata: Option<String>,
    /// When the job has not ended by then, it fails.
    #[schema(minimum = 1, maximum = 604_800)]
    deadline_secs: Option<u64>,
    /// Whether speakers are told apart; needs an engine that can.
    #[schema(default = false)]
    diarize: Option<bool>,
}

/// The form of `POST /v1/audio/transcriptions`.
#[derive(ToSchema)]
pub(crate) struct TranscriptionForm {
    /// The audio.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<u8>,
    /// One of `GET /v1/models`, or `whisper-1` for the first of them.
    #[schema(example = "whisper-1")]
    model: Option<String>,
    /// The language spoken, as a code (`de`) or an English name (`german`); detected when absent.
    #[schema(example = "en")]
    language: Option<String>,
    /// Text that precedes the audio: names, spelling, style.
    #[schema(max_length = 4000)]
    prompt: Option<String>,
    /// `json` (default), `text`, `srt`, `verbose_json` or `vtt`.
    #[schema(example = "json")]
    response_format: Option<String>,
    /// Sampling temperature; 0 (default) chooses by itself.
    #[schema(minimum = 0, maximum = 1, default = 0)]
    temperature: Option<f32>,
    /// `segment` (default) and `word`; `word` with `verbose_json` only.
    #[schema(rename = "timestamp_granularities[]", example = json!(["word"]))]
    timestamp_granularities: Option<Vec<String>>,
    /// Whether the text is sent while it is decoded, as Server-Sent Events `transcript.text.delta` and
    /// `transcript.text.done`.
    #[schema(default = false)]
    stream: Option<bool>,
}

/// The form of `POST /v1/audio/translations`.
#[derive(ToSchema)]
pub(crate) struct TranslationForm {
    /// The audio.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<u8>,
    /// A multilingual one of `GET /v1/models`, or `whisper-1` for the first of them.
    #[schema(example = "base")]
    model: Option<String>,
    /// Text that precedes the audio, in English.
    #[schema(max_length = 4000)]
    prompt: Option<String>,
    /// `json` (default), `text`, `srt`, `verbose_json` or `vtt`.
    #[schema(example = "json")]
    response_format: Option<String>,
    /// Sampling temperature; 0 (default) chooses by itself.
    #[schema(minimum = 0, maximum = 1, default = 0)]
    temperature: Option<f32>,
}
