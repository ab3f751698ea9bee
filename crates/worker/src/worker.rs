//! The worker as the application sees it: run until told to stop, or stepped one job at a time.

use std::convert::Infallible;
use std::sync::Arc;

use apalis::prelude::{Monitor, WorkerBuilder, WorkerBuilderExt};
use verbatim_core::PortError;
use verbatim_core::ids::{IdSource, WorkerId};
use verbatim_core::ports::blobs::BlobStore;
use verbatim_core::ports::jobs::JobLeases;
use verbatim_core::time::Clock;
use verbatim_telemetry::Metrics;
use verbatim_telemetry::metrics::JobOutcome;

use crate::attempt::Attempts;
use crate::backend::LeaseBackend;
use crate::claimer::Claimer;
use crate::config::WorkerConfig;
use crate::held::Held;
use crate::keeper::LeaseKeeper;
use crate::pipeline::Pipeline;
use crate::session::{Session, ShutdownSignals};
use crate::slots::Slots;
use crate::stages::Stages;

/// How often apalis may start its worker afresh after a panic of ours outside of a job.
const MAX_RESTARTS: usize = 5;

/// What a worker reaches the outside through.
#[derive(Clone)]
pub struct WorkerPorts {
    /// Where jobs come from.
    pub leases: Arc<dyn JobLeases>,
    /// Where audio comes from and results go.
    pub blobs: Arc<dyn BlobStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Nonces and jitter.
    pub ids: Arc<dyn IdSource>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerExit {
    /// It was told to.
    Shutdown,
    /// An engine has worked on `max_jobs`, and nothing is held.
    JobLimit,
    /// It has grown beyond `max_rss_bytes`.
    MemoryLimit,
}

/// Why a run broke off. Leases that were held lapse.
#[derive(Debug, thiserror::Error)]
#[error("the worker broke down")]
pub struct WorkerError(#[from] apalis::prelude::MonitorError);

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There was nothing to do.
    Idle,
    /// An attempt was made and ended so.
    Ended(JobOutcome),
    /// An attempt was made and the store refused to hear how it ended.
    Unknown,
}

/// A worker.
pub struct Worker {
    id: WorkerId,
    claimer: Claimer,
    attempts: Attempts,
}

impl Worker {
    /// A worker under a fresh name.
    pub fn new(ports: WorkerPorts, pipeline: Pipeline, config: WorkerConfig) -> Self {
        let id = WorkerId::generate(ports.ids.as_ref());
        let gauge = |stage| ports.metrics.limits.stage(stage);
        let stages =
            Stages::new(config.stages, config.concurrency, config.max_rss_bytes, pipeline.scratch(), gauge);
        let pipeline = pipeline.with_stages(stages);
        let claimer = Claimer {
            ports: ports.clone(),
            worker: id.clone(),
            lease: config.lease,
            poll: config.poll,
            slots: Slots::new(config.concurrency, config.claim_ahead),
            keeper: LeaseKeeper::new(ports.clone(), config.lease, config.renew),
            pipeline: pipeline.clone(),
        };
        Self { id, claimer, attempts: Attempts { ports, pipeline, config: Arc::new(config) } }
    }

    /// The name under which it claims.
    pub fn id(&self) -> &WorkerId {
        &self.id
    }

    /// Claims at most one job and works on it to the end of the attempt.
    ///
    /// # Errors
    /// When the store does not answer the claim.
    pub async fn run_once(&self) -> Result<Step, PortError> {
        let Some(held) = self.claimer.try_next().await? else { return Ok(Step::Idle) };
        let renewals = self.claimer.keeper.start();
        let outcome = self.attempts.run(held, &Session::default()).await;
        drop(renewals);
        Ok(outcome.map_or(Step::Unknown, Step::Ended))
    }

    /// Works until `signals` say otherwise or a limit of the configuration is passed. Nothing more is claimed then, and what
    /// is held is finished: within the grace period once there was a signal, and what is left is given back; without a
    /// deadline when only a limit was passed, since nobody waits for the worker's end.
    ///
    /// # Errors
    /// When it broke down: a bug.
    pub async fn run(&self, signals: ShutdownSignals) -> Result<WorkerExit, WorkerError> {
        tracing::info!(worker.id = %self.id, concurrency = self.attempts.config.concurrency, "worker started");
        let session = Arc::new(Session::default());
        let renewals = self.claimer.keeper.start();
        let monitor = self.monitor(&session);
        let context = monitor.context();
        let drain = async {
            tokio::select! {
                () = signals.any() => {}
                () = session.soft.cancelled() => {}
            }
            session.soft.cancel();
            // apalis is told second, so that it finds the claims already ending. It cannot fail: it sets a flag.
            let _ = context.shutdown();
            signals.any().await;
            tokio::select! {
                () = signals.release.cancelled() => {}
                () = tokio::time::sleep(self.attempts.config.grace) => {}
            }
            session.hard.cancel();
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            ended = monitor.run() => ended?,
            never = drain => match never {},
        }
        drop(renewals);
        let exit = session.exit(&signals);
        tracing::info!(worker.id = %self.id, ?exit, "worker stopped");
        Ok(exit)
    }

    fn monitor(&self, session: &Arc<Session>) -> Monitor {
        let (name, claimer) = (self.id.to_string(), self.claimer.clone());
        let (attempts, session) = (self.attempts.clone(), Arc::clone(session));
        Monitor::new()
            .register(move |_| {
                let (attempts, of_handler) = (attempts.clone(), Arc::clone(&session));
                WorkerBuilder::new(name.as_str())
                    .backend(LeaseBackend::new(claimer.clone(), Arc::clone(&session)))
                    // Attempts share one task of apalis: a panic in one of them, outside of its pipeline, must not end
                    // the others.
                    .catch_panic()
                    .build(move |held: Held| handle(attempts.clone(), Arc::clone(&of_handler), held))
            })
            .should_restart(|worker, error| {
                tracing::error!(%error, "the worker loop broke down");
                worker.restarts() < MAX_RESTARTS
            })
    }
}

async fn handle(attempts: Attempts, session: Arc<Session>, held: Held) {
    attempts.run(held, &session).await;
}
