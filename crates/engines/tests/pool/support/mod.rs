//! A world for pools: a shared state and a ledger in memory, on Tokio's clock (which tests pause), and a service with
//! limits that many pools call.

#![allow(dead_code, reason = "shared by the tests and an example, which need different parts")]

pub(crate) mod cluster;
pub(crate) mod ledger;
pub(crate) mod over_http;
pub(crate) mod service;
pub(crate) mod store;
pub(crate) mod trial;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use verbatim_core::ids::{Fence, IdSource, JobId, TenantId};
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::blobs::BlobKey;
use verbatim_core::ports::engine::{Checkpoint, EngineJob, EngineObserver, EngineRequest};
use verbatim_core::provider::SlotLimits;
use verbatim_core::time::{Clock, Timestamp};
use verbatim_core::transcript::Segment;
use verbatim_engines::pool::{PoolConfig, PoolPorts, Provider, ProviderPool};
use verbatim_telemetry::metrics::Metrics;

use ledger::MemoryLedger;
use service::{Service, ServiceEngine};
use store::MemoryState;

/// Two hours before midnight.
pub(crate) const EPOCH: i64 = 1_700_006_400_000 - 7_200_000;

/// The time of the world, moved by Tokio's.
#[derive(Clone, Copy)]
pub(crate) struct WorldClock(pub(crate) Instant);

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(EPOCH).plus(self.0.elapsed())
    }
}

/// Ids that count, and fractions from a fixed sequence.
#[derive(Default)]
pub(crate) struct CountingIds(AtomicU64);

impl IdSource for CountingIds {
    fn ulid(&self) -> String {
        format!("{:026}", self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn fraction(&self) -> f64 {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        let mixed =
            number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn secret(&self) -> [u8; 32] {
        [0; 32]
    }
}

/// What the pools of one cluster share.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) state: Arc<MemoryState>,
    pub(crate) ledger: Arc<MemoryLedger>,
    pub(crate) clock: WorldClock,
    pub(crate) ids: Arc<CountingIds>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: PoolConfig,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = WorldClock(Instant::now());
        Self {
            state: Arc::new(MemoryState::new(clock)),
            ledger: Arc::new(MemoryLedger::new(clock)),
            clock,
            ids: Arc::default(),
            metrics: Arc::new(Metrics::new().expect("metrics have distinct names")),
            config: PoolConfig::default(),
        }
    }

    pub(crate) fn ports(&self) -> PoolPorts {
        PoolPorts {
            shared: Arc::clone(&self.state) as _,
            ledger: Some(Arc::clone(&self.ledger) as _),
            clock: Arc::new(self.clock),
            ids: Arc::clone(&self.ids) as _,
            metrics: Arc::clone(&self.metrics),
        }
    }

    pub(crate) fn pool(&self, providers: Vec<Provider>) -> ProviderPool {
        ProviderPool::new(providers, self.ports(), self.config).expect("providers with names of their own")
    }

    /// A request for audio of this length, as a job of its own.
    pub(crate) fn request(&self, secs: usize) -> EngineRequest {
        let ids: &dyn IdSource = self.ids.as_ref();
        let id = JobId::generate(ids);
        let blob = BlobKey::for_upload(&id);
        let job = EngineJob { id, fence: Fence::new(1), tenant: TenantId::default(), blob };
        let audio = Arc::new(vec![0.0_f32; secs * 16_000]);
        EngineRequest { job: Some(job), ..EngineRequest::new(audio, TranscribeOptions::for_model("base")) }
    }
}

/// A remote provider that calls this service.
pub(crate) fn remote(name: &str, service: &Arc<Service>) -> Provider {
    let engine = Arc::new(ServiceEngine::new("azure", Arc::clone(service)));
    Provider {
        name: name.to_owned(),
        kind: "azure".to_owned(),
        engine,
        priority: 1,
        weight: 1,
        local: false,
        limits: SlotLimits { max_concurrency: 100, rate: None },
        price_per_hour: None,
        daily_budget: None,
        timeout_base: Duration::from_secs(60),
        timeout_per_audio: 1.0,
    }
}

/// A local provider.
pub(crate) fn local(name: &str, service: &Arc<Service>) -> Provider {
    let engine = Arc::new(ServiceEngine::new("whisper", Arc::clone(service)));
    Provider { kind: "whisper".to_owned(), engine, local: true, priority: 2, ..remote(name, service) }
}

/// An observer that writes down what it is told.
#[derive(Default)]
pub(crate) struct Notebook(std::sync::Mutex<Vec<Note>>);

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Note {
    Begun(Duration),
    Window(u64),
    Anew,
    Checkpoint(Checkpoint),
}

impl Notebook {
    pub(crate) fn notes(&self) -> Vec<Note> {
        self.0.lock().expect("no panic").clone()
    }

    /// All but that the work began.
    pub(crate) fn said(&self) -> Vec<Note> {
        self.notes().into_iter().filter(|note| !matches!(note, Note::Begun(_))).collect()
    }

    pub(crate) fn last_checkpoint(&self) -> Option<Checkpoint> {
        self.notes().into_iter().rev().find_map(|note| match note {
            Note::Checkpoint(checkpoint) => Some(checkpoint),
            _ => None,
        })
    }

    fn write(&self, note: Note) {
        self.0.lock().expect("no panic").push(note);
    }
}

impl EngineObserver for Notebook {
    fn window_done(&self, position_ms: u64, _: &[Segment]) {
        self.write(Note::Window(position_ms));
    }

    fn begun(&self, at_most: Duration) {
        self.write(Note::Begun(at_most));
    }

    fn begun_anew(&self) {
        self.write(Note::Anew);
    }

    fn checkpoint(&self, checkpoint: Checkpoint) {
        self.write(Note::Checkpoint(checkpoint));
    }
}
