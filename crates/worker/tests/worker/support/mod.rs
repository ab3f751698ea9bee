//! A world of the test's own: a store that can be steered, a folder for blobs, and audio.

pub(crate) mod engines;
pub(crate) mod leases;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use tempfile::TempDir;
use verbatim_audio::VadConfig;
use verbatim_blobs::FolderStore;
use verbatim_core::audio::{AudioFormat, AudioInfo, AudioLimits};
use verbatim_core::ids::{ClaimNonce, Fence, IdSource, JobId, TenantId};
use verbatim_core::job::{Lease, LeaseToken};
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::blobs::{BlobKey, BlobStore, RESULTS_PREFIX, get_bytes, put_bytes};
use verbatim_core::ports::engine::SpeechEngine;
use verbatim_core::time::{Clock, Timestamp};
use verbatim_core::transcript::Transcript;
use verbatim_telemetry::Metrics;
use verbatim_worker_lib::{Pipeline, PipelineConfig, Worker, WorkerConfig, WorkerPorts};

use leases::FakeLeases;

/// How long tests wait for what must come, in time that is paused: they fail then instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(12 * 3600);

/// Ids that count, and no jitter.
#[derive(Default)]
pub(crate) struct CountingIds(AtomicU64);

impl IdSource for CountingIds {
    fn ulid(&self) -> String {
        format!("{:026}", self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn fraction(&self) -> f64 {
        0.5
    }

    fn secret(&self) -> [u8; 32] {
        [7; 32]
    }
}

/// A clock that stands still.
pub(crate) struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_000_000)
    }
}

/// Everything around a worker.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) leases: Arc<FakeLeases>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) ids: Arc<CountingIds>,
    pub(crate) metrics: Arc<Metrics>,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let blobs = Arc::new(FolderStore::open(dir.path().join("blobs"))?);
        let metrics = Arc::new(Metrics::new()?);
        Ok(Self { dir, leases: Arc::default(), blobs, ids: Arc::default(), metrics })
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.dir.path().join("scratch")
    }

    pub(crate) fn pipeline(&self, engine: impl SpeechEngine + 'static) -> Result<Pipeline> {
        let config = PipelineConfig {
            limits: AudioLimits::default(),
            vad: VadConfig::default(),
            scratch: self.scratch(),
        };
        Ok(Pipeline::new(Arc::new(engine), config)?)
    }

    pub(crate) fn ports(&self) -> WorkerPorts {
        WorkerPorts {
            leases: self.leases.clone(),
            blobs: self.blobs.clone(),
            clock: Arc::new(StoppedClock),
            ids: self.ids.clone(),
            metrics: self.metrics.clone(),
        }
    }

    pub(crate) fn worker(
        &self,
        engine: impl SpeechEngine + 'static,
        config: WorkerConfig,
    ) -> Result<Arc<Worker>> {
        Ok(Arc::new(Worker::new(self.ports(), self.pipeline(engine)?, config)))
    }

    /// Queues a job on `secs` seconds of noise.
    pub(crate) async fn submit(&self, secs: u32) -> Result<JobId> {
        self.submit_with(secs, |_| {}).await
    }

    /// The same, with a lease that was changed.
    pub(crate) async fn submit_with(&self, secs: u32, change: impl FnOnce(&mut Lease)) -> Result<JobId> {
        let audio = noise_wav(secs);
        let job_id = JobId::generate(self.ids.as_ref());
        let blob = BlobKey::for_upload(&job_id);
        put_bytes(self.blobs.as_ref(), &blob, Bytes::from(audio.clone())).await?;
        let mut lease = Lease {
            token: LeaseToken {
                job_id: job_id.clone(),
                fence: Fence::new(0),
                nonce: ClaimNonce::from_stored("none"),
            },
            expires_at: Timestamp::from_millis(0),
            attempt: 0,
            tenant: TenantId::default(),
            options: TranscribeOptions { vad: false, ..TranscribeOptions::for_model("fake") },
            audio: AudioInfo {
                sha256: String::new(),
                bytes: audio.len() as u64,
                format: AudioFormat::Wav,
                duration_ms: None,
                findings: Default::default(),
            },
            blob,
            submitted_at: Timestamp::from_millis(0),
            checkpoint: None,
            alone: false,
            trace: None,
        };
        change(&mut lease);
        self.leases.queue(lease);
        Ok(job_id)
    }

    /// The names of all results.
    pub(crate) async fn results(&self) -> Result<Vec<BlobKey>> {
        let found = self.blobs.list(RESULTS_PREFIX, None, 100).await?;
        Ok(found.into_iter().map(|meta| meta.key).collect())
    }

    pub(crate) async fn transcript(&self, key: &BlobKey) -> Result<Transcript> {
        Ok(serde_json::from_slice(&get_bytes(self.blobs.as_ref(), key).await?)?)
    }

    /// What the metrics say about one series, such as `verbatim_job_attempts_total{outcome="completed"}`.
    pub(crate) fn metric(&self, series: &str) -> Result<f64> {
        let text = self.metrics.render()?;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(line.map_or(Ok(0.0), str::parse)?)
    }
}

/// Short leases and few jobs at once; the time in these tests is tokio's, which is paused.
pub(crate) fn config(concurrency: usize) -> WorkerConfig {
    WorkerConfig { concurrency, poll: Duration::from_millis(500), ..WorkerConfig::default() }
}

/// `secs` seconds of noise as 16-bit WAV at 16 kHz.
pub(crate) fn noise_wav(secs: u32) -> Vec<u8> {
    let mut state = secs;
    let samples = (0..secs * 16_000).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 18).cast_signed() as i16
    });
    wav(samples)
}

/// These samples as 16-bit WAV at 16 kHz.
pub(crate) fn wav(samples: impl Iterator<Item = i16>) -> Vec<u8> {
    let data: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
    let length = u32::try_from(data.len()).expect("a short file");
    let mut file = b"RIFF".to_vec();
    file.extend((36 + length).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(16_000_u32.to_le_bytes());
    file.extend(32_000_u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend(length.to_le_bytes());
    file.extend(data);
    file
}
