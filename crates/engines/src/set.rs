//! Several engines behind one: each job goes to the first that can do it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use verbatim_core::CancellationToken;
use verbatim_core::failure::FailureKind;
use verbatim_core::options::{ENGINE_AUTO, TranscribeOptions};
use verbatim_core::ports::engine::{Capabilities, EngineError, EngineObserver, EngineRequest, SpeechEngine};
use verbatim_core::transcript::Transcript;

/// Engines in order of preference.
pub struct EngineSet {
    engines: Vec<Arc<dyn SpeechEngine>>,
}

impl EngineSet {
    /// These engines, the preferred one first; `None` when there is none.
    pub fn new(engines: Vec<Arc<dyn SpeechEngine>>) -> Option<Self> {
        (!engines.is_empty()).then_some(Self { engines })
    }

    /// The first engine that is the one asked for (any, for `auto`) and can do the job.
    ///
    /// # Errors
    /// [`FailureKind::UnsupportedOption`], with the reason for the client.
    pub fn choose(
        &self,
        options: &TranscribeOptions,
        duration_ms: u64,
    ) -> Result<&Arc<dyn SpeechEngine>, EngineError> {
        let mut reason = None;
        for engine in &self.engines {
            if options.engine != ENGINE_AUTO && options.engine != engine.name() {
                continue;
            }
            match obstacle(engine.as_ref(), options, duration_ms) {
                None => return Ok(engine),
                Some(obstacle) => reason = reason.or(Some(obstacle)),
            }
        }
        let reason = reason.unwrap_or_else(|| format!("there is no engine `{}` here", options.engine));
        Err(EngineError::new(FailureKind::UnsupportedOption, reason))
    }
}

/// Why this engine cannot do the job.
fn obstacle(engine: &dyn SpeechEngine, options: &TranscribeOptions, duration_ms: u64) -> Option<String> {
    let Capabilities { models, max_duration, diarization, .. } = engine.capabilities();
    let name = engine.name();
    match models.iter().find(|model| model.name == options.model) {
        None => return Some(format!("engine `{name}` has no model `{}`", options.model)),
        Some(model) => {
            if let Err(error) = model.check(options) {
                return Some(error.to_string());
            }
        }
    }
    if options.diarize && !diarization {
        return Some(format!("engine `{name}` does not tell speakers apart"));
    }
    match max_duration {
        Some(max) if Duration::from_millis(duration_ms) > max => {
            Some(format!("engine `{name}` takes audio of at most {} s", max.as_secs()))
        }
        _ => None,
    }
}

#[async_trait]
impl SpeechEngine for EngineSet {
    fn name(&self) -> &str {
        ENGINE_AUTO
    }

    fn capabilities(&self) -> Capabilities {
        let each: Vec<Capabilities> = self.engines.iter().map(|engine| engine.capabilities()).collect();
        Capabilities {
            models: each.iter().flat_map(|one| one.models.clone()).collect(),
            concurrency: each.iter().map(|one| one.concurrency).sum(),
            // Unlimited as soon as one engine is.
            max_duration: each
                .iter()
                .map(|one| one.max_duration)
                .collect::<Option<Vec<_>>>()
                .and_then(|limits| limits.into_iter().max()),
            diarization: each.iter().any(|one| one.diarization),
        }
    }

    async fn transcribe(
        &self,
        request: EngineRequest,
        observer: Arc<dyn EngineObserver>,
        cancel: CancellationToken,
    ) -> Result<Transcript, EngineError> {
        let engine = Arc::clone(self.choose(&request.options, request.audio.duration_ms())?);
        engine.transcribe(request, observer, cancel).await
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use verbatim_core::language::Language;
    use verbatim_core::model::ModelInfo;

    use super::*;

    struct Named(&'static str, Capabilities);

    #[async_trait]
    impl SpeechEngine for Named {
        fn name(&self) -> &str {
            self.0
        }

        fn capabilities(&self) -> Capabilities {
            self.1.clone()
        }

        async fn transcribe(
            &self,
            request: EngineRequest,
            _: Arc<dyn EngineObserver>,
            _: CancellationToken,
        ) -> Result<Transcript, EngineError> {
            Ok(Transcript {
                task: request.options.task,
                language: Language::ENGLISH,
                language_probability: 1.0,
                duration_ms: request.audio.duration_ms(),
                engine: self.0.to_owned(),
                model: request.options.model,
                segments: Vec::new(),
            })
        }
    }

    fn engine(
        name: &'static str,
        models: &[(&str, bool)],
        limit: Option<u64>,
        diarization: bool,
    ) -> Arc<dyn SpeechEngine> {
        let info = |(model, multilingual): &(&str, bool)| ModelInfo {
            name: (*model).to_owned(),
            engine: name.to_owned(),
            multilingual: *multilingual,
            translates: *multilingual,
            revision: String::new(),
        };
        let models = models.iter().map(info).collect();
        let max_duration = limit.map(Duration::from_secs);
        Arc::new(Named(name, Capabilities { models, concurrency: 2, max_duration, diarization }))
    }

    fn set() -> EngineSet {
        EngineSet::new(vec![
            engine("local", &[("tiny.en", false), ("base", true)], None, false),
            engine("cloud", &[("base", true)], Some(60), true),
        ])
        .expect("two engines")
    }

    fn chosen(options: &TranscribeOptions, secs: u64) -> Result<String, String> {
        let set = set();
        let engine = set.choose(options, secs * 1000);
        engine.map(|engine| engine.name().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn auto_takes_the_first_engine_that_can_do_the_job() {
        let base = TranscribeOptions::for_model("base");
        assert_eq!(chosen(&base, 1), Ok("local".to_owned()));
        assert_eq!(chosen(&TranscribeOptions { diarize: true, ..base.clone() }, 1), Ok("cloud".to_owned()));
        assert_eq!(
            chosen(&TranscribeOptions { engine: "cloud".to_owned(), ..base }, 1),
            Ok("cloud".to_owned())
        );
    }

    #[test]
    fn what_no_engine_can_do_is_refused_with_the_reason() {
        let base = TranscribeOptions::for_model("base");
        let refused = |options: TranscribeOptions, secs| chosen(&options, secs).expect_err("refused");
        assert!(refused(TranscribeOptions::for_model("huge"), 1).contains("no model `huge`"));
        assert!(
            refused(TranscribeOptions { engine: "x".to_owned(), ..base.clone() }, 1).contains("engine `x`")
        );
        let long = TranscribeOptions { engine: "cloud".to_owned(), ..base };
        assert!(refused(long, 61).contains("at most 60 s"));
        let german = Language::parse("de").ok();
        let options = TranscribeOptions { language: german, ..TranscribeOptions::for_model("tiny.en") };
        assert!(refused(options, 1).contains("English-only"));
    }

    #[test]
    fn a_set_can_what_its_engines_can() {
        let capabilities = set().capabilities();
        assert_eq!(capabilities.models.len(), 3);
        assert_eq!(capabilities.concurrency, 4);
        assert_eq!(capabilities.max_duration, None);
        assert!(capabilities.diarization);
        let limited =
            EngineSet::new(vec![engine("a", &[], Some(5), false), engine("b", &[], Some(9), false)]);
        let limit = limited.map(|set| set.capabilities().max_duration);
        assert_eq!(limit, Some(Some(Duration::from_secs(9))));
    }

    #[tokio::test]
    async fn the_chosen_engine_does_the_work() -> Result<()> {
        struct Silent;
        impl EngineObserver for Silent {
            fn window_done(&self, _: u64, _: &[verbatim_core::transcript::Segment]) {}
            fn checkpoint(&self, _: verbatim_core::ports::engine::Checkpoint) {}
        }
        let options =
            TranscribeOptions { engine: "cloud".to_owned(), ..TranscribeOptions::for_model("base") };
        let request = EngineRequest::new(Arc::new(vec![0.0; 16]), options);
        let transcript = set().transcribe(request, Arc::new(Silent), CancellationToken::new()).await?;
        assert_eq!(transcript.engine, "cloud");
        Ok(())
    }
}
