//! `verbatim blobs list | purge | adopt`: audio and results as a whole, by the job store that they belong to.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::json;
use verbatim_blobs::OwnedBlobs;
use verbatim_core::ids::StoreId;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::BlobStore;
use verbatim_core::ports::blobs::{BlobKey, BlobMeta};
use verbatim_core::ports::jobs::MAX_BLOBS_PER_CALL;
use verbatim_core::ports::ownership::BlobOwner;
use verbatim_core::time::{Clock, Timestamp};
use verbatim_queue::{RedisConfig, RedisStore, SqliteConfig, SqliteStore, sqlite};

use crate::audit::{Acts, Object};
use crate::cli::{BlobsArgs, BlobsCommand};
use crate::config::Config;
use crate::service::{blob_folder, open_blobs};
use crate::system::{SystemClock, SystemIds};

/// Nodes renew their store's marker every few minutes: one that is younger than this is in use.
const IN_USE: Duration = Duration::from_secs(20 * 60);

/// What was found of one job store.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    blobs: u64,
    bytes: u64,
    oldest: Option<Timestamp>,
    newest: Option<Timestamp>,
    /// When its marker was written.
    marked: Option<Timestamp>,
}

impl Found {
    fn add(&mut self, blob: &BlobMeta) {
        self.blobs += 1;
        self.bytes += blob.bytes;
        self.oldest = Some(self.oldest.map_or(blob.modified_at, |oldest| oldest.min(blob.modified_at)));
        self.newest = self.newest.max(Some(blob.modified_at));
    }
}

/// Does what was asked of the blob store that the configuration names.
///
/// # Errors
/// When a store cannot be reached, or what was asked would delete what is in use.
pub async fn run(arguments: BlobsArgs, config: &Config) -> anyhow::Result<()> {
    let folder = blob_folder(config);
    if config.s3.bucket.is_none() && !folder.is_dir() {
        // Opening it would make it, on an unmounted share in the wrong place.
        let what = format!("{} is not there", folder.display());
        return match arguments.command {
            BlobsCommand::List { .. } => {
                eprintln!("there are no audio and no results: {what}");
                Ok(())
            }
            BlobsCommand::Purge { .. } | BlobsCommand::Adopt => {
                bail!("{what}; if it is the right place and no share is to be mounted there, make it first")
            }
        };
    }
    let (blobs, _) = Box::pin(open_blobs(config, None)).await?;
    match arguments.command {
        BlobsCommand::List { json } => list(blobs.as_ref(), own_id(config).await?.as_ref(), json).await,
        BlobsCommand::Purge { store, yes, force } => {
            let own = own_id(config).await?;
            let (acts, object) = (Acts::begin(config)?, Object::named(&store));
            may_be_purged(blobs.as_ref(), &store, own.as_ref(), force).await?;
            if !yes {
                confirm(&store, &found(blobs.as_ref(), &store).await?)?;
            }
            acts.begun("blobs.purge", &object);
            acts.record("blobs.purge", &object, purge(blobs.as_ref(), &store).await)
        }
        BlobsCommand::Adopt => {
            let (acts, owner) = (Acts::begin(config)?, open_owner(config).await?);
            let adopted = OwnedBlobs::adopt(blobs.as_ref(), owner.as_ref()).await;
            let object = Object::named(adopted.as_ref().map_or("*", |id| id.as_str()));
            let id = acts.record("blobs.adopt", &object, adopted.map_err(Into::into))?;
            println!("{id} marked");
            Ok(())
        }
    }
}

/// The id of the job store that the configuration names, if there is one and it has one.
async fn own_id(config: &Config) -> anyhow::Result<Option<StoreId>> {
    if config.redis.url.is_some() {
        return Ok(Some(open_owner(config).await?.identity().await?.id));
    }
    let folder = &config.storage.data_dir;
    let id = if folder.join(sqlite::DATABASE).exists() { sqlite::store_id(folder)? } else { None };
    Ok(id)
}

async fn open_owner(config: &Config) -> anyhow::Result<Arc<dyn BlobOwner>> {
    let (policy, ids) = (StorePolicy::default(), Arc::new(SystemIds::default()));
    let Some(url) = &config.redis.url else {
        let (folder, clock) = (config.storage.data_dir.clone(), Arc::new(SystemClock));
        return Ok(Arc::new(SqliteStore::open(SqliteConfig { folder, policy, clock, ids })?));
    };
    let (url, prefix) = (url.expose().to_owned(), config.redis.prefix.clone());
    // Boxed: its futures are nested too deeply to lie within ours.
    Ok(Arc::new(Box::pin(RedisStore::connect(RedisConfig { url, prefix, policy, ids })).await?))
}

/// Calls `take` with every page of blobs whose key begins with `prefix`.
async fn pages<E>(
    blobs: &dyn BlobStore,
    prefix: &str,
    mut take: impl AsyncFnMut(Vec<BlobMeta>) -> Result<(), E>,
) -> anyhow::Result<()>
where
    anyhow::Error: From<E>,
{
    let mut after: Option<BlobKey> = None;
    loop {
        let page = blobs.list(prefix, after.as_ref(), MAX_BLOBS_PER_CALL).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key.clone());
        take(page).await?;
    }
}

async fn list(blobs: &dyn BlobStore, own: Option<&StoreId>, as_json: bool) -> anyhow::Result<()> {
    let mut stores: BTreeMap<Option<StoreId>, Found> = BTreeMap::new();
    pages(blobs, "", async |page| {
        for blob in page {
            let found = stores.entry(blob.key.store()).or_default();
            if blob.key.is_marker() { found.marked = Some(blob.modified_at) } else { found.add(&blob) }
        }
        anyhow::Ok(())
    })
    .await?;
    if stores.is_empty() {
        eprintln!("there are no audio and no results");
    }
    for (store, found) in stores {
        let in_use = store.is_some() && store.as_ref() == own;
        let time = |at: Option<Timestamp>| {
            at.and_then(|at| jiff::Timestamp::from_millisecond(at.as_millis()).ok()).map(|at| at.to_string())
        };
        let Found { blobs, bytes, oldest, newest, marked } = found;
        if as_json {
            let (oldest, newest, marked) = (time(oldest), time(newest), time(marked));
            println!(
                "{}",
                json!({ "store": store, "in_use": in_use, "blobs": blobs, "bytes": bytes, "oldest": oldest,
                        "newest": newest, "marked": marked })
            );
        } else {
            let name = store.map_or_else(|| "(before ids)".to_owned(), |store| store.to_string());
            let (oldest, newest) = (time(oldest), time(newest));
            let since = oldest.zip(newest).map(|(oldest, newest)| format!("  {oldest} to {newest}"));
            println!(
                "{name:<26}  {}  {blobs} blobs  {bytes} bytes{}",
                if in_use { "in use" } else { "-     " },
                since.unwrap_or_default()
            );
        }
    }
    Ok(())
}

/// Refuses what is in use, unless it is forced.
async fn may_be_purged(
    blobs: &dyn BlobStore,
    store: &StoreId,
    own: Option<&StoreId>,
    force: bool,
) -> anyhow::Result<()> {
    if force {
        return Ok(());
    }
    ensure!(
        own != Some(store),
        "{store} is the job store in use here; --force deletes its audio and results"
    );
    let marker = blobs.head(&BlobKey::marker(store)).await?;
    let age = marker.map(|marker| SystemClock.now().since(marker.modified_at));
    if let Some(age) = age.filter(|age| *age < IN_USE) {
        bail!("{store} was in use {} s ago, by other nodes; stop them first, or --force", age.as_secs());
    }
    Ok(())
}

/// What there is of a job store.
async fn found(blobs: &dyn BlobStore, store: &StoreId) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for prefix in BlobKey::prefixes_of(store) {
        pages(blobs, &prefix, async |page| {
            page.iter().for_each(|blob| found.add(blob));
            anyhow::Ok(())
        })
        .await?;
    }
    Ok(found)
}

async fn purge(blobs: &dyn BlobStore, store: &StoreId) -> anyhow::Result<()> {
    let (mut deleted, mut left) = (0, None);
    for prefix in BlobKey::prefixes_of(store) {
        pages(blobs, &prefix, async |page| {
            let keys: Vec<BlobKey> = page.into_iter().map(|blob| blob.key).collect();
            for outcome in blobs.delete_many(&keys).await {
                match outcome {
                    Ok(()) => deleted += 1,
                    Err(error) => left = Some(error),
                }
            }
            anyhow::Ok(())
        })
        .await?;
    }
    println!("{deleted} blobs of {store} deleted");
    if let Some(error) = left {
        bail!("not all could be deleted: {error}; try again");
    }
    blobs.delete(&BlobKey::marker(store)).await?;
    Ok(())
}

/// Asks whoever sits at the terminal.
fn confirm(store: &StoreId, found: &Found) -> anyhow::Result<()> {
    ensure!(std::io::stdin().is_terminal(), "there is nobody to ask; --yes deletes without asking");
    eprint!("{} blobs ({} bytes) of {store} will be deleted. Type `yes`: ", found.blobs, found.bytes);
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    ensure!(answer.trim() == "yes", "nothing was deleted");
    Ok(())
}
