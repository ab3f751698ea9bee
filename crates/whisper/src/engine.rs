//! The engine: models in memory, a thread for each job that may run, and the port in front of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use ct2rs::sys;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use verbatim_core::CancellationToken;
use verbatim_core::failure::FailureKind;
use verbatim_core::ports::engine::Capabilities;
use verbatim_core::ports::{EngineError, EngineObserver, EngineRequest, SpeechEngine};
use verbatim_core::transcript::Transcript;

use crate::config::{ComputeType, Device, WhisperConfig};
use crate::decode::cancelled_error;
use crate::error::LoadError;
use crate::machine::Machine;
use crate::model::{self, ENGINE, Model};
use crate::pool::{Pool, panicked};
use crate::transcribe::{self, Watch};

/// A job on its way to a thread.
struct Work {
    model: Arc<Model>,
    request: EngineRequest,
    observer: Arc<dyn EngineObserver>,
    cancel: CancellationToken,
    reply: oneshot::Sender<Result<Transcript, EngineError>>,
    /// The right to a thread, given back when the work is done.
    _permit: OwnedSemaphorePermit,
}

/// Whisper on this machine. Dropping it waits for its threads, at most for a window: nobody can await a job any more,
/// and a job that nobody awaits is cancelled.
pub struct WhisperEngine {
    models: Vec<Arc<Model>>,
    /// Jobs that may run at once: as many as fill every replica's batches.
    jobs: usize,
    free: Arc<Semaphore>,
    queue: Option<mpsc::Sender<Work>>,
    threads: Vec<JoinHandle<()>>,
}

impl WhisperEngine {
    /// Loads every model into memory and starts the threads. Blocks for as long as that takes: seconds.
    ///
    /// # Errors
    /// [`LoadError`] for the first model that cannot be loaded.
    pub fn load(config: &WhisperConfig) -> Result<Self, LoadError> {
        let placement = Placement::of(config)?;
        let mut models: Vec<Arc<Model>> = Vec::with_capacity(config.models.len());
        for source in &config.models {
            if models.iter().any(|model| model.info.name == source.name) {
                return Err(LoadError::DuplicateName(source.name.clone()));
            }
            let model = Model::load(source, config.compute_type, placement.config(config.compute_type))?;
            tracing::info!(
                model = %source.name,
                revision = %model.info.revision,
                replicas = placement.replicas,
                threads_per_replica = placement.threads,
                device = %placement.device,
                "loaded a Whisper model"
            );
            models.push(Arc::new(model));
        }
        let jobs = placement.replicas * placement.max_batch;
        let pool = Arc::new(Pool::new(placement.replicas, placement.max_batch));
        // Permits keep the queue from ever being full.
        let (queue, work) = mpsc::channel(jobs);
        let work = Arc::new(Mutex::new(work));
        let checkpoint_every = config.checkpoint_every;
        let threads = (0..jobs)
            .map(|index| {
                let (work, pool) = (Arc::clone(&work), Arc::clone(&pool));
                std::thread::Builder::new()
                    .name(format!("whisper-{index}"))
                    .spawn(move || serve(&work, &pool, checkpoint_every))
            })
            .collect::<Result<_, _>>()
            .map_err(LoadError::NoThread)?;
        Ok(Self { models, jobs, free: Arc::new(Semaphore::new(jobs)), queue: Some(queue), threads })
    }

    fn model_for(&self, request: &EngineRequest) -> Result<Arc<Model>, EngineError> {
        let refuse = |message: String| EngineError::new(FailureKind::UnsupportedOption, message);
        let name = &request.options.model;
        let model = self.models.iter().find(|model| model.info.name == *name);
        let model = model.ok_or_else(|| refuse(format!("model `{name}` is not loaded here")))?;
        model.info.check(&request.options).map_err(|error| refuse(error.to_string()))?;
        if request.options.diarize {
            return Err(refuse("the `whisper` engine cannot tell speakers apart".to_owned()));
        }
        Ok(Arc::clone(model))
    }
}

impl Drop for WhisperEngine {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a Whisper thread had panicked");
            }
        }
    }
}

#[async_trait]
impl SpeechEngine for WhisperEngine {
    fn name(&self) -> &str {
        ENGINE
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            models: self.models.iter().map(|model| model.info.clone()).collect(),
            concurrency: self.jobs,
            max_duration: None,
        }
    }

    async fn transcribe(
        &self,
        request: EngineRequest,
        observer: Arc<dyn EngineObserver>,
        cancel: CancellationToken,
    ) -> Result<Transcript, EngineError> {
        let model = self.model_for(&request)?;
        let gone = || EngineError::new(FailureKind::EngineUnavailable, "the engine is shutting down");
        let permit = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(cancelled_error()),
            permit = Arc::clone(&self.free).acquire_owned() => permit.map_err(|error| gone().with_source(error))?,
        };
        // Ends the work when the caller stops waiting, too.
        let cancel = cancel.child_token();
        let _cancel_on_drop = cancel.clone().drop_guard();
        let (reply, answer) = oneshot::channel();
        let work = Work { model, request, observer, cancel, reply, _permit: permit };
        self.queue.as_ref().ok_or_else(gone)?.send(work).await.map_err(|_| gone())?;
        answer.await.map_err(|error| gone().with_source(error))?
    }
}

/// A job thread: one job after the other until the engine goes.
fn serve(queue: &Mutex<mpsc::Receiver<Work>>, pool: &Pool, checkpoint_every: Duration) {
    loop {
        // Waiting with the lock held is right: whoever holds it takes the next job, and then lets the next one wait.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(Work { model, request, observer, cancel, reply, _permit }) = next else { return };
        let watch = Watch { observer: observer.as_ref(), cancel: &cancel, checkpoint_every };
        let result = catch_unwind(AssertUnwindSafe(|| transcribe::run(&model, pool, &request, &watch)))
            .unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
        // Nobody waits for a cancelled job.
        let _ = reply.send(result);
    }
}

/// Where the copies go.
struct Placement {
    device: sys::Device,
    replicas: usize,
    threads: usize,
    max_batch: usize,
}

/// Windows in a batch when nobody says: what a processor gains from; a GPU has room for more.
const MAX_BATCH_ON_CPU: usize = 4;
const MAX_BATCH_ON_CUDA: usize = 8;

impl Placement {
    fn of(config: &WhisperConfig) -> Result<Self, LoadError> {
        if config.models.is_empty() {
            return Err(LoadError::NoModels);
        }
        let cuda = usize::try_from(sys::get_device_count(sys::Device::CUDA)).unwrap_or(0);
        let device = match (config.device, cuda) {
            (Device::Cuda, 0) => return Err(LoadError::NoCuda),
            (Device::Cpu, _) | (Device::Auto, 0) => sys::Device::CPU,
            (Device::Cuda | Device::Auto, _) => sys::Device::CUDA,
        };
        if device == sys::Device::CUDA {
            // One copy on each device.
            let max_batch = config.max_batch.map_or(MAX_BATCH_ON_CUDA, usize::from);
            return Ok(Self { device, replicas: cuda, threads: 1, max_batch });
        }
        let machine = Machine::detect();
        let weights = config
            .models
            .iter()
            .map(|source| model::weights_bytes(&source.folder))
            .sum::<Result<u64, LoadError>>()?;
        let replicas = config.replicas.map_or_else(|| machine.replicas(weights), usize::from);
        let threads = config.threads_per_replica.map_or_else(|| machine.threads(replicas), usize::from);
        let max_batch = config.max_batch.map_or(MAX_BATCH_ON_CPU, usize::from);
        Ok(Self { device, replicas, threads, max_batch })
    }

    fn config(&self, compute_type: ComputeType) -> sys::Config {
        let on_cuda = self.device == sys::Device::CUDA;
        let devices = 0..i32::try_from(self.replicas).unwrap_or(i32::MAX);
        sys::Config {
            device: self.device,
            compute_type: match compute_type {
                ComputeType::Int8 => sys::ComputeType::INT8,
                ComputeType::Int8Float16 => sys::ComputeType::INT8_FLOAT16,
                ComputeType::Float16 => sys::ComputeType::FLOAT16,
                ComputeType::Float32 => sys::ComputeType::FLOAT32,
            },
            device_indices: if on_cuda { devices.collect() } else { devices.map(|_| 0).collect() },
            num_threads_per_replica: self.threads,
            ..sys::Config::default()
        }
    }
}
