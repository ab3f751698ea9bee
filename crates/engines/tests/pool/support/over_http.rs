//! The same cluster with the real Azure engine and token service, against the stand-in, over HTTP and in real time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::Instant;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::EngineRequest;
use verbatim_core::provider::{Rate, SlotLimits, list};
use verbatim_engines::azure::tokens::{TokenPorts, TokenService};
use verbatim_engines::azure::{AzureConfig, AzureEngine, AzurePorts, MODEL};
use verbatim_engines::pool::Provider;
use verbatim_standins::{AzureSettings, AzureStandIn, Latency, Limits};

use super::cluster::{Queue, work};
use super::service::{Allowance, Service};
use super::trial::{Findings, Sample};
use super::{World, remote};

/// What is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trial {
    pub(crate) jobs: usize,
    pub(crate) workers: usize,
    pub(crate) at_once: usize,
    pub(crate) per_minute: u32,
    /// How long a minute takes.
    pub(crate) minute: Duration,
    pub(crate) latency: Duration,
}

/// What came of it, and what the stand-in has to complain about.
pub(crate) struct OverHttp {
    pub(crate) findings: Findings,
    pub(crate) peak: usize,
    pub(crate) tokens: usize,
    pub(crate) violations: Vec<String>,
}

pub(crate) async fn meet_limits(trial: Trial) -> Result<OverHttp> {
    let world = World::new();
    let azure = AzureStandIn::start(AzureSettings {
        limits: Limits {
            concurrency: Some(trial.at_once),
            per_minute: Some(trial.per_minute as usize),
            minute: trial.minute,
            retry_after: Some(Duration::from_secs(1)),
        },
        latency: Latency { base: trial.latency, per_audio: 0.0 },
        ..AzureSettings::default()
    })
    .await;
    let queue = Arc::new(Queue::default());
    for _ in 0..trial.jobs {
        let options = TranscribeOptions::for_model(MODEL);
        queue.submit(EngineRequest { options, ..world.request(1) });
    }
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..trial.workers {
        let pool = Arc::new(world.pool(vec![provider(&world, &azure, trial)?]));
        workers.spawn(work(pool, Arc::clone(&queue), Arc::clone(&world.ids) as _, trial.jobs));
    }
    let mut samples = Vec::new();
    while queue.ended() < trial.jobs {
        let view = list(world.state.as_ref()).await?.into_iter().next();
        samples.push(Sample {
            at: begun.elapsed().as_secs(),
            under_way: view.as_ref().map_or(0, |view| view.in_use as usize),
            limit: view.as_ref().map_or(0, |view| view.concurrency_limit),
            served: queue.ended(),
            refused: refused(&azure),
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    workers.join_all().await;
    let done = queue.done.lock().expect("no panic").clone();
    let last = done.iter().map(|(at, _)| *at).max().unwrap_or(begun);
    let by_concurrency = trial.at_once as f64 / trial.latency.as_secs_f64();
    let by_rate = f64::from(trial.per_minute) / trial.minute.as_secs_f64();
    let findings = Findings {
        samples,
        took: last - begun,
        allowed: by_concurrency.min(by_rate),
        done: done.len(),
        failed: queue.failed.lock().expect("no panic").len(),
        refunded: *queue.refunded.lock().expect("no panic"),
        refused: refused(&azure),
    };
    let (peak, tokens) = (azure.in_flight_peak(), azure.tokens().len());
    Ok(OverHttp { findings, peak, tokens, violations: azure.violations() })
}

/// A worker's own engine with its own token service, as processes have them.
fn provider(world: &World, azure: &AzureStandIn, trial: Trial) -> Result<Provider> {
    let ports = world.ports();
    let tokens = TokenService::new(TokenPorts {
        shared: ports.shared,
        clock: ports.clock,
        ids: ports.ids,
        metrics: ports.metrics,
    })?;
    let mut config = AzureConfig::new("westus", AzureSettings::default().key.into());
    config.endpoint = Some(azure.url());
    let engine = AzureEngine::new(config, AzurePorts { tokens: Arc::new(tokens), blobs: None })?;
    let rate = Rate { requests: trial.per_minute, per: trial.minute };
    let nobody = Service::new(Allowance::generous(Duration::ZERO));
    Ok(Provider {
        engine: Arc::new(engine),
        limits: SlotLimits { max_concurrency: 100, rate: Some(rate) },
        ..remote("azure", &nobody)
    })
}

fn refused(azure: &AzureStandIn) -> usize {
    azure.requests().iter().filter(|request| request.status == Some(429)).count()
}
