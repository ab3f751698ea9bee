//! What the stores hold and what workers began: read from Redis, from the blob folder and from the logs.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result};
use redis::{Commands, Connection};
use serde_json::Value;

use crate::check::{Begun, StoredJob, Stores};
use crate::cluster::PREFIX;
use crate::history::Status;

/// Jobs that have not ended, and blobs that wait for their deletion.
///
/// # Errors
/// When Redis does not answer.
pub fn unfinished(redis: &mut Connection) -> Result<u64> {
    let counters: HashMap<String, i64> = redis.hgetall(format!("{{{PREFIX}}}:n"))?;
    let live = ["q0", "q1", "q2", "d", "r"].iter().filter_map(|name| counters.get(*name)).sum::<i64>();
    let garbage: u64 = redis.scard(format!("{{{PREFIX}}}:g"))?;
    Ok(garbage + u64::try_from(live).context("a counter is below nothing")?)
}

/// Jobs and submissions. Blobs are looked up apart.
///
/// # Errors
/// When Redis does not answer, or holds something unreadable.
pub fn stores(redis: &mut Connection) -> Result<Stores> {
    let prefix = format!("{{{PREFIX}}}:");
    let mut stores = Stores::default();
    let keys: Vec<String> = redis::cmd("KEYS").arg(format!("{prefix}[js]:*")).query(redis)?;
    for key in keys {
        let fields: HashMap<String, String> = redis.hgetall(&key)?;
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        let name = key.strip_prefix(&prefix).unwrap_or_default();
        if let Some(id) = name.strip_prefix("s:") {
            stores.submissions.insert(format!("job_{id}"), field("j").to_owned());
        } else if let Some(id) = name.strip_prefix("j:") {
            let end = match field("s") {
                "c" => Some(Status::Completed),
                "f" => Some(Status::Failed),
                "x" => Some(Status::Cancelled),
                _ => None,
            };
            let whole = |kept: &String| kept.replacen('~', &format!("results/work_{id}/"), 1);
            let job = StoredJob {
                end,
                fence: field("f").parse().unwrap_or(0),
                nonce: field("n").to_owned(),
                result: fields.get("r").map(whole),
                audio: fields.get("b").cloned().unwrap_or_else(|| format!("audio/{id}")),
            };
            stores.jobs.insert(id.to_owned(), job);
        }
    }
    Ok(stores)
}

/// The names of all blobs under a folder.
///
/// # Errors
/// When the folder cannot be read.
pub fn blobs(root: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut folders = vec![root.join("audio"), root.join("results")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                names.insert(path.strip_prefix(root)?.display().to_string());
            }
        }
    }
    Ok(names)
}

/// What the workers' logs tell: the leases that they began on, and how often a worker was told that one was lost.
///
/// # Errors
/// When the logs cannot be read.
pub fn logs(folder: &Path) -> Result<(Begun, u64)> {
    let mut begun = Begun::new();
    let mut stale = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("worker-")) {
            continue;
        }
        // A killed process may leave half a line.
        for line in String::from_utf8_lossy(&std::fs::read(&path)?).lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let id = line["span"]["job.id"].as_str().and_then(|id| id.strip_prefix("work_"));
            match (line["message"].as_str(), id, line["fence"].as_u64()) {
                (Some("job started"), Some(id), Some(fence)) => {
                    begun.entry(id.to_owned()).or_default().insert(fence);
                }
                (Some("the lease is lost"), ..) => stale += 1,
                (Some("job ended"), ..) if line["outcome"] == "Stale" => stale += 1,
                _ => {}
            }
        }
    }
    Ok((begun, stale))
}
