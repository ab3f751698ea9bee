//! The folder adapter: the suite that every adapter must pass, and what only a folder can get wrong.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use bytes::Bytes;
use verbatim_blobs::{FolderDisk, FolderStore, conformance};
use verbatim_core::ErrorKind;
use verbatim_core::ids::{IdSource, JobId};
use verbatim_core::ports::Disk;
use verbatim_core::ports::blobs::{BlobKey, BlobStore, get_bytes, put_bytes};

#[derive(Default)]
struct CountingIds(AtomicU64);

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

fn key() -> BlobKey {
    BlobKey::for_upload(&JobId::generate(&CountingIds::default()))
}

/// Every file under `dir` that belongs to a blob, whole or half-written.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else if entry.path().extension().is_none_or(|extension| extension != "lock") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_folder_passes_the_suite_and_keeps_no_temporary_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let store = FolderStore::open(dir.path())?;
    conformance::check_all(&store, &CountingIds::default()).await;
    assert_eq!(files(&dir.path().join("tmp"))?, Vec::<PathBuf>::new());
    Ok(())
}

#[tokio::test]
async fn what_was_finished_is_there_when_the_folder_is_opened_again() -> Result<()> {
    let dir = tempfile::tempdir()?;
    put_bytes(&FolderStore::open(dir.path())?, &key(), Bytes::from_static(b"kept")).await?;
    assert_eq!(get_bytes(&FolderStore::open(dir.path())?, &key()).await?, b"kept");
    Ok(())
}

#[tokio::test]
async fn opening_removes_what_the_dead_left_and_not_what_the_living_write() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dead = dir.path().join("tmp/staging-dead");
    std::fs::create_dir_all(&dead)?;
    std::fs::write(dead.join("owner.lock"), "")?;
    std::fs::write(dead.join("blob-1"), "half")?;

    let first = FolderStore::open(dir.path())?;
    assert!(!dead.exists());
    let mut writer = first.put_stream(&key()).await?;
    writer.write(Bytes::from(vec![7; 600_000])).await?;
    let second = FolderStore::open(dir.path())?;
    writer.finish().await?;
    assert_eq!(get_bytes(&second, &key()).await?.len(), 600_000);
    Ok(())
}

#[tokio::test]
async fn a_folder_that_is_gone_is_unavailable_and_heals() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("blobs");
    let store = FolderStore::open(&root)?;
    std::fs::rename(&root, dir.path().join("away"))?;
    assert_eq!(store.ping().await.map_err(|error| error.kind()), Err(ErrorKind::Unavailable));
    let put = put_bytes(&store, &key(), Bytes::from_static(b"x")).await;
    assert_eq!(put.map_err(|error| error.kind()), Err(ErrorKind::Unavailable));
    std::fs::rename(dir.path().join("away"), &root)?;
    store.ping().await?;
    Ok(())
}

#[tokio::test]
async fn the_last_result_of_a_job_takes_its_folder_with_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let store = FolderStore::open(dir.path())?;
    let result = BlobKey::parse("results/work_1/1-a")?;
    put_bytes(&store, &result, Bytes::from_static(b"x")).await?;
    store.delete(&result).await?;
    assert!(!dir.path().join("results/work_1").exists());
    store.delete(&key()).await?;
    assert!(dir.path().join("audio").exists());
    Ok(())
}

#[tokio::test]
async fn a_file_in_place_of_the_folder_is_an_error_that_names_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("blobs");
    std::fs::write(&root, "not a folder")?;
    let error = FolderStore::open(&root).err().map(|error| error.to_string());
    assert!(error.is_some_and(|text| text.contains(&root.display().to_string())));
    Ok(())
}

#[tokio::test]
async fn the_disk_under_a_folder_that_is_gone_is_unavailable() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("blobs");
    let disk = FolderDisk::under(&folder);
    assert_eq!(disk.room().await.map_err(|error| error.kind()), Err(ErrorKind::Unavailable));
    std::fs::create_dir(&folder)?;
    let room = disk.room().await?;
    assert!(0 < room.free_bytes && room.free_bytes < room.size_bytes, "{room:?}");
    Ok(())
}
