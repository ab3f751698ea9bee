//! From form fields to what the domain calls options. Every refusal names the field.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use verbatim_core::language::Language;
use verbatim_core::model::{ModelCatalog, ModelInfo, names_none};
use verbatim_core::options::{ENGINE_AUTO, MAX_PROMPT_CHARS, Priority, Task, TranscribeOptions};

use crate::error::ApiError;
use crate::extract::form::Fields;

/// The options of the native API.
pub(crate) const NATIVE_FIELDS: [&str; 13] = [
    "file",
    "model",
    "language",
    "task",
    "prompt",
    "temperature",
    "timestamp_granularities",
    "vad",
    "engine",
    "priority",
    "metadata",
    "deadline_secs",
    "diarize",
];

/// The most notes in `metadata`, and the longest names and values, in characters.
const MAX_METADATA: (usize, usize, usize) = (16, 64, 512);
/// The most bytes of names and values in all: they are kept with every submission.
const MAX_METADATA_BYTES: usize = 4096;
/// The latest deadline: a week.
const MAX_DEADLINE_SECS: u64 = 7 * 24 * 3600;

/// What is asked for, and the model that is to do it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobRequest {
    /// What changes the words.
    pub(crate) options: TranscribeOptions,
    /// The model, resolved.
    pub(crate) model: ModelInfo,
    /// How urgent it is.
    pub(crate) priority: Priority,
    /// The client's own notes.
    pub(crate) metadata: BTreeMap<String, String>,
    /// After so long it is not worth doing.
    pub(crate) deadline: Option<Duration>,
}

impl JobRequest {
    /// From the fields of the native API.
    ///
    /// # Errors
    /// 400 that names the field and what it may be.
    pub(crate) fn native(fields: &Fields, models: &ModelCatalog) -> Result<Self, ApiError> {
        let task = choice(fields, "task", &[Task::Transcribe, Task::Translate], Task::as_str)?;
        let diarize = flag(fields, "diarize")?.unwrap_or(false);
        if diarize && !models.models().iter().any(|model| model.diarizes) {
            return Err(ApiError::invalid(
                "unsupported_option",
                "diarize",
                "no engine here tells speakers apart",
            ));
        }
        let asked = Asked { task: task.unwrap_or_default(), diarize };
        let (mut options, model) = common(fields, models, asked)?;
        options.vad = flag(fields, "vad")?.unwrap_or(options.vad);
        options.words = granularities(fields)?.words;
        let tiers = [Priority::High, Priority::Normal, Priority::Low];
        Ok(Self {
            options,
            model,
            priority: choice(fields, "priority", &tiers, Priority::as_str)?.unwrap_or_default(),
            metadata: metadata(fields)?,
            deadline: deadline(fields)?,
        })
    }

    /// From the fields that the OpenAI routes have as well; somebody is waiting.
    ///
    /// # Errors
    /// 400 that names the field and what it may be; 404 for an unknown model.
    pub(crate) fn openai(
        fields: &Fields,
        models: &ModelCatalog,
        task: Task,
        words: bool,
    ) -> Result<Self, ApiError> {
        let asked = Asked { task, diarize: false };
        let (mut options, model) = common(fields, models, asked).map_err(ApiError::into_openai)?;
        options.words = words;
        Ok(Self { options, model, priority: Priority::High, metadata: BTreeMap::new(), deadline: None })
    }
}

/// What not every model can, as far as it is not said by what both faces have.
#[derive(Debug, Clone, Copy)]
struct Asked {
    task: Task,
    diarize: bool,
}

/// What both faces have: model, language, prompt, temperature.
fn common(
    fields: &Fields,
    models: &ModelCatalog,
    Asked { task, diarize }: Asked,
) -> Result<(TranscribeOptions, ModelInfo), ApiError> {
    let engine = fields.one("engine")?.unwrap_or(ENGINE_AUTO);
    let named = fields.one("model")?;
    let mut model = model(models, engine, named)?;
    let language = fields.one("language")?.map(Language::parse).transpose();
    let mut options = TranscribeOptions {
        engine: engine.to_owned(),
        task,
        diarize,
        language: language
            .map_err(|error| ApiError::invalid("invalid_option", "language", error.to_string()))?,
        prompt: prompt(fields)?,
        temperature: temperature(fields)?,
        ..TranscribeOptions::for_model(&model.name)
    };
    // Who names neither model nor engine leaves the choice to us, also between engines.
    if engine == ENGINE_AUTO && names_none(named) && models.leaves_a_choice() {
        model = models.first_able(&options);
        options.any_model = true;
        options.model.clone_from(&model.name);
    }
    model.check(&options)?;
    Ok((options, model.clone()))
}

/// The model called `name` that `engine` runs.
fn model<'a>(models: &'a ModelCatalog, engine: &str, name: Option<&str>) -> Result<&'a ModelInfo, ApiError> {
    if engine == ENGINE_AUTO {
        return Ok(models.resolve(name)?);
    }
    let own: Vec<ModelInfo> =
        models.models().iter().filter(|model| model.engine == engine).cloned().collect();
    let Some(own) = ModelCatalog::new(own) else {
        let mut engines: Vec<&str> = models.models().iter().map(|model| model.engine.as_str()).collect();
        engines.dedup();
        return Err(bad_value("engine", engine, format_args!("{ENGINE_AUTO}, {}", engines.join(", "))));
    };
    let name = own.resolve(name)?.name.clone();
    let found = models.models().iter().find(|model| model.engine == engine && model.name == name);
    found.ok_or_else(ApiError::internal)
}

fn prompt(fields: &Fields) -> Result<Option<String>, ApiError> {
    let prompt = fields.one("prompt")?;
    if prompt.is_some_and(|prompt| prompt.chars().count() > MAX_PROMPT_CHARS) {
        let detail = format!("`prompt` is longer than {MAX_PROMPT_CHARS} characters");
        return Err(ApiError::invalid("invalid_option", "prompt", detail));
    }
    Ok(prompt.map(str::to_owned))
}

fn temperature(fields: &Fields) -> Result<f32, ApiError> {
    let Some(text) = fields.one("temperature")? else { return Ok(0.0) };
    match text.parse::<f32>() {
        // `-0` would be another job than `0`.
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value.abs()),
        _ => Err(bad_value("temperature", text, "a number from 0 to 1")),
    }
}

fn deadline(fields: &Fields) -> Result<Option<Duration>, ApiError> {
    let Some(text) = fields.one("deadline_secs")? else { return Ok(None) };
    match text.parse::<u64>() {
        Ok(secs) if (1..=MAX_DEADLINE_SECS).contains(&secs) => Ok(Some(Duration::from_secs(secs))),
        _ => Err(bad_value(
            "deadline_secs",
            text,
            format_args!("a whole number from 1 to {MAX_DEADLINE_SECS}"),
        )),
    }
}

fn metadata(fields: &Fields) -> Result<BTreeMap<String, String>, ApiError> {
    let Some(text) = fields.one("metadata")? else { return Ok(BTreeMap::new()) };
    let (pairs, key_chars, value_chars) = MAX_METADATA;
    let fits = |map: &BTreeMap<String, String>| {
        map.len() <= pairs
            && map.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() <= MAX_METADATA_BYTES
            && map.iter().all(|(key, value)| {
                (1..=key_chars).contains(&key.chars().count()) && value.chars().count() <= value_chars
            })
    };
    serde_json::from_str(text).ok().filter(fits).ok_or_else(|| {
        let detail = format!(
            "`metadata` is a JSON object of at most {pairs} strings, with names of 1 to {key_chars} characters and values \
             of at most {value_chars}, and of at most {MAX_METADATA_BYTES} bytes in all"
        );
        ApiError::invalid("invalid_option", "metadata", detail)
    })
}

/// What has times of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Granularities {
    /// Whether any was asked for.
    pub(crate) given: bool,
    /// Whether words were.
    pub(crate) words: bool,
}

/// `timestamp_granularities[]`.
///
/// # Errors
/// 400 for anything but `segment` and `word`.
pub(crate) fn granularities(fields: &Fields) -> Result<Granularities, ApiError> {
    let mut asked = Granularities::default();
    for value in fields.all("timestamp_granularities") {
        asked.given = true;
        match value.trim() {
            "segment" => {}
            "word" => asked.words = true,
            other => return Err(bad_value("timestamp_granularities", other, "segment, word")),
        }
    }
    Ok(asked)
}

/// A field that is one of a few names.
fn choice<T: Copy>(
    fields: &Fields,
    name: &str,
    choices: &[T],
    named: fn(T) -> &'static str,
) -> Result<Option<T>, ApiError> {
    let Some(text) = fields.one(name)? else { return Ok(None) };
    let found = choices.iter().copied().find(|choice| named(*choice) == text);
    let names = || choices.iter().map(|choice| named(*choice)).collect::<Vec<_>>().join(", ");
    found.map(Some).ok_or_else(|| bad_value(name, text, names()))
}

/// A field that is true or false.
///
/// # Errors
/// 400 when it is neither.
pub(crate) fn flag(fields: &Fields, name: &str) -> Result<Option<bool>, ApiError> {
    match fields.one(name)? {
        None => Ok(None),
        Some(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err(bad_value(name, text, "true, false")),
        },
    }
}

/// 400 for a value that a field cannot have.
pub(crate) fn bad_value(name: &str, value: &str, allowed: impl Display) -> ApiError {
    let value: String = value.chars().take(64).collect();
    ApiError::invalid(
        "invalid_option",
        name,
        format!("`{name}` cannot be `{value}`; it is one of: {allowed}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> ModelCatalog {
        let model = |name: &str, engine: &str, multilingual| ModelInfo {
            name: name.into(),
            engine: engine.into(),
            multilingual,
            translates: multilingual,
            diarizes: engine == "azure",
            revision: "r".into(),
        };
        ModelCatalog::new(vec![
            model("tiny.en", "whisper", false),
            model("base", "whisper", true),
            model("fast", "azure", true),
        ])
        .unwrap()
    }

    fn native(fields: &[(&str, &str)]) -> Result<JobRequest, ApiError> {
        JobRequest::native(&form(fields), &catalog())
    }

    fn form(fields: &[(&str, &str)]) -> Fields {
        Fields::new(fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    #[test]
    fn no_option_means_the_default_model_and_normal_priority() {
        let request = native(&[]).unwrap();
        let expected = TranscribeOptions { any_model: true, ..TranscribeOptions::for_model("tiny.en") };
        assert_eq!(request.options, expected);
        assert_eq!(request.priority, Priority::Normal);
    }

    #[test]
    fn who_names_a_model_or_an_engine_has_chosen() {
        for field in [("model", "tiny.en"), ("engine", "whisper")] {
            assert!(!native(&[field]).unwrap().options.any_model, "{field:?}");
        }
        let german = native(&[("language", "de"), ("model", "whisper-1")]).unwrap().options;
        assert_eq!((german.any_model, german.model.as_str()), (true, "base"));
    }

    #[test]
    fn who_wants_speakers_told_apart_gets_a_model_that_does() {
        let chosen = native(&[("diarize", "true")]).unwrap().options;
        assert_eq!((chosen.diarize, chosen.any_model, chosen.model.as_str()), (true, true, "fast"));
        for named in [("model", "base"), ("engine", "whisper")] {
            let error = native(&[named, ("diarize", "true")]).expect_err("it never does");
            assert_eq!((error.code, error.param.as_deref()), ("unsupported_option", Some("diarize")));
            assert!(error.detail.contains("does not tell speakers apart"), "{}", error.detail);
        }
        let local = ModelCatalog::new(catalog().models()[..2].to_vec()).unwrap();
        let error = JobRequest::native(&form(&[("diarize", "true")]), &local).unwrap_err();
        assert!(error.detail.contains("no engine here"), "{}", error.detail);
    }

    #[test]
    fn every_option_arrives() {
        let request = native(&[
            ("model", "base"),
            ("language", "German"),
            ("task", "translate"),
            ("prompt", "Ada"),
            ("temperature", "0.4"),
            ("timestamp_granularities[]", "segment"),
            ("timestamp_granularities", "word"),
            ("vad", "False"),
            ("engine", "whisper"),
            ("priority", "low"),
            ("metadata", r#"{"case":"17"}"#),
            ("deadline_secs", "90"),
        ])
        .unwrap();
        let expected = TranscribeOptions {
            engine: "whisper".into(),
            language: Some(Language::parse("de").unwrap()),
            task: Task::Translate,
            prompt: Some("Ada".into()),
            temperature: 0.4,
            words: true,
            vad: false,
            ..TranscribeOptions::for_model("base")
        };
        assert_eq!(request.options, expected);
        assert_eq!(request.priority, Priority::Low);
        assert_eq!(request.metadata["case"], "17");
        assert_eq!(request.deadline, Some(Duration::from_secs(90)));
    }

    #[test]
    fn every_bad_value_is_refused_with_the_name_of_its_field() {
        let long_prompt = "p".repeat(MAX_PROMPT_CHARS + 1);
        let many_notes =
            format!("{{{}}}", (0..17).map(|n| format!("\"{n}\":\"\"")).collect::<Vec<_>>().join(","));
        for (field, value) in [
            ("model", "huge"),
            ("language", "klingon"),
            ("task", "sing"),
            ("prompt", long_prompt.as_str()),
            ("temperature", "1.5"),
            ("temperature", "NaN"),
            ("timestamp_granularities", "phoneme"),
            ("vad", "maybe"),
            ("engine", "steam"),
            ("priority", "urgent"),
            ("metadata", "[]"),
            ("metadata", r#"{"n":1}"#),
            ("metadata", many_notes.as_str()),
            ("deadline_secs", "0"),
            ("deadline_secs", "-1"),
            ("diarize", "perhaps"),
        ] {
            let error = native(&[(field, value)]).expect_err(field);
            assert_eq!(error.param.as_deref(), Some(field), "{field}={value}");
            assert_eq!(error.status.as_u16(), 400);
        }
        assert_eq!(
            native(&[("task", "transcribe"), ("task", "translate")]).unwrap_err().code,
            "repeated_field"
        );
    }

    #[test]
    fn an_english_model_says_that_it_cannot() {
        let tiny = |field| native(&[("model", "tiny.en"), field]);
        let error = tiny(("language", "de")).unwrap_err();
        assert_eq!((error.code, error.param.as_deref()), ("model_cannot_hear", Some("language")));
        assert!(error.detail.contains("English-only"));
        assert!(tiny(("language", "en")).is_ok());
        assert_eq!(tiny(("task", "translate")).unwrap_err().code, "model_cannot_translate");
    }

    #[test]
    fn an_engine_brings_its_own_default_model() {
        assert_eq!(native(&[("engine", "azure")]).unwrap().model.name, "fast");
        assert_eq!(native(&[("engine", "azure"), ("model", "base")]).unwrap_err().code, "model_not_found");
    }

    #[test]
    fn openai_calls_an_unknown_model_not_found() {
        let error = JobRequest::openai(&form(&[("model", "gpt-9")]), &catalog(), Task::Transcribe, false)
            .unwrap_err();
        assert_eq!(error.status.as_u16(), 404);
        let known = JobRequest::openai(&form(&[("model", "whisper-1")]), &catalog(), Task::Transcribe, false)
            .unwrap();
        assert_eq!((known.model.name.as_str(), known.priority), ("tiny.en", Priority::High));
    }
}
