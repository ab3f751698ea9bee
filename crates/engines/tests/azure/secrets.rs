//! Nothing that opens a door is ever written down.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tracing_subscriber::fmt::MakeWriter;
use verbatim_core::ports::engine::SpeechEngine;
use verbatim_engines::AzureEngine;
use verbatim_engines::azure::{AzureAuth, AzureConfig, AzureLimits, AzureMode, AzurePorts};
use verbatim_standins::{AzureSettings, BatchRules, Fault, Hearing, Times};

use crate::support::bucket::{Bucket, SIGNATURE};
use crate::support::{KEY, World, options, request, run, spoken, wav};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panicked").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Written {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Everything, from every crate, at trace level: good runs, refusals and broken connections in every mode.
#[tokio::test]
async fn no_secret_is_in_logs_errors_or_debug_output() -> Result<()> {
    let written = Written::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(written.clone())
        .with_ansi(false)
        .try_init()
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let world = World::new(AzureSettings { hearing: Hearing::Tones, ..AzureSettings::default() }).await;
    let bucket = Bucket::start(wav(&[spoken(3000)])).await;
    let mut shown = String::new();
    for (mode, auth) in [
        (AzureMode::Fast, AzureAuth::Token),
        (AzureMode::Fast, AzureAuth::Key),
        (AzureMode::Short, AzureAuth::Token),
        (AzureMode::Batch, AzureAuth::Token),
        (AzureMode::Batch, AzureAuth::Key),
    ] {
        let limits = AzureLimits { batch_above: Duration::from_secs(2), ..AzureLimits::default() };
        let config = AzureConfig { mode, auth, limits, ..world.config() };
        shown += &format!("{config:?}\n");
        let ports = AzurePorts { tokens: world.tokens(1), blobs: Some(bucket.clone()) };
        let engine = AzureEngine::new(config, ports)?;
        shown += &format!("{:?}\n", engine.capabilities());
        run(&engine, request(spoken(3000), options())).await?;
        for fault in [
            Fault::Status(400, "InvalidRequest"),
            Fault::ExpiredToken,
            Fault::Status(403, "Forbidden"),
            Fault::TruncatedJson,
            Fault::Reset,
        ] {
            world.azure.misbehave(fault, Times::Next(2));
            match run(&engine, request(spoken(3000), options())).await {
                Ok((transcript, recorder)) => {
                    shown += &format!("{transcript:?} {:?}\n", recorder.checkpoint());
                }
                Err(error) => shown += &format!("{error:?} {error}\n"),
            }
            world.azure.heal();
        }
    }
    // The bucket's address as Azure might quote it.
    let quoting: &'static str =
        Box::leak(format!("cannot read http://bucket/audio?X-Amz-Signature={SIGNATURE}").into_boxed_str());
    world.azure.batches_go(BatchRules { failure: Some(("InvalidUri", quoting)), ..BatchRules::default() });
    let limits = AzureLimits { batch_above: Duration::from_secs(2), ..AzureLimits::default() };
    let config = AzureConfig { mode: AzureMode::Batch, limits, ..world.config() };
    let engine = world.engine_with(config, Some(bucket.clone()));
    let error = run(&engine, request(spoken(3000), options())).await.map(drop).err().context("it fails")?;
    shown += &format!("{error:?} {error}\n");
    tracing::error!(?error, "as somebody may log it");
    // A wrong key is a secret too: it may be right elsewhere.
    let wrong = world.engine(AzureConfig { key: "wrong-but-secret".into(), ..world.config() });
    let error = run(&wrong, request(spoken(3000), options())).await.map(drop).err().context("it fails")?;
    shown += &format!("{error:?} {error}\n");

    let logs = String::from_utf8(written.0.lock().expect("nobody panicked").clone())?;
    assert!(logs.contains("starting new connection"), "the HTTP client's own lines are in it");
    assert!(logs.contains("Azure refused a token"), "the engine's own lines are in it");
    let tokens = world.azure.tokens();
    assert!(!tokens.is_empty());
    let secrets = tokens.iter().map(|token| token.value.as_str());
    for secret in secrets.chain([KEY, "wrong-but-secret", SIGNATURE, "stand-in-signature", "secret-tenant"]) {
        assert!(!logs.contains(secret), "`{secret}` is in the logs");
        assert!(!shown.contains(secret), "`{secret}` is shown");
    }
    println!("{} lines of logs, {} tokens, no secret", logs.lines().count(), tokens.len());
    Ok(())
}
