//! No log line, error or `Debug` of the OpenAI-compatible engine shows its key. A program of its own, because it
//! listens to all that is logged, at trace level and from every thread.

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use verbatim_core::CancellationToken;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::{Checkpoint, EngineObserver, EngineRequest, SpeechEngine};
use verbatim_core::transcript::Segment;
use verbatim_engines::openai::{OpenAiConfig, OpenAiEngine};
use verbatim_standins::{Fault, OpenAiSettings, OpenAiStandIn, Times};

const KEY: &str = "sk-Zx81secretQ7";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Deaf;

impl EngineObserver for Deaf {
    fn window_done(&self, _: u64, _: &[Segment]) {}
    fn checkpoint(&self, _: Checkpoint) {}
}

#[tokio::test]
async fn the_key_is_in_no_log_no_error_and_no_debug() -> Result<()> {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_env_filter("trace")
        .with_writer(move || writer.clone())
        .try_init()
        .map_err(|error| anyhow::anyhow!(error))?;
    let settings = OpenAiSettings { key: Some(KEY.to_owned()), ..OpenAiSettings::default() };
    let stand_in = OpenAiStandIn::start(settings).await;
    let config = OpenAiConfig {
        timeout_base: Duration::from_secs(2),
        ..OpenAiConfig::at(stand_in.url(), Some(KEY.into()))
    };
    let mut said = format!("{config:?}");
    let engine = OpenAiEngine::new(config)?;
    write!(said, "{engine:?}")?;
    let faults = [
        None,
        Some(Fault::ExpiredToken),
        Some(Fault::Status(429, "insufficient_quota")),
        Some(Fault::Status(404, "model_not_found")),
        Some(Fault::Status(302, "")),
        Some(Fault::Hang),
        Some(Fault::Reset),
        Some(Fault::TruncatedJson),
        Some(Fault::WrongContentType),
    ];
    let mut failed = 0;
    for fault in faults {
        stand_in.heal();
        if let Some(fault) = fault {
            stand_in.misbehave(fault, Times::UntilHealed);
        }
        let request =
            EngineRequest::new(Arc::new(vec![0.1; 32_000]), TranscribeOptions::for_model("whisper-1"));
        if let Err(error) = engine.transcribe(request, Arc::new(Deaf), CancellationToken::new()).await {
            write!(said, "{error} {error:?}")?;
            write!(said, "{:?}", anyhow::Error::new(error).chain().collect::<Vec<_>>())?;
            failed += 1;
        }
    }
    assert_eq!(failed, 8);
    said += &String::from_utf8_lossy(&log.0.lock().unwrap_or_else(PoisonError::into_inner));
    // What is logged was heard, with what an operator should do and with the client's own lines.
    assert!(said.contains("put a valid one into `key`") && said.contains("TRACE"));
    assert!(!said.contains("secretQ7"), "the key is in the log");
    Ok(())
}
