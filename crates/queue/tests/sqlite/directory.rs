//! The directory of keys: the suite, and what is particular to a file that several processes have open.

use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use rusqlite::Connection;
use tempfile::TempDir;
use verbatim_core::api_key::{KeyName, NewKey, Principal, authenticate};
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::Directory;
use verbatim_core::time::Clock;
use verbatim_core::{ErrorKind, PortError};
use verbatim_queue::conformance::directory::DirectoryHarness;
use verbatim_queue::conformance::{SeededIds, VirtualClock};
use verbatim_queue::{SqliteConfig, SqliteDirectory, SqliteStore};

struct Harness(TempDir);

impl Harness {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    fn open(&self) -> Result<SqliteDirectory, PortError> {
        SqliteDirectory::open(self.0.path(), Arc::new(VirtualClock::default()))
    }
}

#[async_trait]
impl DirectoryHarness for Harness {
    async fn empty(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn Directory>, PortError> {
        Ok(Arc::new(SqliteDirectory::open(self.0.path(), clock)?))
    }
}

verbatim_queue::directory_conformance_suite!(Harness::new());

#[tokio::test]
async fn a_key_made_beside_a_running_server_opens_at_once_and_no_longer_once_revoked() -> Result<()> {
    let harness = Harness::new();
    let clock = Arc::new(VirtualClock::default());
    let ids = Arc::new(SeededIds::starting_at(1));
    let _server = SqliteStore::open(SqliteConfig {
        folder: harness.0.path().to_owned(),
        policy: StorePolicy::default(),
        clock: clock.clone(),
        ids: ids.clone(),
    })?;
    let of_the_server = harness.open()?;
    let beside = harness.open()?;
    let (key, new) = NewKey::issue(KeyName::default(), Principal::default(), None, clock.now(), ids.as_ref());
    beside.add(new).await?;
    drop(beside);
    assert!(authenticate(&of_the_server, &key.expose(), clock.now()).await?.is_ok());
    assert!(harness.open()?.revoke(key.id()).await?);
    assert!(authenticate(&of_the_server, &key.expose(), clock.now()).await?.is_err());
    Ok(())
}

#[tokio::test]
async fn the_secret_is_nowhere_in_the_folder() -> Result<()> {
    let harness = Harness::new();
    let directory = harness.open()?;
    let ids = SeededIds::starting_at(1);
    let now = VirtualClock::default().now();
    let (key, new) = NewKey::issue(KeyName::default(), Principal::default(), None, now, &ids);
    let digest = new.digest.clone();
    directory.add(new).await?;
    let key = key.expose();
    let secret = key.rsplit_once('_').context("a key has two halves")?.1;
    let mut everything = Vec::new();
    for entry in std::fs::read_dir(harness.0.path())? {
        everything.extend(std::fs::read(entry?.path())?);
    }
    let has = |text: &str| everything.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has(digest.as_str()), "the digest is there");
    assert!(!has(secret) && !has(&String::from_utf8_lossy(&[7; 32])), "the secret is there");
    Ok(())
}

#[test]
fn many_processes_may_open_a_new_folder_at_once() -> Result<()> {
    for _ in 0..20 {
        let harness = Harness::new();
        let opened: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| harness.open().map(drop))).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        for outcome in opened {
            outcome.map_err(|_| anyhow::anyhow!("it panicked"))??;
        }
    }
    Ok(())
}

#[tokio::test]
async fn keys_of_a_newer_version_are_left_alone() -> Result<()> {
    let harness = Harness::new();
    drop(harness.open()?);
    Connection::open(harness.0.path().join("keys.db"))?.pragma_update(None, "user_version", 99)?;
    let error = harness.open().err().context("a newer database was opened")?;
    assert_eq!(error.kind(), ErrorKind::Conflict);
    Ok(())
}
