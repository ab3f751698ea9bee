//! Batch transcription: audio by URL, a transcription that is polled, results in a storage of their own.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::{Azure, definition, query, versioned};
use crate::audio::Audio;
use crate::desk::{Call, Refusal, SUBSCRIPTION_KEY, lock};
use crate::hearing::Phrase;

const TICKS_PER_MS: u64 = 10_000;
/// What stands in for the signature of the result's URL.
const SIGNATURE: &str = "stand-in-signature";
/// Documented properties, and whether each is a boolean.
const PROPERTIES: [(&str, bool); 8] = [
    ("timeToLiveHours", false),
    ("wordLevelTimestampsEnabled", true),
    ("displayFormWordLevelTimestampsEnabled", true),
    ("profanityFilterMode", false),
    ("punctuationMode", false),
    ("diarization", false),
    ("channels", false),
    ("languageIdentification", false),
];

/// How batches go on from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRules {
    /// Polls that find a batch unfinished: the first of them `NotStarted`, the others `Running`.
    pub unfinished_polls: usize,
    /// Whether batches stay unfinished whatever the number of polls.
    pub held: bool,
    /// Code and message with which batches fail instead of succeeding.
    pub failure: Option<(&'static str, &'static str)>,
    /// What `Retry-After` says while a batch is unfinished, in seconds; `None` sends no such header.
    pub retry_after_secs: Option<u64>,
}

impl Default for BatchRules {
    fn default() -> Self {
        Self { unfinished_polls: 2, held: false, failure: None, retry_after_secs: Some(0) }
    }
}

#[derive(Debug, Clone)]
struct Batch {
    /// The body it was submitted with.
    asked: Value,
    polls: usize,
    outcome: Option<Outcome>,
}

#[derive(Debug, Clone)]
enum Outcome {
    /// The result files, one for each URL.
    Succeeded(Vec<Value>),
    Failed(String, String),
}

/// All batches; the index is the id.
#[derive(Debug)]
pub(super) struct Batches {
    pub(super) rules: BatchRules,
    list: Vec<Option<Batch>>,
}

impl Batches {
    pub(super) fn new(rules: &BatchRules) -> Self {
        Self { rules: rules.clone(), list: Vec::new() }
    }

    pub(super) fn forget(&mut self) {
        self.list.iter_mut().for_each(|batch| *batch = None);
    }

    pub(super) fn count(&self) -> usize {
        self.list.iter().flatten().count()
    }
}

/// `POST /speechtotext/transcriptions:submit`.
pub(super) async fn submit(
    State(azure): State<Arc<Azure>>,
    Extension(call): Extension<Call>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let checked =
        azure.authorised(&headers).and_then(|()| versioned(&uri)).and_then(|()| parse(&headers, &body));
    let asked = match checked {
        Ok(asked) => asked,
        Err(refusal) => return call.refuse(&refusal),
    };
    call.note(|seen| seen.definition = Some(asked.clone()));
    let id = {
        let mut batches = lock(&azure.batches);
        batches.list.push(Some(Batch { asked: asked.clone(), polls: 0, outcome: None }));
        name_of(batches.list.len() - 1)
    };
    let location = azure.self_url(&id, query(&uri, "api-version").unwrap_or_default());
    let body = azure.describe(&location, &asked, "NotStarted", None);
    (StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response()
}

fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Value, Refusal> {
    let wrong = |message: String| Refusal::violation(400, "InvalidRequest", message);
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/json") {
        return Err(Refusal::violation(415, "UnsupportedMediaType", format!("Content-Type `{kind}`")));
    }
    let body: Value = serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))?;
    let fields = definition::object(&body, "body", &["contentUrls", "locale", "displayName", "properties"])?;
    let urls = fields.get("contentUrls").and_then(Value::as_array).filter(|urls| !urls.is_empty());
    let is_url = |url: &Value| url.as_str().is_some_and(|url| url.starts_with("http"));
    if !urls.is_some_and(|urls| urls.iter().all(is_url)) {
        return Err(wrong("`contentUrls` is no list of URLs".to_owned()));
    }
    definition::locale(fields.get("locale").unwrap_or(&Value::Null))?;
    if fields.get("displayName").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(wrong("`displayName` is missing".to_owned()));
    }
    check_properties(fields.get("properties").unwrap_or(&Value::Null))?;
    Ok(body)
}

fn check_properties(properties: &Value) -> Result<(), Refusal> {
    let names = PROPERTIES.map(|(name, _)| name);
    let wrong = |message: String| Refusal::violation(400, "InvalidArgument", message);
    for (name, value) in definition::object(properties, "properties", &names)? {
        let boolean = PROPERTIES.iter().any(|(known, boolean)| known == name && *boolean);
        if boolean && !value.is_boolean() {
            return Err(wrong(format!("`properties.{name}` is no boolean")));
        }
        match name.as_str() {
            "profanityFilterMode" => definition::profanity(value)?,
            "diarization" => {
                definition::Definition::parse(&json!({ "diarization": value }))?;
            }
            "channels" => {
                definition::Definition::parse(&json!({ "channels": value }))?;
            }
            "languageIdentification" => {
                let fields = definition::object(value, name, &["candidateLocales", "mode"])?;
                let candidates = fields.get("candidateLocales").and_then(Value::as_array);
                let candidates = candidates.filter(|locales| (2..=10).contains(&locales.len()));
                let candidates =
                    candidates.ok_or_else(|| wrong("two to ten `candidateLocales`".to_owned()))?;
                candidates.iter().map(definition::locale).collect::<Result<Vec<_>, _>>()?;
            }
            _ => {}
        }
    }
    match properties["timeToLiveHours"].as_u64() {
        Some(6..=744) => Ok(()),
        _ => Err(wrong("`properties.timeToLiveHours` is not 6 to 744".to_owned())),
    }
}

/// `GET` of a transcription.
pub(super) async fn poll(
    State(azure): State<Arc<Azure>>,
    Extension(call): Extension<Call>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let (index, batch, rules) = match azure.checked(&uri, &headers, &id) {
        Ok(found) => found,
        Err(refusal) => return call.refuse(&refusal),
    };
    let location = azure.self_url(&id, query(&uri, "api-version").unwrap_or_default());
    let polls = batch.polls + 1;
    if batch.outcome.is_none() && (rules.held || polls <= rules.unfinished_polls) {
        azure.update(index, |batch| batch.polls = polls);
        let status = if polls == 1 { "NotStarted" } else { "Running" };
        let mut response = Json(azure.describe(&location, &batch.asked, status, None)).into_response();
        if let Some(secs) = rules.retry_after_secs {
            response.headers_mut().insert(header::RETRY_AFTER, secs.into());
        }
        return response;
    }
    let outcome = match (batch.outcome, rules.failure) {
        (Some(outcome), _) => outcome,
        (None, Some((code, message))) => Outcome::Failed(code.to_owned(), message.to_owned()),
        (None, None) => azure.work(&call, &batch.asked).await,
    };
    let body = match &outcome {
        Outcome::Succeeded(_) => azure.describe(&location, &batch.asked, "Succeeded", None),
        Outcome::Failed(code, message) => azure.describe(
            &location,
            &batch.asked,
            "Failed",
            Some(json!({ "code": code, "message": message })),
        ),
    };
    azure.update(index, |batch| batch.outcome = Some(outcome));
    Json(body).into_response()
}

/// `DELETE` of a transcription; one that is gone is deleted as well.
pub(super) async fn remove(
    State(azure): State<Arc<Azure>>,
    Extension(call): Extension<Call>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if let Err(refusal) = azure.authorised(&headers).and_then(|()| versioned(&uri)) {
        return call.refuse(&refusal);
    }
    if let Some(index) = index_of(&id)
        && let Some(batch) = lock(&azure.batches).list.get_mut(index)
    {
        *batch = None;
    }
    StatusCode::NO_CONTENT.into_response()
}

/// `GET …/files`.
pub(super) async fn files(
    State(azure): State<Arc<Azure>>,
    Extension(call): Extension<Call>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let found = azure.checked(&uri, &headers, &id);
    let results = match found {
        Ok((_, Batch { outcome: Some(Outcome::Succeeded(results)), .. }, _)) => results,
        Ok(_) => Vec::new(),
        Err(refusal) => return call.refuse(&refusal),
    };
    let link =
        |file: String| json!({ "contentUrl": format!("{}/results/{id}/{file}?sig={SIGNATURE}", azure.url) });
    let mut values = vec![
        json!({ "kind": "TranscriptionReport", "name": "report.json", "links": link("report.json".into()) }),
    ];
    for index in 0..results.len() {
        let name = format!("contenturl_{index}.json");
        values.push(json!({ "kind": "Transcription", "name": name, "links": link(format!("{index}.json")) }));
    }
    Json(json!({ "values": values })).into_response()
}

/// A result. It lies in a storage that knows signatures, and must not be shown the key.
pub(super) async fn result(
    State(azure): State<Arc<Azure>>,
    Extension(call): Extension<Call>,
    Path((id, file)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if headers.contains_key(SUBSCRIPTION_KEY) || headers.contains_key(header::AUTHORIZATION) {
        call.violation("the storage was shown the key or a token");
    }
    if query(&uri, "sig") != Some(SIGNATURE) {
        return call.refuse(&Refusal::violation(403, "AuthenticationFailed", "the signature is missing"));
    }
    let batch = index_of(&id).and_then(|index| lock(&azure.batches).list.get(index).cloned().flatten());
    let number = file.strip_suffix(".json").and_then(|number| number.parse::<usize>().ok());
    match (batch.and_then(|batch| batch.outcome), number) {
        (Some(Outcome::Succeeded(results)), Some(number)) if number < results.len() => {
            Json(results[number].clone()).into_response()
        }
        _ => call.refuse(&Refusal::fair(404, "BlobNotFound", "there is no such result")),
    }
}

fn name_of(index: usize) -> String {
    format!("00000000-0000-4000-8000-{index:012}")
}

fn index_of(id: &str) -> Option<usize> {
    id.rsplit('-').next()?.parse().ok()
}

impl Azure {
    fn self_url(&self, id: &str, version: &str) -> String {
        format!("{}/speechtotext/transcriptions/{id}?api-version={version}", self.url)
    }

    fn checked(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        id: &str,
    ) -> Result<(usize, Batch, BatchRules), Refusal> {
        self.authorised(headers)?;
        versioned(uri)?;
        let index = index_of(id);
        let batches = lock(&self.batches);
        let found = index.and_then(|index| Some((index, batches.list.get(index)?.clone()?)));
        let (index, batch) =
            found.ok_or_else(|| Refusal::fair(404, "NotFound", "there is no such transcription"))?;
        Ok((index, batch, batches.rules.clone()))
    }

    fn update(&self, index: usize, change: impl FnOnce(&mut Batch)) {
        if let Some(Some(batch)) = lock(&self.batches).list.get_mut(index) {
            change(batch);
        }
    }

    fn describe(&self, location: &str, asked: &Value, status: &str, error: Option<Value>) -> Value {
        let (path, version) = location.split_once('?').unwrap_or((location, ""));
        let mut body = json!({
            "self": location,
            "links": { "files": format!("{path}/files?{version}") },
            "displayName": asked["displayName"],
            "locale": asked["locale"],
            "createdDateTime": "2026-01-01T00:00:00Z",
            "lastActionDateTime": "2026-01-01T00:00:00Z",
            "status": status,
            "properties": asked["properties"],
        });
        if let Some(error) = error {
            body["properties"]["error"] = error;
        }
        body
    }

    /// Fetches the audio and hears it.
    async fn work(&self, call: &Call, asked: &Value) -> Outcome {
        let mut results = Vec::new();
        let urls = asked["contentUrls"].as_array().cloned().unwrap_or_default();
        for url in urls.iter().filter_map(Value::as_str) {
            let file = match self.fetch(url).await {
                Ok(file) => file,
                Err(error) => return Outcome::Failed("InvalidUri".to_owned(), error),
            };
            let audio = match Audio::read(&file) {
                Ok(audio) => audio,
                Err(error) => return Outcome::Failed("InvalidData".to_owned(), error),
            };
            call.note(|seen| seen.audio_ms = Some(audio.duration_ms));
            let channels = asked["properties"]["channels"].as_array().cloned().unwrap_or_default();
            let channels: Vec<usize> =
                channels.iter().filter_map(Value::as_u64).map(|channel| channel as usize).collect();
            let phrases = lock(&self.hearing).hear(&audio, &channels);
            results.push(render(&phrases, url, &audio, asked));
        }
        Outcome::Succeeded(results)
    }

    async fn fetch(&self, url: &str) -> Result<Bytes, String> {
        let response = self.http.get(url).send().await.map_err(|error| error.to_string())?;
        let response = response.error_for_status().map_err(|error| error.to_string())?;
        response.bytes().await.map_err(|error| error.to_string())
    }
}

/// Milliseconds as ISO 8601 has durations.
fn iso(ms: u64) -> String {
    format!("PT{}.{:03}S", ms / 1000, ms % 1000)
}

fn render(phrases: &[Phrase], source: &str, audio: &Audio, asked: &Value) -> Value {
    let properties = &asked["properties"];
    let with_words = properties["wordLevelTimestampsEnabled"].as_bool().unwrap_or(false);
    let with_speakers = properties["diarization"]["enabled"].as_bool().unwrap_or(false);
    let identifies = properties["languageIdentification"].is_object();
    let one = |phrase: &Phrase| {
        let words = |key: &str| -> Vec<Value> {
            let word = |word: &crate::hearing::HeardWord| {
                let mut body = json!({
                    "offset": iso(word.offset_ms),
                    "duration": iso(word.duration_ms),
                    "offsetInTicks": word.offset_ms * TICKS_PER_MS,
                    "durationInTicks": word.duration_ms * TICKS_PER_MS,
                    "confidence": phrase.confidence,
                });
                body[key] = json!(word.text);
                body
            };
            phrase.words.iter().map(word).collect()
        };
        let mut best = json!({
            "confidence": phrase.confidence,
            "lexical": phrase.text,
            "itn": phrase.text,
            "maskedITN": phrase.text,
            "display": phrase.text,
        });
        if with_words {
            best["words"] = json!(words("word"));
        }
        if properties["displayFormWordLevelTimestampsEnabled"].as_bool().unwrap_or(false) {
            best["displayWords"] = json!(words("displayText"));
        }
        let mut body = json!({
            "recognitionStatus": "Success",
            "channel": phrase.channel.unwrap_or(0),
            "offset": iso(phrase.offset_ms),
            "duration": iso(phrase.duration_ms),
            "offsetInTicks": phrase.offset_ms * TICKS_PER_MS,
            "durationInTicks": phrase.duration_ms * TICKS_PER_MS,
            "nBest": [best],
        });
        if let (true, Some(speaker)) = (with_speakers, phrase.speaker) {
            body["speaker"] = json!(speaker);
        }
        if identifies {
            body["locale"] = phrase.locale.as_ref().map_or(asked["locale"].clone(), |locale| json!(locale));
        }
        body
    };
    let text = phrases.iter().map(|phrase| phrase.text.as_str()).collect::<Vec<_>>().join(" ");
    json!({
        "source": source,
        "timestamp": "2026-01-01T00:00:00Z",
        "durationInTicks": audio.duration_ms * TICKS_PER_MS,
        "durationMilliseconds": audio.duration_ms,
        "duration": iso(audio.duration_ms),
        "combinedRecognizedPhrases": [{ "channel": 0, "lexical": text, "itn": text, "maskedITN": text, "display": text }],
        "recognizedPhrases": phrases.iter().map(one).collect::<Vec<_>>(),
    })
}
