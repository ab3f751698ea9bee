//! The JSON that comes with requests: documented fields and right types only.

use serde_json::{Map, Value};

use crate::desk::Refusal;

/// What a `definition` asks for.
#[derive(Debug, Default)]
pub(super) struct Definition {
    pub(super) locales: Vec<String>,
    pub(super) channels: Vec<usize>,
    pub(super) speakers: bool,
}

fn wrong(message: impl Into<String>) -> Refusal {
    Refusal::violation(400, "InvalidArgument", message)
}

/// An object with no other fields than these.
pub(super) fn object<'a>(
    value: &'a Value,
    name: &str,
    fields: &[&str],
) -> Result<&'a Map<String, Value>, Refusal> {
    let object = value.as_object().ok_or_else(|| wrong(format!("`{name}` is no object")))?;
    match object.keys().find(|key| !fields.contains(&key.as_str())) {
        Some(key) => Err(wrong(format!("`{name}` has an unknown field `{key}`"))),
        None => Ok(object),
    }
}

/// `xx-XX` and its relatives: a language, then a script or a region.
pub(super) fn locale(value: &Value) -> Result<String, Refusal> {
    let text = value.as_str().unwrap_or_default();
    let mut parts = text.split('-');
    let language = parts.next().unwrap_or_default();
    let is_language =
        (2..=3).contains(&language.len()) && language.bytes().all(|byte| byte.is_ascii_lowercase());
    let rest: Vec<&str> = parts.collect();
    let is_rest =
        |part: &&str| (2..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_language && !rest.is_empty() && rest.iter().all(is_rest) {
        return Ok(text.to_owned());
    }
    Err(wrong(format!("{value} is no locale such as `en-US`")))
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>, Refusal> {
    value.as_array().ok_or_else(|| wrong(format!("`{name}` is no list")))
}

fn speakers(value: &Value) -> Result<bool, Refusal> {
    let fields = object(value, "diarization", &["enabled", "maxSpeakers"])?;
    let enabled = fields.get("enabled").and_then(Value::as_bool);
    let enabled = enabled.ok_or_else(|| wrong("`diarization.enabled` is no boolean"))?;
    match fields.get("maxSpeakers") {
        None => Ok(enabled),
        Some(count) if count.as_u64().is_some_and(|count| (2..=35).contains(&count)) => Ok(enabled),
        Some(count) => Err(wrong(format!("`diarization.maxSpeakers` is {count}, not 2 to 35"))),
    }
}

fn phrase_list(value: &Value) -> Result<(), Refusal> {
    let fields = object(value, "phraseList", &["phrases", "biasingWeight"])?;
    let phrases = list(fields.get("phrases").unwrap_or(&Value::Null), "phraseList.phrases")?;
    let is_phrase = |phrase: &Value| phrase.as_str().is_some_and(|text| !text.trim().is_empty());
    if !phrases.iter().all(is_phrase) {
        return Err(wrong("`phraseList.phrases` has something that is no phrase"));
    }
    match fields.get("biasingWeight") {
        Some(weight) if !weight.as_f64().is_some_and(|weight| (1.0..=20.0).contains(&weight)) => {
            Err(wrong("`phraseList.biasingWeight` is not 1.0 to 20.0"))
        }
        _ => Ok(()),
    }
}

impl Definition {
    /// Reads a `definition`.
    pub(super) fn parse(value: &Value) -> Result<Self, Refusal> {
        let known = ["locales", "profanityFilterMode", "diarization", "channels", "phraseList"];
        let fields = object(value, "definition", &known)?;
        let mut definition = Self::default();
        for (name, value) in fields {
            match name.as_str() {
                "locales" => {
                    definition.locales = list(value, name)?.iter().map(locale).collect::<Result<_, _>>()?;
                }
                "profanityFilterMode" => profanity(value)?,
                "diarization" => definition.speakers = speakers(value)?,
                "phraseList" => phrase_list(value)?,
                _ => {
                    let channel = |value: &Value| match value.as_u64() {
                        Some(channel @ 0..=1) => Ok(channel as usize),
                        _ => Err(wrong(format!("`channels` has {value}, not 0 or 1"))),
                    };
                    definition.channels = list(value, name)?.iter().map(channel).collect::<Result<_, _>>()?;
                }
            }
        }
        if definition.speakers && definition.channels.len() > 1 {
            return Err(wrong("speakers are told apart in one channel only"));
        }
        Ok(definition)
    }
}

/// One of the modes that are documented.
pub(super) fn profanity(value: &Value) -> Result<(), Refusal> {
    match value.as_str() {
        Some("None" | "Masked" | "Removed" | "Tags") => Ok(()),
        _ => Err(wrong(format!("`profanityFilterMode` is {value}"))),
    }
}
