//! The writer's group commit: what one operation does to the others of its group.

use std::sync::mpsc;

use anyhow::Result;
use futures::future::join_all;
use rusqlite::params;
use verbatim_core::{ErrorKind, PortError};

use super::SqliteStore;
use super::disk_full_test::InFolder;
use super::error::StoreResult;
use super::writer::Step;
use crate::conformance::World;

/// Marks that an operation wrote, where nothing else looks.
fn mark(step: &Step<'_>, name: &str) -> StoreResult<()> {
    step.conn
        .prepare_cached("INSERT INTO garbage (key) VALUES (?1)")?
        .execute(params![format!("audio/{name}")])?;
    Ok(())
}

async fn one(store: &SqliteStore, number: u32) -> Result<(), PortError> {
    store
        .writer
        .call(move |step| {
            mark(step, &number.to_string())?;
            match number {
                3 => Err(PortError::new(ErrorKind::Conflict, "refused").into()),
                5 => panic!("a bug"),
                _ => Ok(()),
            }
        })
        .await
}

#[tokio::test]
async fn an_operation_that_fails_or_panics_undoes_itself_and_no_other_of_its_group() -> Result<()> {
    let harness = InFolder::new()?;
    let world = World::open(&harness).await?;
    // Holds the writer until the others have queued up behind it, so that they share a transaction.
    let (go, wait) = mpsc::channel::<()>();
    let blocked = world.store.writer.call(move |_| {
        // An error means that the test is over.
        let _ = wait.recv();
        Ok(())
    });
    let group = join_all((0..8).map(|number| one(&world.store, number)));
    let release = async { go.send(()) };
    let (blocked, answers, released) = futures::join!(blocked, group, release);
    blocked?;
    released?;
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(PortError::kind)).collect();
    let mut expected = vec![None; 8];
    expected[3] = Some(ErrorKind::Conflict);
    expected[5] = Some(ErrorKind::Internal);
    assert_eq!(kinds, expected);
    let kept: Vec<String> =
        world.store.readers.run(|conn| super::job::ids(conn, "SELECT key FROM garbage", [])).await?;
    assert_eq!(kept, ["audio/0", "audio/1", "audio/2", "audio/4", "audio/6", "audio/7"]);
    Ok(())
}
