//! What a worker must be able to do for a job, so that the store gives a worker only what it can do.
//!
//! The class of a job says no more than what decides whether a worker can do it at all: how many classes there are follows
//! from the engines and models of the configuration, whatever clients ask for.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::language::Language;
use crate::options::{ENGINE_AUTO, Task, TranscribeOptions};

/// The most classes of queued jobs that a store tells apart; jobs of any further ones are offered to every worker.
pub const MOST_CLASSES: usize = 64;

/// Stands for any model, and alone for the class that every worker is asked about.
const ANY: &str = "*";
const OTHER_LANGUAGE: &str = "+language";
const TRANSLATION: &str = "+translate";
const SPEAKERS: &str = "+diarize";

/// What a worker must be able to do for a job: `engine/model`, or `engine/*` where any model will do. Only where the client
/// names neither, it depends on the rest of the options who can do it, and that is added.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobClass(String);

impl JobClass {
    /// The class of jobs with these options.
    pub fn of(options: &TranscribeOptions) -> Self {
        let TranscribeOptions { engine, model, any_model, language, task, diarize, .. } = options;
        if !any_model {
            return Self(format!("{engine}/{model}"));
        }
        let mut class = format!("{engine}/{ANY}");
        if engine == ENGINE_AUTO {
            let needs = [
                (language.is_some_and(|language| language != Language::ENGLISH), OTHER_LANGUAGE),
                (*task == Task::Translate, TRANSLATION),
                (*diarize, SPEAKERS),
            ];
            class.extend(needs.into_iter().filter(|(needed, _)| *needed).map(|(_, need)| need));
        }
        Self(class)
    }

    /// The class of jobs that are offered to every worker, which may give them back.
    pub fn unknown() -> Self {
        Self(ANY.to_owned())
    }

    /// A class that a store kept.
    pub fn from_stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One job of each class that these engines and models can be asked for, with `auto` and any model.
    pub fn examples<'a>(
        engines: impl IntoIterator<Item = &'a str>,
        models: impl IntoIterator<Item = &'a str>,
    ) -> Vec<TranscribeOptions> {
        let engines: BTreeSet<&str> = engines.into_iter().chain([ENGINE_AUTO]).collect();
        let models: BTreeSet<&str> = models.into_iter().collect();
        let of = |engine: &str, model: &str| TranscribeOptions {
            engine: engine.to_owned(),
            ..TranscribeOptions::for_model(model)
        };
        let mut examples = Vec::new();
        for engine in engines {
            examples.extend(models.iter().map(|model| of(engine, model)));
            let any = TranscribeOptions { any_model: true, ..of(engine, ANY) };
            for needs in 0..if engine == ENGINE_AUTO { 8 } else { 1 } {
                examples.push(TranscribeOptions {
                    language: Language::parse("de").ok().filter(|_| needs & 1 != 0),
                    task: if needs & 2 != 0 { Task::Translate } else { Task::Transcribe },
                    diarize: needs & 4 != 0,
                    ..any.clone()
                });
            }
        }
        examples
    }

    /// What a job of this class waits for while no worker there is can do it; for its client.
    pub fn waits_for(&self) -> String {
        let Some((engine, wanted)) = self.0.split_once('/') else { return "a worker".to_owned() };
        let mut needs = Vec::new();
        if engine != ENGINE_AUTO {
            needs.push(format!("engine {engine}"));
        }
        match wanted.strip_prefix(ANY) {
            None => needs.push(format!("model {wanted}")),
            Some(rest) => {
                let told = [
                    (OTHER_LANGUAGE, "a model for other languages than English"),
                    (TRANSLATION, "a model that translates"),
                    (SPEAKERS, "a model that tells speakers apart"),
                ];
                let told = told.into_iter().filter(|(need, _)| rest.contains(need));
                needs.extend(told.map(|(_, words)| words.to_owned()));
            }
        }
        if needs.is_empty() {
            "a worker".to_owned()
        } else {
            format!("a worker with {}", needs.join(" and "))
        }
    }
}

/// What a worker can do now: the classes of jobs that it may be given. Clones share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities(Option<Arc<Named>>);

#[derive(Debug, PartialEq, Eq)]
struct Named {
    digest: String,
    classes: BTreeSet<JobClass>,
}

impl Abilities {
    /// A worker that may be given anything.
    pub fn all() -> Self {
        Self(None)
    }

    /// A worker that may be given jobs of these classes, and of those whose class is unknown.
    pub fn of(classes: impl IntoIterator<Item = JobClass>) -> Self {
        let classes: BTreeSet<JobClass> = classes.into_iter().chain([JobClass::unknown()]).collect();
        let mut hash = Sha256::new();
        for class in &classes {
            hash.update(class.as_str());
            hash.update("\n");
        }
        let digest = hex::encode(&hash.finalize()[..16]);
        Self(Some(Arc::new(Named { digest, classes })))
    }

    /// Whether a job of this class may be given.
    pub fn include(&self, class: &JobClass) -> bool {
        self.0.as_ref().is_none_or(|named| named.classes.contains(class))
    }

    /// The classes; `None` for all there are.
    pub fn classes(&self) -> Option<&BTreeSet<JobClass>> {
        self.0.as_ref().map(|named| &named.classes)
    }

    /// Names them: workers that can do the same have the same digest. `None` for all there are.
    pub fn digest(&self) -> Option<&str> {
        self.0.as_ref().map(|named| named.digest.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_cannot_make_classes() {
        let german = Language::parse("de").ok();
        let named =
            TranscribeOptions { language: german, diarize: true, ..TranscribeOptions::for_model("base") };
        assert_eq!(JobClass::of(&named).as_str(), "auto/base", "whoever has the model says whether it can");
        let any = TranscribeOptions { any_model: true, prompt: Some("x".into()), words: true, ..named };
        assert_eq!(JobClass::of(&any).as_str(), "auto/*+language+diarize");
        let french = TranscribeOptions { language: Language::parse("fr").ok(), ..any.clone() };
        assert_eq!(JobClass::of(&french), JobClass::of(&any), "languages are told from English only");
        let azure = TranscribeOptions { engine: "azure".into(), ..any };
        assert_eq!(JobClass::of(&azure).as_str(), "azure/*");
    }

    #[test]
    fn there_is_one_example_of_each_class() {
        let examples = JobClass::examples(["azure", "whisper", "azure"], ["base", "tiny.en"]);
        let classes: BTreeSet<_> = examples.iter().map(JobClass::of).collect();
        assert_eq!((examples.len(), classes.len()), (3 * 2 + 2 + 8, 3 * 2 + 2 + 8));
    }

    #[test]
    fn a_job_says_what_it_waits_for() {
        let waits_for = |class: &str| JobClass::from_stored(class).waits_for();
        assert_eq!(waits_for("auto/base"), "a worker with model base");
        assert_eq!(waits_for("azure/*"), "a worker with engine azure");
        assert_eq!(waits_for("whisper/base"), "a worker with engine whisper and model base");
        assert_eq!(waits_for("auto/*+diarize"), "a worker with a model that tells speakers apart");
        assert_eq!(waits_for("auto/*"), "a worker");
        assert_eq!(waits_for("*"), "a worker");
    }

    #[test]
    fn equal_abilities_have_equal_names() {
        let of = |names: &[&str]| Abilities::of(names.iter().map(|name| JobClass::from_stored(*name)));
        assert_eq!(of(&["a/b", "c/d"]).digest(), of(&["c/d", "a/b", "a/b"]).digest());
        assert_ne!(of(&["a/b"]).digest(), of(&["a/b", "c/d"]).digest());
        assert!(of(&[]).include(&JobClass::unknown()) && !of(&[]).include(&JobClass::from_stored("a/b")));
        assert!(
            Abilities::all().include(&JobClass::from_stored("a/b")) && Abilities::all().digest().is_none()
        );
    }
}
