//! Who may read the databases, whatever the process's umask lets through.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use verbatim_queue::SqliteDirectory;
use verbatim_queue::conformance::{VirtualClock, World};

use crate::support::SqliteHarness;

/// The modes of these files of a folder.
fn modes(folder: &Path, names: &[&str]) -> Result<Vec<u32>> {
    let mode = |name: &&str| {
        let path = folder.join(name);
        let found = std::fs::metadata(&path).with_context(|| path.display().to_string())?;
        Ok(found.permissions().mode() & 0o777)
    };
    names.iter().map(mode).collect()
}

const FILES: [&str; 4] = ["jobs.db", "jobs.db-wal", "jobs.db-shm", "keys.db"];

#[tokio::test]
async fn only_their_owner_may_read_the_databases_and_the_folder_that_was_made_for_them() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let folder = parent.path().join("new/data");
    let harness = SqliteHarness::at(&folder);
    let world = World::open(&harness).await?;
    world.ticket("talk").await?;
    let _keys = SqliteDirectory::open(&folder, Arc::new(VirtualClock::default()))?;
    assert_eq!(modes(&folder, &FILES)?, [0o600; 4]);
    assert_eq!(modes(&folder, &["."])?, [0o700]);
    Ok(())
}

#[tokio::test]
async fn a_database_that_others_could_read_is_taken_away_from_them() -> Result<()> {
    let parent = tempfile::tempdir()?;
    std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o755))?;
    let file = parent.path().join("jobs.db");
    std::fs::write(&file, "")?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
    let harness = SqliteHarness::at(parent.path());
    let world = World::open(&harness).await?;
    world.ticket("talk").await?;
    assert_eq!(modes(parent.path(), &FILES[..3])?, [0o600; 3]);
    assert_eq!(modes(parent.path(), &["."])?, [0o755], "the folder is its owner's to open");
    Ok(())
}
