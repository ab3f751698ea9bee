//! The models that a service offers, as the API and the dedupe key see them.

use serde::{Deserialize, Serialize};

use crate::language::Language;
use crate::options::{Task, TranscribeOptions};

/// One model and what it can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The name that clients use, `tiny.en` for example.
    pub name: String,
    /// Name of the engine that runs it.
    pub engine: String,
    /// Whether it hears more than English.
    pub multilingual: bool,
    /// Whether it can translate into English.
    #[serde(default)]
    pub translates: bool,
    /// Whether it tells speakers apart.
    #[serde(default)]
    pub diarizes: bool,
    /// What identifies its weights and the decoder that runs them; part of the dedupe key.
    pub revision: String,
}

/// Why a request does not fit the models on offer. The messages are for clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// No such model.
    #[error("model `{name}` does not exist here; available: {available}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is, separated by commas.
        available: String,
    },
    /// An English-only model was asked to translate.
    #[error("model `{0}` is English-only and cannot translate; use a multilingual model such as `base`")]
    EnglishCannotTranslate(String),
    /// A model that only transcribes was asked to translate.
    #[error("model `{0}` cannot translate; use a multilingual Whisper model such as `base`")]
    CannotTranslate(String),
    /// An English-only model was asked to hear another language.
    #[error("model `{0}` is English-only and cannot hear `{1}`; use a multilingual model such as `base`")]
    CannotHear(String, Language),
    /// A model that does not tell speakers apart was asked to.
    #[error("model `{0}` does not tell speakers apart")]
    CannotDiarize(String),
}

/// The models on offer; the first is the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCatalog {
    models: Vec<ModelInfo>,
}

/// OpenAI's name for "whatever Whisper you have"; means the default model.
pub const WHISPER_1: &str = "whisper-1";

/// Whether this names no model in particular.
pub fn names_none(name: Option<&str>) -> bool {
    matches!(name, None | Some("" | WHISPER_1))
}

impl ModelCatalog {
    /// A catalogue whose first entry is the default; `None` when there is no entry.
    pub fn new(models: Vec<ModelInfo>) -> Option<Self> {
        (!models.is_empty()).then_some(Self { models })
    }

    /// Every model, the default first.
    pub fn models(&self) -> &[ModelInfo] {
        &self.models
    }

    /// The model that answers when none is named.
    pub fn default_model(&self) -> &ModelInfo {
        &self.models[0]
    }

    /// Whether different engines run the models, so that a client that names none leaves a choice.
    pub fn leaves_a_choice(&self) -> bool {
        self.models.iter().any(|model| model.engine != self.models[0].engine)
    }

    /// The first model that can do what `options` ask; the default when none can.
    pub fn first_able(&self, options: &TranscribeOptions) -> &ModelInfo {
        self.models.iter().find(|model| model.check(options).is_ok()).unwrap_or(&self.models[0])
    }

    /// The model called `name`; the default for `None`, the empty name and `whisper-1`.
    ///
    /// # Errors
    /// [`ModelError::Unknown`] for any other name that is not in the catalogue.
    pub fn resolve(&self, name: Option<&str>) -> Result<&ModelInfo, ModelError> {
        match name.filter(|_| !names_none(name)) {
            None => Ok(self.default_model()),
            Some(name) => self.models.iter().find(|model| model.name == name).ok_or_else(|| {
                let names: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
                ModelError::Unknown { name: name.chars().take(64).collect(), available: names.join(", ") }
            }),
        }
    }
}

impl ModelInfo {
    /// Whether this model can do what the options ask.
    ///
    /// # Errors
    /// The reason why it cannot, for the client.
    pub fn check(&self, options: &TranscribeOptions) -> Result<(), ModelError> {
        if options.task == Task::Translate && !self.multilingual {
            return Err(ModelError::EnglishCannotTranslate(self.name.clone()));
        }
        if options.task == Task::Translate && !self.translates {
            return Err(ModelError::CannotTranslate(self.name.clone()));
        }
        if options.diarize && !self.diarizes {
            return Err(ModelError::CannotDiarize(self.name.clone()));
        }
        match options.language {
            Some(language) if !self.multilingual && language != Language::ENGLISH => {
                Err(ModelError::CannotHear(self.name.clone(), language))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, multilingual: bool) -> ModelInfo {
        ModelInfo {
            name: name.into(),
            engine: "whisper".into(),
            multilingual,
            translates: multilingual,
            diarizes: false,
            revision: "r".into(),
        }
    }

    #[test]
    fn the_default_answers_to_no_name_and_to_whisper_1() {
        let catalog = ModelCatalog::new(vec![model("tiny.en", false), model("base", true)]).unwrap();
        for name in [None, Some(""), Some("whisper-1"), Some("tiny.en")] {
            assert_eq!(catalog.resolve(name).unwrap().name, "tiny.en");
        }
        let error = catalog.resolve(Some("bsae")).unwrap_err().to_string();
        assert!(error.contains("bsae") && error.contains("tiny.en, base"));
        assert!(ModelCatalog::new(Vec::new()).is_none());
    }

    #[test]
    fn who_names_no_model_gets_the_first_that_can_do_it() {
        let azure = ModelInfo {
            engine: "azure".into(),
            translates: false,
            diarizes: true,
            ..model("azure-speech", true)
        };
        let catalog = ModelCatalog::new(vec![model("tiny.en", false), azure]).unwrap();
        assert!(catalog.leaves_a_choice());
        let german = TranscribeOptions {
            language: Language::parse("de").ok(),
            ..TranscribeOptions::for_model("tiny.en")
        };
        assert_eq!(catalog.first_able(&german).name, "azure-speech");
        let speakers = TranscribeOptions { diarize: true, ..TranscribeOptions::for_model("tiny.en") };
        assert_eq!(catalog.first_able(&speakers).name, "azure-speech");
        let refused = catalog.default_model().check(&speakers).unwrap_err().to_string();
        assert!(refused.contains("`tiny.en` does not tell speakers apart"), "{refused}");
        let translated = TranscribeOptions { task: Task::Translate, ..german };
        assert_eq!(catalog.first_able(&translated).name, "tiny.en", "none can; the default says why");
        let one_engine = ModelCatalog::new(vec![model("tiny.en", false), model("base", true)]).unwrap();
        assert!(!one_engine.leaves_a_choice());
    }

    #[test]
    fn english_models_refuse_what_they_cannot_do() {
        let german = Language::parse("de").unwrap();
        let with =
            |language, task| TranscribeOptions { language, task, ..TranscribeOptions::for_model("tiny.en") };
        let tiny = model("tiny.en", false);
        assert!(tiny.check(&with(None, Task::Transcribe)).is_ok());
        assert!(tiny.check(&with(Some(Language::ENGLISH), Task::Transcribe)).is_ok());
        assert!(tiny.check(&with(Some(german), Task::Transcribe)).is_err());
        assert!(tiny.check(&with(None, Task::Translate)).is_err());
        let base = model("base", true);
        assert!(base.check(&with(Some(german), Task::Translate)).is_ok());
        let hears_only = ModelInfo { translates: false, ..base };
        assert!(hears_only.check(&with(Some(german), Task::Transcribe)).is_ok());
        assert!(hears_only.check(&with(Some(german), Task::Translate)).is_err());
    }
}
