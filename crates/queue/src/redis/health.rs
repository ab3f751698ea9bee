//! Whether a Redis may be trusted with jobs.

use redis::{InfoDict, Value, cmd};
use verbatim_core::{ErrorKind, PortError};

use super::link::Link;

/// The oldest Redis that knows script flags.
const OLDEST: u32 = 7;
/// The layout of our keys. Another number means that another version of Verbatim wrote them.
const LAYOUT: &str = "1";

/// Checks version, eviction and layout.
///
/// # Errors
/// With a sentence that says what to do.
pub(super) async fn check(link: &Link, prefix: &str) -> Result<(), PortError> {
    // A cluster answers for each of its nodes; any of them will do.
    let info: Value = link.command(cmd("INFO").arg("server")).await?;
    if let Some(version) = version(info)
        && version
            .split('.')
            .next()
            .and_then(|major| major.parse().ok())
            .is_some_and(|major: u32| major < OLDEST)
    {
        return refuse(format!("this Redis is version {version}; Verbatim needs {OLDEST} or newer"));
    }
    // Managed services may forbid CONFIG: then nothing can be told, and the log says so.
    let asked: Result<Value, _> = link.command(cmd("CONFIG").arg("GET").arg("maxmemory-policy")).await;
    match asked.ok().and_then(policy) {
        Some(policy) if policy != "noeviction" => {
            return refuse(format!(
                "this Redis throws keys away when it is full (maxmemory-policy {policy}), and jobs with them; set \
                 `maxmemory-policy noeviction` in redis.conf, or `redis-cli CONFIG SET maxmemory-policy noeviction`"
            ));
        }
        Some(_) => {}
        None => tracing::warn!("cannot tell Redis's maxmemory-policy; make sure that it is noeviction"),
    }
    let key = format!("{prefix}layout");
    let _: Value = link.command(cmd("SET").arg(&key).arg(LAYOUT).arg("NX")).await?;
    let layout: String = link.command(cmd("GET").arg(&key)).await?;
    if layout != LAYOUT {
        return refuse(format!(
            "the jobs in this Redis were written by another version of Verbatim (layout {layout}, this one knows {LAYOUT}); \
             run that version, or set another redis.prefix to begin afresh"
        ));
    }
    Ok(())
}

fn refuse(why: String) -> Result<(), PortError> {
    Err(PortError::new(ErrorKind::Invalid, why))
}

/// One node's answer, where a cluster gives one per node.
fn first(value: Value) -> Value {
    match value {
        Value::Map(mut nodes)
            if !nodes.is_empty()
                && matches!(
                    nodes[0].1,
                    Value::BulkString(_) | Value::Array(_) | Value::VerbatimString { .. }
                ) =>
        {
            nodes.swap_remove(0).1
        }
        other => other,
    }
}

fn version(value: Value) -> Option<String> {
    let info: InfoDict = redis::from_redis_value(first(value)).ok()?;
    info.get("redis_version")
}

fn policy(value: Value) -> Option<String> {
    // `CONFIG GET` is a map itself: name and value.
    let pairs: Vec<(String, String)> =
        redis::from_redis_value(value.clone()).or_else(|_| redis::from_redis_value(first(value))).ok()?;
    pairs.into_iter().find(|(name, _)| name == "maxmemory-policy").map(|(_, policy)| policy)
}
