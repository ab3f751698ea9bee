//! A disk that is really full: a tmpfs of one megabyte, mounted in a namespace of the test's own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use verbatim_blobs::{FolderDisk, FolderStore};
use verbatim_core::ErrorKind;
use verbatim_core::ports::Disk;
use verbatim_core::ports::blobs::{BlobKey, BlobStore, get_bytes, put_bytes};

const FOLDER: &str = "VERBATIM_TEST_SMALL_DISK";

/// Runs [`on_a_small_disk`] where `FOLDER` is a small disk. Machines that allow no namespaces say so and check nothing.
#[test]
fn a_full_disk_is_out_of_space_and_leaves_no_trace() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let namespace = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-ec", script]).env(FOLDER, dir.path());
        command
    };
    let mount = format!("mount -t tmpfs -o size=1m tmpfs \"${FOLDER}\"");
    let mounted = namespace(&mount).output().is_ok_and(|output| output.status.success());
    ensure!(mounted, "this test needs `unshare` and the right to mount a tmpfs in a user namespace");
    let script = format!("{mount}; exec \"$0\" --ignored --exact on_a_small_disk");
    let output = namespace(&script).arg(std::env::current_exe()?).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

#[tokio::test]
#[ignore = "run by the test above"]
async fn on_a_small_disk() -> Result<()> {
    let root = PathBuf::from(std::env::var_os(FOLDER).context("no small disk")?);
    let store = FolderStore::open(&root)?;
    let (large, small) = (BlobKey::parse("audio/large")?, BlobKey::parse("audio/small")?);

    let empty = FolderDisk::under(&root).room().await?;
    ensure!(empty.size_bytes == 1 << 20 && empty.free_bytes > 900_000, "{empty:?}");

    let put = put_bytes(&store, &large, Bytes::from(vec![1; 4 << 20])).await;
    assert_eq!(put.map_err(|error| error.kind()), Err(ErrorKind::OutOfSpace));
    assert_eq!(store.head(&large).await?, None);

    // What the failed upload had taken is free again.
    put_bytes(&store, &small, Bytes::from(vec![2; 900_000])).await?;
    let mut filler = store.put_stream(&large).await?;
    let mut pieces = 0;
    let full = loop {
        match filler.write(Bytes::from(vec![3; 512 * 1024])).await {
            Ok(()) => pieces += 1,
            Err(error) => break error,
        }
        ensure!(pieces < 9, "the disk never fills");
    };
    assert_eq!(full.kind(), ErrorKind::OutOfSpace);
    // A writer whose piece was lost must not finish with a hole.
    ensure!(filler.finish().await.is_err());
    assert_eq!(store.head(&large).await?, None);

    std::fs::write(root.join("rest"), vec![0; 1 << 20]).err().context("the disk fills")?;
    assert_eq!(FolderDisk::under(&root).room().await?.free_bytes, 0);
    assert_eq!(store.ping().await.map_err(|error| error.kind()), Err(ErrorKind::OutOfSpace));
    assert_eq!(get_bytes(&store, &small).await?.len(), 900_000);
    std::fs::remove_file(root.join("rest"))?;
    store.ping().await?;
    Ok(())
}
