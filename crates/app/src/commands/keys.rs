//! `verbatim keys create | list | revoke`: straight into the directory, whether or not a server runs.

use std::time::Duration;

use serde_json::{Value, json};
use verbatim_core::api_key::{KeyRecord, NewKey, Principal, Scope};
use verbatim_core::ids::{KeyId, TenantId};
use verbatim_core::job::TenantCaps;
use verbatim_core::ports::Directory;
use verbatim_core::time::{Clock, Timestamp};
use verbatim_core::{ErrorKind, PortError};

use crate::audit::{Acts, Object};
use crate::cli::{CreateKeyArgs, KeysArgs, KeysCommand};
use crate::config::Config;
use crate::directory::Administration;
use crate::system::{SystemClock, SystemIds};

/// Does what was asked of the keys.
///
/// # Errors
/// When the directory cannot be reached, or there is no such key.
pub async fn run(arguments: KeysArgs, config: &Config) -> anyhow::Result<()> {
    let administration = Administration::open(config).await?;
    let directory = administration.directory.as_ref();
    match arguments.command {
        KeysCommand::Create(key) => create(directory, key, &Acts::begin(config)?).await?,
        KeysCommand::List { tenant, json } => return list(directory, tenant.as_ref(), json).await,
        KeysCommand::Revoke { id } => revoke(directory, &id, &Acts::begin(config)?).await?,
    }
    administration.put_in_force().await;
    Ok(())
}

/// The key goes to standard output, alone, so that a script can keep it; all else to standard error.
async fn create(directory: &dyn Directory, arguments: CreateKeyArgs, acts: &Acts) -> anyhow::Result<()> {
    let principal = Principal {
        tenant: arguments.tenant,
        scopes: arguments.scopes,
        max_priority: arguments.max_priority,
        caps: TenantCaps { max_running: arguments.max_running, max_queued: arguments.max_queued },
    };
    let lifetime = arguments.expires_in_days.map(|days| Duration::from_secs(u64::from(days) * 24 * 3600));
    let (key, new) =
        NewKey::issue(arguments.name, principal, lifetime, SystemClock.now(), &SystemIds::default());
    let record = KeyRecord { key: new.clone(), revoked_at: None };
    let object = Object::key(&new);
    acts.record("key.create", &object, directory.add(new).await.map_err(Into::into))?;
    if arguments.json {
        let mut shown = described(&record);
        shown["key"] = key.expose().into();
        println!("{shown}");
    } else {
        eprintln!("{} for tenant {}; it is shown this once:", key.id(), record.key.principal.tenant);
        println!("{}", key.expose());
    }
    Ok(())
}

async fn list(directory: &dyn Directory, tenant: Option<&TenantId>, json: bool) -> anyhow::Result<()> {
    let keys = directory.list(tenant).await?;
    if json {
        println!("{}", keys.iter().map(described).collect::<Value>());
        return Ok(());
    }
    if keys.is_empty() {
        eprintln!("no keys");
    }
    let now = SystemClock.now();
    for record in &keys {
        let holder = &record.key.principal;
        println!(
            "{}  {:<7}  {}  {:<16}  {:<12}  {}",
            record.key.id,
            status(record, now),
            shown_time(record.key.created_at),
            holder.tenant.as_str(),
            holder.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(","),
            record.key.name.as_str(),
        );
    }
    Ok(())
}

async fn revoke(directory: &dyn Directory, id: &KeyId, acts: &Acts) -> anyhow::Result<()> {
    let record = directory.find(id).await?;
    let object = record.as_ref().map_or_else(|| Object::named(id), Object::from);
    let outcome = match directory.revoke(id).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            let why = format!("there is no key {id}; `verbatim keys list` shows all");
            Err(PortError::new(ErrorKind::NotFound, why).into())
        }
        Err(error) => Err(error.into()),
    };
    acts.record("key.revoke", &object, outcome)?;
    println!("{id} revoked");
    Ok(())
}

fn status(record: &KeyRecord, now: Timestamp) -> &'static str {
    match record.revoked_at {
        Some(_) => "revoked",
        None if record.is_open(now) => "open",
        None => "expired",
    }
}

/// All that may be known of a key: neither its secret nor the secret's digest.
fn described(record: &KeyRecord) -> Value {
    let KeyRecord { key, revoked_at } = record;
    let caps = key.principal.caps;
    json!({
        "id": key.id.as_str(),
        "name": key.name.as_str(),
        "tenant": key.principal.tenant.as_str(),
        "scopes": key.principal.scopes.iter().copied().map(Scope::as_str).collect::<Vec<_>>(),
        "max_priority": key.principal.max_priority.as_str(),
        "max_running": caps.max_running,
        "max_queued": caps.max_queued,
        "created_at": shown_time(key.created_at),
        "expires_at": key.expires_at.map(shown_time),
        "revoked_at": revoked_at.map(shown_time),
    })
}

/// RFC 3339, UTC, milliseconds.
fn shown_time(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.as_millis()).map_or_else(|_| "-".to_owned(), |at| format!("{at:.3}"))
}
