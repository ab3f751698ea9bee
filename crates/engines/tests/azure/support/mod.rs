//! What the tests share: an Azure that is ours, an engine that talks to it, and a memory that nodes share.

pub(crate) mod bucket;
pub(crate) mod shared;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use verbatim_core::CancellationToken;
use verbatim_core::audio::{AudioFormat, SAMPLES_PER_MS};
use verbatim_core::ids::{Fence, IdSource, JobId, TenantId};
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::blobs::{BlobKey, BlobStore};
use verbatim_core::ports::engine::{
    Checkpoint, EngineError, EngineJob, EngineObserver, EngineRequest, SpeechEngine, Upload,
};
use verbatim_core::time::{Clock, Timestamp};
use verbatim_core::transcript::{Segment, Transcript};
use verbatim_engines::AzureEngine;
use verbatim_engines::azure::tokens::{TokenPorts, TokenService};
use verbatim_engines::azure::{AzureBatch, AzureConfig, AzurePorts, AzureTimeouts, MODEL};
use verbatim_standins::{AzureSettings, AzureStandIn, tones};
use verbatim_telemetry::Metrics;

use self::shared::SharedMemory;

/// The stand-in's key.
pub(crate) const KEY: &str = "azure-stand-in-key";

/// Follows tokio's time, which tests can pause.
pub(crate) struct TokioClock(tokio::time::Instant);

impl TokioClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_767_225_600_000).plus(self.0.elapsed())
    }
}

/// Ids that count, and always the same jitter.
pub(crate) struct Ids {
    prefix: u64,
    fraction: f64,
    next: AtomicU64,
}

impl Ids {
    pub(crate) fn new(prefix: u64, fraction: f64) -> Arc<Self> {
        Arc::new(Self { prefix, fraction, next: AtomicU64::new(0) })
    }
}

impl IdSource for Ids {
    fn ulid(&self) -> String {
        format!("{:06}{:020}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn fraction(&self) -> f64 {
        self.fraction
    }

    fn secret(&self) -> [u8; 32] {
        [7; 32]
    }
}

/// Remembers what an engine says.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) windows: Mutex<Vec<(u64, Vec<Segment>)>>,
    pub(crate) checkpoints: Mutex<Vec<Checkpoint>>,
    pub(crate) abandoned: AtomicBool,
}

impl Recorder {
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        self.checkpoints.lock().expect("nobody panicked").last().cloned()
    }
}

impl EngineObserver for Recorder {
    fn window_done(&self, position_ms: u64, segments: &[Segment]) {
        self.windows.lock().expect("nobody panicked").push((position_ms, segments.to_vec()));
    }

    fn checkpoint(&self, checkpoint: Checkpoint) {
        self.checkpoints.lock().expect("nobody panicked").push(checkpoint);
    }

    fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}

/// An upload in memory.
pub(crate) struct Uploaded(pub(crate) Vec<u8>, pub(crate) Option<AudioFormat>);

impl Upload for Uploaded {
    fn format(&self) -> Option<AudioFormat> {
        self.1
    }

    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> std::io::Result<usize> {
        let rest = &self.0[usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len())..];
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// A stand-in and what engines for it need.
pub(crate) struct World {
    pub(crate) azure: AzureStandIn,
    pub(crate) shared: Arc<SharedMemory>,
    pub(crate) metrics: Arc<Metrics>,
}

impl World {
    pub(crate) async fn new(settings: AzureSettings) -> Self {
        let azure = AzureStandIn::start(settings).await;
        let shared = SharedMemory::new(TokioClock::new());
        Self { azure, shared, metrics: Arc::new(Metrics::new().expect("metrics")) }
    }

    /// A token service of one node.
    pub(crate) fn tokens(&self, node: u64) -> Arc<TokenService> {
        let ports = TokenPorts {
            shared: self.shared.clone(),
            clock: TokioClock::new(),
            ids: Ids::new(node, 0.5),
            metrics: Arc::clone(&self.metrics),
        };
        Arc::new(TokenService::new(ports).expect("a client"))
    }

    /// A configuration for the stand-in, with little patience.
    pub(crate) fn config(&self) -> AzureConfig {
        AzureConfig {
            endpoint: Some(self.azure.url()),
            timeouts: AzureTimeouts { base: Duration::from_secs(20), ..AzureTimeouts::default() },
            batch: AzureBatch {
                poll_every: Duration::from_millis(5),
                poll_floor: Duration::from_millis(5),
                ..AzureBatch::default()
            },
            ..AzureConfig::new("westus", KEY.into())
        }
    }

    pub(crate) fn engine(&self, config: AzureConfig) -> AzureEngine {
        self.engine_with(config, None)
    }

    pub(crate) fn engine_with(&self, config: AzureConfig, blobs: Option<Arc<dyn BlobStore>>) -> AzureEngine {
        AzureEngine::new(config, AzurePorts { tokens: self.tokens(1), blobs }).expect("a good configuration")
    }

    /// Ends a test: nothing broke the contract.
    pub(crate) fn assert_no_violations(&self) {
        assert_eq!(self.azure.violations(), [""; 0]);
    }
}

/// The usual options.
pub(crate) fn options() -> TranscribeOptions {
    TranscribeOptions::for_model(MODEL)
}

/// Two words of tones in audio of this length.
pub(crate) fn spoken(length_ms: u64) -> Vec<f32> {
    tones::speak(&[(500, 7), (1200, 2345)], length_ms)
}

/// A request of a job.
pub(crate) fn request(samples: Vec<f32>, options: TranscribeOptions) -> EngineRequest {
    let id = JobId::parse("work_01JD0000000000000000000000").expect("an id");
    let blob = BlobKey::for_upload(&id);
    let tenant = TenantId::parse("secret-tenant").expect("a tenant");
    let job = EngineJob { id, fence: Fence::new(1), tenant, blob };
    EngineRequest { job: Some(job), ..EngineRequest::new(Arc::new(samples), options) }
}

/// Runs a request to its end.
pub(crate) async fn run(
    engine: &AzureEngine,
    request: EngineRequest,
) -> Result<(Transcript, Arc<Recorder>), EngineError> {
    let recorder = Arc::new(Recorder::default());
    let transcript = engine.transcribe(request, recorder.clone(), CancellationToken::new()).await?;
    Ok((transcript, recorder))
}

/// Waits until something is so; gives up when that takes far too long.
pub(crate) async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it never came to be so");
}

/// 16-bit WAV at 16 kHz with these channels, each of the same length.
pub(crate) fn wav(channels: &[Vec<f32>]) -> Vec<u8> {
    let count = u16::try_from(channels.len()).expect("few channels");
    let frames = channels[0].len();
    let data = u32::try_from(frames * channels.len() * 2).expect("a small file");
    let mut file = Vec::new();
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(36 + data).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt ");
    file.extend_from_slice(&16_u32.to_le_bytes());
    file.extend_from_slice(&1_u16.to_le_bytes());
    file.extend_from_slice(&count.to_le_bytes());
    file.extend_from_slice(&(SAMPLES_PER_MS as u32 * 1000).to_le_bytes());
    file.extend_from_slice(&(SAMPLES_PER_MS as u32 * 2000 * u32::from(count)).to_le_bytes());
    file.extend_from_slice(&(2 * count).to_le_bytes());
    file.extend_from_slice(&16_u16.to_le_bytes());
    file.extend_from_slice(b"data");
    file.extend_from_slice(&data.to_le_bytes());
    for frame in 0..frames {
        for channel in channels {
            file.extend_from_slice(&((channel[frame] * 32_767.0) as i16).to_le_bytes());
        }
    }
    file
}
