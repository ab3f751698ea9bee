//! Lets `bench/accuracy` drive the engine: reads a JSON request per line, answers with a JSON line.
//!
//! `bench_engine MODEL_NAME MODEL_FOLDER REPLICAS THREADS MAX_BATCH`, then lines like
//! `{"audio": "x.f32", "words": true, "speech": [[0, 16000]], "times": 1}`, where the audio is raw 32-bit floats at
//! 16 kHz, `speech` is a list of spans in samples or null, and `times` is how many such jobs run at once. The answer has
//! the seconds that took, the transcript, and with `"features": "y.f32"` the seconds that those took, which go there.

use std::io::{BufRead, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use futures::future::try_join_all;
use serde::Deserialize;
use verbatim_core::CancellationToken;
use verbatim_core::audio::SpeechSpan;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::ports::{EngineObserver, EngineRequest, SpeechEngine};
use verbatim_core::transcript::Segment;
use verbatim_whisper::{ModelSource, WhisperConfig, WhisperEngine, log_mel};

#[derive(Deserialize)]
struct Order {
    audio: String,
    words: bool,
    speech: Option<Vec<(u64, u64)>>,
    times: usize,
    features: Option<String>,
}

/// Nobody looks.
struct Nobody;

impl EngineObserver for Nobody {
    fn window_done(&self, _: u64, _: &[Segment]) {}
    fn checkpoint(&self, _: Checkpoint) {}
}

fn samples(path: &str) -> anyhow::Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| path.to_owned())?;
    Ok(bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, folder, replicas, threads, batch] = arguments.as_slice() else {
        anyhow::bail!("usage: bench_engine MODEL_NAME MODEL_FOLDER REPLICAS THREADS MAX_BATCH");
    };
    let config = WhisperConfig {
        replicas: NonZeroUsize::new(replicas.parse()?),
        threads_per_replica: NonZeroUsize::new(threads.parse()?),
        max_batch: NonZeroUsize::new(batch.parse()?),
        ..WhisperConfig::new(vec![ModelSource { name: name.clone(), folder: folder.into() }])
    };
    let engine = WhisperEngine::load(&config)?;
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let audio = Arc::new(samples(&order.audio)?);
        let spans =
            |spans: &Vec<(u64, u64)>| spans.iter().map(|&(start, end)| SpeechSpan { start, end }).collect();
        let begun = Instant::now();
        let jobs = (0..order.times).map(|_| {
            let options = TranscribeOptions { words: order.words, ..TranscribeOptions::for_model(name) };
            let speech = order.speech.as_ref().map(spans);
            let request = EngineRequest { speech, ..EngineRequest::new(audio.clone(), options) };
            engine.transcribe(request, Arc::new(Nobody), CancellationToken::new())
        });
        let transcripts = try_join_all(jobs).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut answer = serde_json::json!({ "seconds": seconds, "transcript": transcripts.first() });
        if let Some(path) = &order.features {
            let begun = Instant::now();
            let features = log_mel(audio, 80)?;
            answer["features_seconds"] = begun.elapsed().as_secs_f64().into();
            std::fs::write(path, features.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
