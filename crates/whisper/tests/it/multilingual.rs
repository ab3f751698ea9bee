//! Languages and translation.

use verbatim_core::failure::FailureKind;
use verbatim_core::language::Language;
use verbatim_core::options::{Task, TranscribeOptions};
use verbatim_core::ports::SpeechEngine;

use crate::support::{engine, plain, request, say, say_in_spanish, silence, transcribe};

const SPANISH: &str = "Me gusta mucho la música. Mañana vamos a la playa con mis amigos.";

fn base() -> TranscribeOptions {
    TranscribeOptions::for_model("base")
}

#[tokio::test]
async fn the_language_is_heard() -> anyhow::Result<()> {
    let engine = engine(&["base"])?;
    let spanish = transcribe(&engine, request(say_in_spanish(SPANISH)?, base())).await?;
    assert_eq!(spanish.language.code(), "es");
    assert!(spanish.language_probability > 0.5 && spanish.language_probability <= 1.0);
    assert!(plain(&spanish.text()).contains("me gusta mucho"), "{}", spanish.text());
    // Silence first: the language is that of the first window in which there is something to hear.
    let audio = [silence(32.0), say("Good morning. The weather is very nice today.")?].concat();
    let english = transcribe(&engine, request(audio, base())).await?;
    assert_eq!(english.language, Language::ENGLISH);
    assert!(plain(&english.text()).contains("weather"), "{}", english.text());
    Ok(())
}

#[tokio::test]
async fn a_language_that_was_given_is_not_questioned() -> anyhow::Result<()> {
    let engine = engine(&["base"])?;
    let options = TranscribeOptions { language: Some(Language::parse("es")?), ..base() };
    let transcript = transcribe(&engine, request(say_in_spanish(SPANISH)?, options)).await?;
    assert_eq!((transcript.language.code(), transcript.language_probability), ("es", 1.0));
    assert!(plain(&transcript.text()).contains("la playa con mis amigos"), "{}", transcript.text());
    Ok(())
}

#[tokio::test]
async fn spanish_is_translated_into_english() -> anyhow::Result<()> {
    let engine = engine(&["base"])?;
    let options = TranscribeOptions { task: Task::Translate, words: true, ..base() };
    let transcript = transcribe(&engine, request(say_in_spanish(SPANISH)?, options)).await?;
    let text = plain(&transcript.text());
    assert!(text.contains("i like") && text.contains("with my friends"), "{text}");
    assert_eq!((transcript.task, transcript.language.code()), (Task::Translate, "es"));
    assert!(transcript.words().count() > 8);
    Ok(())
}

#[tokio::test]
async fn english_models_say_what_they_cannot() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en", "base"])?;
    let tiny = TranscribeOptions::for_model("tiny.en");
    let german = Some(Language::parse("de")?);
    for options in [
        TranscribeOptions { task: Task::Translate, ..tiny.clone() },
        TranscribeOptions { language: german, ..tiny.clone() },
        TranscribeOptions { diarize: true, ..tiny.clone() },
        TranscribeOptions::for_model("large-v9"),
    ] {
        let error = transcribe(&engine, request(silence(1.0), options)).await.unwrap_err();
        assert_eq!(error.kind, FailureKind::UnsupportedOption, "{error}");
    }
    let models = engine.capabilities().models;
    let names: Vec<(&str, bool)> =
        models.iter().map(|model| (model.name.as_str(), model.multilingual)).collect();
    assert_eq!(names, [("tiny.en", false), ("base", true)]);
    assert_ne!(models[0].revision, models[1].revision);
    Ok(())
}
