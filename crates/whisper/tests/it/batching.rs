//! Jobs that share a replica.

use std::sync::Arc;

use futures::future::join_all;
use verbatim_core::CancellationToken;
use verbatim_core::failure::FailureKind;
use verbatim_core::language::Language;
use verbatim_core::options::{Task, TranscribeOptions};
use verbatim_core::ports::{EngineRequest, SpeechEngine};

use crate::support::{
    Notes, batching_engine, engine, librivox, plain, request, say, say_in_spanish, silence, transcribe,
};

#[tokio::test]
async fn jobs_in_one_batch_hear_what_each_would_hear_alone() -> anyhow::Result<()> {
    let (alone, together) = (engine(&["tiny.en"])?, batching_engine(&["tiny.en"], 4)?);
    assert_eq!(together.capabilities().concurrency, 4);
    let options = TranscribeOptions { words: true, ..TranscribeOptions::for_model("tiny.en") };
    let two_windows = [say("The harbour was quiet.")?, silence(30.0), say("The road is long.")?].concat();
    let audio = [librivox("0890")?, librivox("0930")?, silence(5.0), two_windows];
    let jobs = || audio.iter().map(|audio| request(audio.clone(), options.clone()));
    let transcripts = join_all(jobs().map(|job| transcribe(&together, job))).await;
    for (transcript, job) in transcripts.into_iter().zip(jobs()) {
        let (ours, expected) = (transcript?, transcribe(&alone, job).await?);
        assert_eq!(plain(&ours.text()), plain(&expected.text()));
        for (word, expected) in ours.words().zip(expected.words()) {
            let close = word.start_ms.abs_diff(expected.start_ms) <= 100
                && word.end_ms.abs_diff(expected.end_ms) <= 100;
            assert!(close, "{word:?} instead of {expected:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn languages_and_tasks_do_not_mix() -> anyhow::Result<()> {
    let engine = batching_engine(&["base", "tiny.en"], 5)?;
    let english = "The weather is very nice today, and the sun is shining.";
    let spanish = "Me gusta mucho la música. Mañana vamos a la playa con mis amigos.";
    let detect = TranscribeOptions { words: true, ..TranscribeOptions::for_model("base") };
    let given = TranscribeOptions { language: Some(Language::parse("es")?), ..detect.clone() };
    let translate = TranscribeOptions { task: Task::Translate, ..given.clone() };
    let jobs = [
        (say(english)?, detect.clone(), "en", "weather is very nice"),
        (say_in_spanish(spanish)?, detect, "es", "me gusta mucho"),
        (say_in_spanish(spanish)?, given, "es", "me gusta mucho"),
        (say_in_spanish(spanish)?, translate, "es", "with my friends"),
        (say(english)?, TranscribeOptions::for_model("tiny.en"), "en", "weather is very nice"),
    ];
    let running =
        jobs.iter().map(|(audio, options, ..)| transcribe(&engine, request(audio.clone(), options.clone())));
    for (transcript, (_, options, language, text)) in join_all(running).await.into_iter().zip(&jobs) {
        let transcript = transcript?;
        assert_eq!(transcript.language.code(), *language);
        assert!(plain(&transcript.text()).contains(text), "{options:?}: {}", transcript.text());
        assert_eq!(transcript.words().next().is_some(), options.words);
    }
    Ok(())
}

#[tokio::test]
async fn one_job_cancelled_does_not_touch_another() -> anyhow::Result<()> {
    let engine = batching_engine(&["tiny.en"], 2)?;
    let options = TranscribeOptions::for_model("tiny.en");
    let long = [say("The harbour was quiet.")?, silence(30.0), say("The road is long.")?].concat();
    let notes = Arc::new(Notes::default());
    let job = |audio: Vec<f32>| -> EngineRequest { request(audio, options.clone()) };
    let (cancelled, kept) = tokio::join!(
        engine.transcribe(job(long.clone()), notes.clone(), notes.first_window.clone()),
        engine.transcribe(job(long), Arc::new(Notes::default()), CancellationToken::new()),
    );
    assert_eq!(cancelled.unwrap_err().kind, FailureKind::Cancelled);
    let text = plain(&kept?.text());
    assert!(text.contains("quiet") && text.contains("road"), "{text}");
    Ok(())
}
