//! `verbatim backup` and `verbatim restore`: the embedded store into a file and back.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::json;
use verbatim_core::CancellationToken;

use crate::audit::{Acts, Object};
use crate::backup::{self, Manifest};
use crate::cli::{BackupArgs, BackupOptions, RestoreArgs};
use crate::config::Config;
use crate::progress::{Progress, Unit};
use crate::shutdown::stop_on_signal;

/// Backs the data folder up; a server may run on it.
///
/// # Errors
/// When there is a cluster, no data, or something cannot be read or written.
pub async fn back_up(arguments: BackupArgs, config: &Config) -> anyhow::Result<()> {
    check_embedded(config)?;
    let BackupArgs { file, common } = arguments;
    let (from, to) = (config.storage.data_dir.clone(), file.clone());
    let (acts, object) = (Acts::begin(config)?, Object::at(&file));
    let done =
        run("backup", &common, move |progress, stop| backup::back_up(&from, &to, progress, stop)).await;
    let manifest = acts.record("store.backup", &object, done)?;
    show("backed up", &common, &file, &config.storage.data_dir, &manifest);
    Ok(())
}

/// Restores a backup into a data folder that is empty or not there yet.
///
/// # Errors
/// When there is a cluster, the folder is not empty, or the backup is damaged or of a newer version.
pub async fn restore(arguments: RestoreArgs, config: &Config) -> anyhow::Result<()> {
    check_embedded(config)?;
    let RestoreArgs { file, common } = arguments;
    let (from, to) = (file.clone(), config.storage.data_dir.clone());
    let (acts, object) = (Acts::begin(config)?, Object::at(&file));
    let done =
        run("restore", &common, move |progress, stop| backup::restore(&from, &to, progress, stop)).await;
    let manifest = acts.record("store.restore", &object, done)?;
    show("restored", &common, &file, &config.storage.data_dir, &manifest);
    Ok(())
}

/// What a cluster shares has tools of its own, which know how to copy it while it is in use.
fn check_embedded(config: &Config) -> anyhow::Result<()> {
    ensure!(
        config.redis.url.is_none(),
        "redis.url is set: a cluster's jobs lie in Redis, which its own tools back up (its append-only file or a snapshot), \
         and its audio and results in the bucket or the shared folder; this command is for the embedded store"
    );
    ensure!(
        config.s3.bucket.is_none(),
        "s3.bucket is set: audio and results lie in a bucket, which its own tools back up; this command is for an embedded \
         store with all of its data in one folder"
    );
    Ok(())
}

/// Runs `work`, which blocks, with progress; a signal stops it, and it cleans up after itself.
async fn run(
    label: &'static str,
    options: &BackupOptions,
    work: impl FnOnce(&Progress, &CancellationToken) -> anyhow::Result<Manifest> + Send + 'static,
) -> anyhow::Result<Manifest> {
    let stop = CancellationToken::new();
    let listening = tokio::spawn(stop_on_signal(stop.clone()));
    let progress = Progress::new(label, 0, Unit::Bytes, options.quiet);
    let done = tokio::task::spawn_blocking(move || {
        let outcome = work(&progress, &stop);
        progress.finish();
        outcome
    });
    let outcome = done.await.with_context(|| format!("the {label} broke down"));
    listening.abort();
    outcome?
}

fn show(done: &str, options: &BackupOptions, file: &Path, data_dir: &Path, manifest: &Manifest) {
    let missing = &manifest.missing;
    if options.json {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
        println!(
            "{}",
            json!({
                "file": absolute(file),
                "data_dir": absolute(data_dir),
                "files": manifest.members.len(),
                "bytes": manifest.bytes(),
                "verbatim": manifest.verbatim,
                "created_at": manifest.created_at,
                "schemas": manifest.schemas,
                "missing": missing,
            })
        );
    } else {
        let (files, bytes) = (manifest.members.len(), manifest.bytes());
        println!("{done}: {files} files, {bytes} bytes, as of {}", manifest.created_at);
    }
    for key in missing {
        eprintln!("warning: {key} is not in it: it was gone when it was to be read");
    }
}
