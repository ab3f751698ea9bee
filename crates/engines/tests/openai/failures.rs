//! Whatever the service says or does wrong, and what it means for the job.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use verbatim_core::audio::PcmSource;
use verbatim_core::failure::FailureKind::{
    self, BadAudio, Cancelled, EngineFailed, EngineUnavailable, StorageUnavailable, Throttled, TimedOut,
    UnsupportedMedia, UnsupportedOption,
};
use verbatim_core::options::{Task, TranscribeOptions};
use verbatim_core::ports::engine::{EngineRequest, SpeechEngine};
use verbatim_core::{CancellationToken, ErrorKind, PortError};
use verbatim_engines::openai::{OpenAiConfig, OpenAiEngine, OpenAiModel};
use verbatim_standins::{Fault, OpenAiSettings, OpenAiStandIn, Times};

use crate::support::{self, KEY, Recorder, config, engine, failure, options, request, tone, transcribe};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// One row of the table: what the service does, and the failure that it means.
type Row = (Fault, FailureKind, Option<Duration>);

fn table() -> Vec<Row> {
    vec![
        (Fault::Status(400, "audio_too_short"), BadAudio, None),
        (Fault::Status(400, "unsupported_value"), UnsupportedOption, None),
        (Fault::Status(422, "invalid_value"), UnsupportedOption, None),
        (Fault::Status(401, "invalid_api_key"), EngineUnavailable, None),
        (Fault::ExpiredToken, EngineUnavailable, None),
        (Fault::Status(403, "unsupported_country_region_territory"), EngineUnavailable, None),
        (Fault::Status(404, "model_not_found"), EngineUnavailable, None),
        (Fault::Status(408, "timeout"), TimedOut, None),
        (Fault::Status(413, ""), UnsupportedMedia, None),
        (Fault::Status(415, ""), UnsupportedMedia, None),
        (Fault::Throttle { retry_after: Some(SECONDS(7)) }, Throttled, Some(SECONDS(7))),
        (Fault::Throttle { retry_after: None }, Throttled, None),
        (
            Fault::StatusRetry(429, "rate_limit_exceeded", "Fri, 31 Dec 2100 23:59:59 GMT"),
            Throttled,
            Some(SECONDS(3600)),
        ),
        (Fault::Status(429, "insufficient_quota"), EngineUnavailable, None),
        (Fault::Status(500, "server_error"), EngineFailed, None),
        (Fault::Status(502, ""), EngineUnavailable, None),
        (Fault::Status(503, "overloaded"), EngineUnavailable, None),
        (Fault::StatusRetry(503, "overloaded", "20"), EngineUnavailable, Some(SECONDS(20))),
        (Fault::Status(504, ""), EngineUnavailable, None),
        (Fault::Reset, EngineUnavailable, None),
        (Fault::BrokenOff, EngineUnavailable, None),
        (Fault::TruncatedJson, EngineFailed, None),
        (Fault::WrongContentType, EngineFailed, None),
    ]
}

#[tokio::test]
async fn every_refusal_has_its_kind_and_keeps_the_services_wish() -> Result<()> {
    let stand_in = OpenAiStandIn::start(OpenAiSettings::default()).await;
    let engine = engine(&stand_in)?;
    for (fault, kind, retry_after) in table() {
        // Until healed: an engine may ask again for another format.
        stand_in.misbehave(fault.clone(), Times::UntilHealed);
        let error = failure(&engine, request(options())).await;
        stand_in.heal();
        assert_eq!((error.kind, error.retry_after), (kind, retry_after), "{fault:?}: {error}");
        assert!(!error.to_string().contains("as the test asked"), "internal detail: {error}");
    }
    transcribe(&engine, request(options())).await?;
    assert_eq!(stand_in.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_service_that_takes_too_long_is_timed_out() -> Result<()> {
    let stand_in = OpenAiStandIn::start(OpenAiSettings::default()).await;
    let (timeout_base, timeout_per_audio) = (Duration::from_millis(300), 0.0);
    let engine = OpenAiEngine::new(OpenAiConfig { timeout_base, timeout_per_audio, ..config(&stand_in) })?;
    for fault in [Fault::Hang, Fault::SlowDrip] {
        stand_in.misbehave(fault.clone(), Times::Next(1));
        assert_eq!(failure(&engine, request(options())).await.kind, TimedOut, "{fault:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_service_that_cannot_be_reached_is_unavailable_until_it_comes_back() -> Result<()> {
    let stand_in = OpenAiStandIn::start(OpenAiSettings::default()).await;
    let engine = engine(&stand_in)?;
    transcribe(&engine, request(options())).await?;
    stand_in.go_down().await;
    assert_eq!(failure(&engine, request(options())).await.kind, EngineUnavailable);
    stand_in.come_back().await;
    transcribe(&engine, request(options())).await?;
    let nowhere = OpenAiEngine::new(OpenAiConfig::at("http://no-such-host.invalid/v1", None))?;
    assert_eq!(failure(&nowhere, request(options())).await.kind, EngineUnavailable);
    Ok(())
}

#[tokio::test]
async fn the_stand_ins_own_checks_lead_to_the_same_kinds() -> Result<()> {
    let stand_in = OpenAiStandIn::start(OpenAiSettings::default()).await;
    let wrong_key = OpenAiEngine::new(OpenAiConfig::at(stand_in.url(), Some("another".into())))?;
    let refused = failure(&wrong_key, request(options())).await;
    assert_eq!((refused.kind, refused.blameless), (EngineUnavailable, false));
    let gone = OpenAiModel { upstream: "gone".to_owned(), ..config(&stand_in).models[0].clone() };
    let wrong_model = OpenAiEngine::new(OpenAiConfig { models: vec![gone], ..config(&stand_in) })?;
    let unknown = failure(&wrong_model, request(options())).await;
    assert_eq!((unknown.kind, unknown.blameless), (EngineUnavailable, true), "the other models may be right");
    let wrong_path = OpenAiEngine::new(OpenAiConfig::at(format!("{}/v2", stand_in.url()), Some(KEY.into())))?;
    assert_eq!(failure(&wrong_path, request(options())).await.kind, EngineUnavailable);
    let too_short = EngineRequest::new(tone(50), options());
    assert_eq!(failure(&engine(&stand_in)?, too_short).await.kind, BadAudio);
    Ok(())
}

#[tokio::test]
async fn what_the_engine_cannot_do_is_refused_before_anything_is_sent() -> Result<()> {
    let stand_in = OpenAiStandIn::start(OpenAiSettings::default()).await;
    let english = OpenAiModel {
        name: "distil.en".to_owned(),
        upstream: "distil".to_owned(),
        multilingual: false,
        translates: false,
    };
    let mut config = config(&stand_in);
    config.models.push(english);
    let engine = OpenAiEngine::new(config)?;
    let translation = TranscribeOptions { task: Task::Translate, ..options() };
    for options in [
        TranscribeOptions::for_model("large"),
        TranscribeOptions { model: "distil.en".to_owned(), ..translation.clone() },
        TranscribeOptions { words: true, ..translation },
        TranscribeOptions { diarize: true, ..options() },
    ] {
        assert_eq!(failure(&engine, request(options.clone())).await.kind, UnsupportedOption, "{options:?}");
    }
    assert_eq!(stand_in.requests().len(), 0);
    let any = TranscribeOptions { any_model: true, ..TranscribeOptions::for_model("large") };
    assert_eq!(transcribe(&engine, request(any)).await?.model, "whisper-1");
    Ok(())
}

#[tokio::test]
async fn cancelling_ends_a_request_that_is_under_way() -> Result<()> {
    let stand_in = OpenAiStandIn::start(OpenAiSettings::default()).await;
    stand_in.misbehave(Fault::Hang, Times::Next(1));
    let (engine, cancel) = (engine(&stand_in)?, CancellationToken::new());
    let work = engine.transcribe(request(options()), Arc::new(Recorder::default()), cancel.clone());
    let stopping = async {
        while stand_in.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (done, ()) = tokio::join!(work, stopping);
    assert_eq!(done.map_err(|error| error.kind), Err(Cancelled));
    Ok(())
}

/// Audio on a disk that breaks while it is read.
struct Broken(Arc<dyn PcmSource>);

impl PcmSource for Broken {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read(&self, start: u64, out: &mut [f32]) -> Result<usize, PortError> {
        if start > 0 {
            return Err(PortError::new(ErrorKind::Unavailable, "the disk is broken"));
        }
        self.0.read(start, out)
    }
}

#[tokio::test]
async fn audio_that_cannot_be_read_is_not_the_services_fault() -> Result<()> {
    let stand_in = OpenAiStandIn::start(OpenAiSettings::default()).await;
    let audio = Arc::new(Broken(support::tone(20_000)));
    let error = failure(&engine(&stand_in)?, EngineRequest::new(audio, options())).await;
    assert_eq!(error.kind, StorageUnavailable);
    Ok(())
}
