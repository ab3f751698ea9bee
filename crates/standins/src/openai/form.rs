//! The form of a request: documented fields and right values only.

use axum::body::Bytes;
use axum::extract::Multipart;
use serde_json::{Map, Value, json};
use verbatim_core::language::Language;

use crate::desk::Refusal;

/// Names of files that OpenAI takes; it goes by the name.
const EXTENSIONS: [&str; 9] = ["flac", "m4a", "mp3", "mp4", "mpeg", "mpga", "oga", "ogg", "wav"];
const FORMATS: [&str; 5] = ["json", "text", "srt", "verbose_json", "vtt"];
const GRANULARITIES: &str = "timestamp_granularities[]";

/// What was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) file: Bytes,
    pub(super) file_name: String,
    pub(super) model: String,
    pub(super) format: String,
    pub(super) language: Option<String>,
    pub(super) granularities: Vec<String>,
    pub(super) translates: bool,
    /// All of the form but the file.
    pub(super) fields: Value,
}

fn wrong(message: impl Into<String>) -> Refusal {
    Refusal::violation(400, "", message)
}

/// Reads the form; a field comes once, but for the granularities.
pub(super) async fn read(mut form: Multipart, translates: bool) -> Result<Asked, Refusal> {
    let (mut file, mut fields, mut granularities) = (None, Map::new(), Vec::new());
    while let Some(field) = form.next_field().await.map_err(|error| wrong(error.to_string()))? {
        let name = field.name().unwrap_or_default().to_owned();
        let file_name = field.file_name().map(str::to_owned);
        let body = field.bytes().await.map_err(|error| wrong(error.to_string()))?;
        if name == "file" {
            let file_name = file_name.ok_or_else(|| wrong("`file` has no file name"))?;
            if file.replace((file_name, body)).is_some() {
                return Err(wrong("`file` comes twice"));
            }
            continue;
        }
        let text = String::from_utf8(body.to_vec()).map_err(|_| wrong(format!("`{name}` is no text")))?;
        if name == GRANULARITIES {
            granularities.push(text);
        } else if fields.insert(name.clone(), json!(text)).is_some() {
            return Err(wrong(format!("`{name}` comes twice")));
        }
    }
    let (file_name, file) = file.ok_or_else(|| wrong("`file` is missing"))?;
    if !granularities.is_empty() {
        fields.insert(GRANULARITIES.to_owned(), json!(granularities));
    }
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(Asked {
        file,
        file_name,
        model: text("model").ok_or_else(|| wrong("you must provide a model parameter"))?,
        format: text("response_format").unwrap_or_else(|| "json".to_owned()),
        language: text("language"),
        granularities,
        translates,
        fields: Value::Object(fields),
    })
}

impl Asked {
    /// Whether words, or segments, get times.
    pub(super) fn wants(&self, granularity: &str) -> bool {
        if self.granularities.is_empty() {
            return granularity == "segment";
        }
        self.granularities.iter().any(|wanted| wanted == granularity)
    }

    /// Checks every field.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let known: &[&str] = if self.translates {
            &["model", "prompt", "response_format", "temperature"]
        } else {
            &["model", "language", "prompt", "response_format", "temperature", GRANULARITIES]
        };
        for (name, value) in self.fields.as_object().into_iter().flatten() {
            if !known.contains(&name.as_str()) {
                return Err(wrong(format!("unknown field `{name}`")));
            }
            if value.as_str().is_some_and(str::is_empty) {
                return Err(wrong(format!("`{name}` is empty")));
            }
        }
        let extension = self.file_name.rsplit_once('.').map_or("", |(_, extension)| extension);
        if !EXTENSIONS.contains(&extension) {
            return Err(wrong(format!("Invalid file format: `{}`", self.file_name)));
        }
        if !FORMATS.contains(&self.format.as_str()) {
            return Err(wrong(format!("response_format `{}`", self.format)));
        }
        if let Some(code) = &self.language
            && !Language::parse(code).is_ok_and(|language| language.code() == code)
        {
            return Err(wrong(format!("language `{code}` is no ISO-639-1 code")));
        }
        let temperature = self.fields.get("temperature").and_then(Value::as_str);
        let is_temperature = |text: &str| text.parse::<f64>().is_ok_and(|value| (0.0..=1.0).contains(&value));
        if temperature.is_some_and(|text| !is_temperature(text)) {
            return Err(wrong("temperature is not 0 to 1"));
        }
        if self.granularities.iter().any(|wanted| !["word", "segment"].contains(&wanted.as_str())) {
            return Err(wrong("timestamp granularities are `word` and `segment`"));
        }
        if !self.granularities.is_empty() && self.format != "verbose_json" {
            return Err(wrong("timestamp granularities need `verbose_json`"));
        }
        Ok(())
    }
}
