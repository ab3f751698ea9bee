//! A full disk, played by SQLite's own limit on the size of the file.

use std::sync::Arc;

use anyhow::{Context, Result};
use futures::future::join_all;
use verbatim_core::ErrorKind;
use verbatim_core::job::SubmissionStatus;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::JobClient;

use super::{SqliteConfig, SqliteStore};
use crate::conformance::{Harness, Verdict, World};

/// A store in a folder of its own.
pub(super) struct InFolder(tempfile::TempDir);

impl InFolder {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }
}

#[async_trait::async_trait]
impl Harness for InFolder {
    type Store = SqliteStore;

    async fn fresh(
        &self,
        policy: StorePolicy,
        clock: Arc<dyn verbatim_core::time::Clock>,
        ids: Arc<dyn verbatim_core::ids::IdSource>,
    ) -> Result<SqliteStore, verbatim_core::PortError> {
        SqliteStore::open(SqliteConfig { folder: self.0.path().to_owned(), policy, clock, ids })
    }

    async fn audit(&self, _store: &SqliteStore) -> Verdict {
        Ok(())
    }
}

async fn leave_room(store: &SqliteStore, pages: i64) -> Result<()> {
    let set = move |step: &mut super::writer::Step<'_>| {
        let used: i64 = step.conn.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        step.conn.query_row(&format!("PRAGMA max_page_count = {}", used + pages), [], |_| Ok(()))?;
        Ok(())
    };
    Ok(store.writer.call(set).await?)
}

#[tokio::test]
async fn a_full_disk_is_told_apart_and_loses_nothing() -> Result<()> {
    let harness = InFolder::new()?;
    let world = World::open(&harness).await?;
    let running = world.ticket("running").await?;
    let lease = world.claim_one().await?;
    leave_room(&world.store, 30).await?;
    let uploads: Vec<_> = (0..400).map(|number| world.upload(&format!("talk {number}"))).collect();
    let outcomes = join_all(uploads.iter().map(|new| world.store.submit(new.clone()))).await;
    let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(!refused.is_empty(), "the file outgrew its limit");
    assert!(refused.iter().all(|error| error.kind() == ErrorKind::OutOfSpace), "{refused:?}");
    assert!(refused[0].to_string().contains("disk is full"), "{}", refused[0]);
    for (new, outcome) in uploads.iter().zip(&outcomes) {
        let found = world.store.get(&world.tenant(), &new.id).await?;
        assert_eq!(
            found.is_some(),
            outcome.is_ok(),
            "{} is there if and only if it was acknowledged",
            new.id
        );
    }
    leave_room(&world.store, 10_000).await?;
    world.complete(&lease).await?;
    world.expect(&running, SubmissionStatus::Completed).await?;
    let late = uploads.last().context("there are uploads")?;
    assert!(world.store.submit(late.clone()).await?.blob_adopted, "there is room again");
    Ok(())
}
