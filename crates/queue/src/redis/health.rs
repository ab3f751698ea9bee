//! Whether a Redis may be trusted with jobs, and which store it holds.

use redis::{InfoDict, Value, cmd};
use verbatim_core::ids::IdSource;
use verbatim_core::{ErrorKind, PortError};

use super::link::Link;
use super::{Wire, error, layout, scripts};

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

/// By `INFO` alone: `CONFIG GET` would tell the policy, too, and is forbidden to a user who may do no more than it needs, as
/// it is by managed services.
async fn check_server(link: &Link) -> Result<(), PortError> {
    if let Some(version) = told(link, "server", "redis_version").await?
        && version
            .split('.')
            .next()
            .and_then(|major| major.parse().ok())
            .is_some_and(|major: u32| major < OLDEST)
    {
        return refuse(format!("this Redis is version {version}; Verbatim needs {OLDEST} or newer"));
    }
    match told(link, "memory", "maxmemory_policy").await? {
        Some(policy) if policy != "noeviction" => refuse(format!(
            "this Redis throws keys away when it is full (maxmemory-policy {policy}), and jobs with them; set \
             `maxmemory-policy noeviction` in redis.conf, or `redis-cli CONFIG SET maxmemory-policy noeviction`"
        )),
        _ => Ok(()),
    }
}

/// A field of a section of `INFO`. Where it is forbidden or missing nothing can be told, and the log says so.
async fn told(link: &Link, section: &str, field: &str) -> Result<Option<String>, PortError> {
    let found = match link.command(cmd("INFO").arg(section)).await {
        // A cluster answers for each of its nodes; any of them will do.
        Ok(answer) => {
            redis::from_redis_value::<InfoDict>(first(answer)).ok().and_then(|info| info.get(field))
        }
        Err(error) if error::says_forbidden(&error) => None,
        Err(error) => return Err(error),
    };
    if found.is_none() {
        tracing::warn!(
            field,
            "cannot tell Redis's version or policy (INFO is forbidden, or lacks it); make sure that it is version {OLDEST} or \
             newer with maxmemory-policy noeviction"
        );
    }
    Ok(found)
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
