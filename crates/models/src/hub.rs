//! The Hugging Face hub, or anything that speaks like it, through `hf-hub`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hf_hub::api::tokio::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::catalog::KnownModel;
use crate::checksum::Checksum;
use crate::error::ModelError;
use crate::folder;
use crate::manifest::Manifest;
use crate::pull::{Listener, PullEvent, PullOptions, blocking, record};

/// Bytes asked for at once: what is lost when a connection breaks, and what hf-hub holds in memory.
const CHUNK: usize = 8 << 20;

/// A file of the repository, and what it must hash to.
struct Wanted {
    name: String,
    checksum: Checksum,
}

/// Fetches the model's files into `staging`.
pub(crate) async fn fetch(
    model: &'static KnownModel,
    staging: &Path,
    options: &PullOptions,
) -> Result<Manifest, ModelError> {
    let mut files = Vec::new();
    for wanted in list(model, options).await? {
        let checked = fetch_file(model, &wanted, staging, options).await?;
        files.push((wanted.name, checked));
    }
    Ok(record(model, model.repository, model.revision, files))
}

/// Asks for the repository's files at the pinned commit: the first contact, so that an unreachable hub is known soon.
async fn list(model: &KnownModel, options: &PullOptions) -> Result<Vec<Wanted>, ModelError> {
    let failed = |reason: String| ModelError::Hub { endpoint: options.endpoint.clone(), reason };
    let url = format!("{}/api/models/{}/revision/{}", options.endpoint, model.repository, model.revision);
    let request = async {
        let client = reqwest::Client::builder()
            .connect_timeout(options.timeouts.connect)
            .timeout(options.timeouts.idle)
            .build()?;
        let answer = client.get(url).query(&[("blobs", "true")]).send().await?;
        answer.error_for_status()?.json::<RepositoryInfo>().await
    };
    let info = request.await.map_err(|error| failed(root_cause(&error)))?;
    info.siblings
        .into_iter()
        .filter(|sibling| folder::is_model_file(&sibling.rfilename))
        .map(|sibling| sibling.wanted(model).map_err(failed))
        .collect()
}

#[derive(Deserialize)]
struct RepositoryInfo {
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
}

impl Sibling {
    /// The catalogue's pin counts most, then the sum of a large file, then git's id of a small one.
    fn wanted(self, model: &KnownModel) -> Result<Wanted, String> {
        let name = self.rfilename;
        let reported = self.lfs.map(|lfs| lfs.sha256);
        let checksum = match (model.pin(&name), reported, self.blob_id) {
            (Some(pin), Some(reported), _) if pin != reported => {
                return Err(format!("its `{name}` has checksum {reported}, expected {pin}"));
            }
            (Some(pin), _, _) => Checksum::Sha256(pin.to_owned()),
            (None, Some(reported), _) => Checksum::Sha256(reported),
            (None, None, Some(blob_id)) => Checksum::GitBlob(blob_id),
            (None, None, None) => return Err(format!("it does not say what `{name}` should hash to")),
        };
        Ok(Wanted { name, checksum })
    }
}

/// One file, with retries; each goes on where the one before broke off.
async fn fetch_file(
    model: &'static KnownModel,
    wanted: &Wanted,
    staging: &Path,
    options: &PullOptions,
) -> Result<(u64, String), ModelError> {
    let path = staging.join(&wanted.name);
    let (place, checksum) = (path.clone(), wanted.checksum.clone());
    let check = move || checksum.check(&place);
    if let Ok(checked) = blocking(check.clone()).await {
        return Ok(checked);
    }
    let cache = staging.join("hub");
    let mut attempt = 1;
    let blob = loop {
        let error = match download(model, wanted.name.clone(), cache.clone(), options).await {
            Ok(blob) => break blob,
            Err(error) => error,
        };
        if attempt >= options.timeouts.attempts || is_final(&error) {
            let reason = root_cause(&error);
            return Err(ModelError::Hub { endpoint: options.endpoint.clone(), reason });
        }
        tokio::time::sleep(options.timeouts.pause * 2u32.saturating_pow(attempt - 1)).await;
        attempt += 1;
    };
    std::fs::rename(&blob, &path).map_err(ModelError::io(&path))?;
    std::fs::remove_dir_all(&cache).map_err(ModelError::io(&cache))?;
    let checked = blocking(check).await;
    if checked.is_err() {
        std::fs::remove_file(&path).map_err(ModelError::io(&path))?;
    }
    checked
}

/// Whether another attempt would end the same way.
fn is_final(error: &ApiError) -> bool {
    match error {
        ApiError::RequestError(error) => error.status().is_some_and(|status| status.is_client_error()),
        ApiError::MissingHeader(_) | ApiError::InvalidHeader(_) | ApiError::ParseIntError(_) => true,
        _ => false,
    }
}

/// One attempt of hf-hub. It spawns a task for each chunk and forgets them all when one fails, so it gets a runtime of
/// its own: dropping that ends them. Dropping this future ends the attempt.
async fn download(
    model: &'static KnownModel,
    name: String,
    cache: PathBuf,
    options: &PullOptions,
) -> Result<PathBuf, ApiError> {
    let cancel = CancellationToken::new();
    let _guard = cancel.clone().drop_guard();
    let (endpoint, idle) = (options.endpoint.clone(), options.timeouts.idle);
    let progress = Progress::new(&name, options.listener.clone());
    let attempt = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let repository =
                Repo::with_revision(model.repository.to_owned(), RepoType::Model, model.revision.to_owned());
            let api = build(endpoint, cache)?.repo(repository);
            let arrived = progress.arrived.clone();
            tokio::select! {
                pointer = api.download_with_progress(&name, progress) => Ok(std::fs::canonicalize(pointer?)?),
                () = nothing_arrives(&arrived, idle) => Err(timed_out("nothing arrived for too long")),
                () = cancel.cancelled() => Err(timed_out("the download was given up")),
            }
        })
    };
    tokio::task::spawn_blocking(attempt).await?
}

/// The models are public: no token is sent, whatever lies in the user's home.
fn build(endpoint: String, cache: PathBuf) -> Result<Api, ApiError> {
    ApiBuilder::from_cache(Cache::new(cache))
        .with_endpoint(endpoint)
        .with_token(None)
        .with_progress(false)
        .with_chunk_size(Some(CHUNK))
        .build()
}

fn timed_out(reason: &'static str) -> ApiError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, reason).into()
}

/// Ends when `idle` has passed without a byte.
async fn nothing_arrives(arrived: &AtomicU64, idle: Duration) {
    let mut before = arrived.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(idle).await;
        let now = arrived.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

/// Hands hf-hub's counts on. Chunks are fetched one after the other, but each has its own clone.
#[derive(Clone)]
struct Progress {
    file: Arc<str>,
    total: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
    listener: Listener,
}

impl Progress {
    fn new(file: &str, listener: Listener) -> Self {
        Self { file: file.into(), total: Arc::default(), arrived: Arc::default(), listener }
    }
}

impl hf_hub::api::tokio::Progress for Progress {
    async fn init(&mut self, size: usize, _file: &str) {
        self.total.store(size as u64, Ordering::Relaxed);
    }

    async fn update(&mut self, size: usize) {
        let done = self.arrived.fetch_add(size as u64, Ordering::Relaxed) + size as u64;
        let total = self.total.load(Ordering::Relaxed);
        (self.listener)(PullEvent::Bytes { file: &self.file, done, total });
    }

    async fn finish(&mut self) {}
}

/// The innermost cause: "Connection refused" says more than "error sending request".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
