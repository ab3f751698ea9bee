//! What the stores hold and what workers began: read from Redis, from the blob folder and from the logs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use redis::{Commands, Connection};
use serde_json::Value;

use crate::blame::{Account, Hands};
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
    let garbage: u64 = redis.zcard(format!("{{{PREFIX}}}:garbage"))?;
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
            let store = fields.get("rs").map_or_else(String::new, |store| format!("{store}/"));
            let whole = |kept: &String| kept.replacen('~', &format!("results/{store}work_{id}/"), 1);
            let job = StoredJob {
                end,
                fence: field("f").parse().unwrap_or(0),
                nonce: nonce(&fields).to_owned(),
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

/// The nonce of a job's last claim. One that failed or was cancelled keeps it with its last finish, `call|fence|nonce|state`;
/// one that completed only in the name of its result, `<fence>-<nonce>`, so that there the fence alone is evidence.
pub fn nonce(fields: &HashMap<String, String>) -> &str {
    let finished = || fields.get("P")?.split('|').nth(2);
    let published = || fields.get("r")?.rsplit('-').next();
    fields.get("n").map(String::as_str).or_else(finished).or_else(published).unwrap_or("")
}

/// What the store holds against each job.
///
/// # Errors
/// When Redis does not answer.
pub fn accounts(redis: &mut Connection) -> Result<BTreeMap<String, Account>> {
    let prefix = format!("{{{PREFIX}}}:j:");
    let keys: Vec<String> = redis::cmd("KEYS").arg(format!("{prefix}*")).query(redis)?;
    let mut accounts = BTreeMap::new();
    for key in keys {
        let (crashes, deaths, isolated): (Option<u64>, Option<u64>, Option<String>) =
            redis::cmd("HMGET").arg(&key).arg(&["C", "D", "u"]).query(redis)?;
        let (crashes, deaths) = (crashes.unwrap_or(0), deaths.unwrap_or(0));
        let account = Account { crashes, deaths, isolated: isolated.is_some() };
        accounts.insert(key.strip_prefix(&prefix).unwrap_or(&key).to_owned(), account);
    }
    Ok(accounts)
}

/// What each process of a worker had in hand, by its log.
///
/// # Errors
/// When the logs cannot be read.
pub fn hands(folder: &Path) -> Result<BTreeMap<PathBuf, Hands>> {
    let mut all = BTreeMap::new();
    for path in logs_of_workers(folder)? {
        let mut hands = Hands::default();
        for line in lines(&path)? {
            let id = line["span"]["job.id"].as_str().or(line["job.id"].as_str());
            let Some(id) = id.and_then(|id| id.strip_prefix("work_")).map(str::to_owned) else { continue };
            match line["message"].as_str() {
                Some("job started") => {
                    hands.held.insert(id);
                }
                // Also the one whose end nobody knows: its lease lapses although its worker lives.
                Some(message) if message.starts_with("job ended") => {
                    hands.held.remove(&id);
                    if line["outcome"] == "Stale" {
                        hands.lost.insert(id);
                    }
                }
                Some("the lease is lost") => {
                    hands.lost.insert(id);
                }
                _ => {}
            }
        }
        all.insert(path, hands);
    }
    Ok(all)
}

/// How often workers have restarted themselves.
///
/// # Errors
/// When the logs cannot be read.
pub fn restarts(folder: &Path) -> Result<u64> {
    let mut restarts = 0;
    for path in logs_of_workers(folder)? {
        restarts += lines(&path)?.iter().filter(|line| line["message"] == "restarting").count() as u64;
    }
    Ok(restarts)
}

fn logs_of_workers(folder: &Path) -> Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let of_worker =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("worker-"));
    Ok(paths.into_iter().filter(of_worker).collect())
}

/// The whole lines of a log: a killed process may leave half of one.
fn lines(log: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read(log)?;
    Ok(String::from_utf8_lossy(&text).lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// What the workers' logs tell: the leases that they began on, and how often a worker was told that one was lost.
///
/// # Errors
/// When the logs cannot be read.
pub fn logs(folder: &Path) -> Result<(Begun, u64)> {
    let mut begun = Begun::new();
    let mut stale = 0;
    for path in logs_of_workers(folder)? {
        for line in lines(&path)? {
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
