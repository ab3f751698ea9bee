//! Whether a Redis may be trusted with jobs, and which store it holds.

use redis::{InfoDict, Value, cmd};
use verbatim_core::ids::IdSource;
use verbatim_core::{ErrorKind, PortError};

use super::link::Link;
use super::{Wire, layout, scripts};

/// The oldest Redis that knows script flags.
const OLDEST: u32 = 7;

/// What says that a queue is there.
pub(super) struct Found {
    /// How it is laid out; empty where there is none.
    pub(super) layout: String,
    /// Which store it is; empty where there is none, or where a version of before made it.
    pub(super) store: String,
}

/// Looks at what is there.
///
/// # Errors
/// As every script.
pub(super) async fn look(wire: &Wire) -> Result<Found, PortError> {
    let (layout, store) = wire.link.run(&scripts::LOOK.key(wire.root())).await?;
    Ok(Found { layout, store })
}

/// Makes what is missing of a queue, and says what is there then.
///
/// # Errors
/// As every script.
pub(super) async fn found(wire: &Wire, ids: &dyn IdSource) -> Result<Found, PortError> {
    let mut call = scripts::FOUND.key(wire.root());
    call.arg(layout::ours()).arg(ids.ulid());
    let (layout, store) = wire.link.run(&call).await?;
    Ok(Found { layout, store })
}

/// Checks version, eviction and layout; makes a queue where there is none. Returns the id of the store.
///
/// # Errors
/// With a sentence that says what to do.
pub(super) async fn check(wire: &Wire, ids: &dyn IdSource) -> Result<String, PortError> {
    check_server(&wire.link).await?;
    let mut queue = look(wire).await?;
    // What is there is not written again: a full Redis would refuse that, and a node could not start on it.
    if queue.layout.is_empty() || queue.store.is_empty() {
        queue = found(wire, ids).await?;
    }
    layout::check(&queue.layout)?;
    Ok(queue.store)
}

async fn check_server(link: &Link) -> Result<(), PortError> {
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
        Some(policy) if policy != "noeviction" => refuse(format!(
            "this Redis throws keys away when it is full (maxmemory-policy {policy}), and jobs with them; set \
             `maxmemory-policy noeviction` in redis.conf, or `redis-cli CONFIG SET maxmemory-policy noeviction`"
        )),
        Some(_) => Ok(()),
        None => {
            tracing::warn!("cannot tell Redis's maxmemory-policy; make sure that it is noeviction");
            Ok(())
        }
    }
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
