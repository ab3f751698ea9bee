//! `verbatim dlq list | redrive | discard`

use anyhow::bail;
use serde_json::Value;
use verbatim_core::ids::TenantId;

use crate::audit::{Acts, Object};
use crate::cli::{DeadLettersArgs, DeadLettersCommand};
use crate::client::Client;
use crate::config::Config;

/// Does what was asked of the dead letters of a server, which writes it down as well, by the key.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub async fn run(arguments: &DeadLettersArgs, config: &Config) -> anyhow::Result<()> {
    let client = Client::new(&arguments.server)?;
    match &arguments.command {
        DeadLettersCommand::List { tenant, limit } => {
            let page = search(&client, tenant.as_ref(), *limit).await?;
            if arguments.json {
                println!("{page}");
            } else {
                list(&page)?;
            }
        }
        DeadLettersCommand::Redrive { id } => {
            let acts = Acts::begin(config)?;
            let outcome = client.post(&format!("/v1/admin/dead-letters/{id}/redrive")).await;
            acts.record("dead_letter.redrive", &Object::named(id), outcome)?;
            println!("{id} queued");
        }
        DeadLettersCommand::Discard { id } => {
            let acts = Acts::begin(config)?;
            let outcome = client.delete_at(&format!("/v1/admin/dead-letters/{id}")).await;
            acts.record("dead_letter.discard", &Object::named(id), outcome)?;
            println!("{id} discarded");
        }
    }
    Ok(())
}

/// So many dead letters as one page. Of a tenant that has few, the server's page may hold less and say where to go on.
async fn search(client: &Client, tenant: Option<&TenantId>, limit: u32) -> anyhow::Result<Value> {
    let filter = tenant.map_or_else(String::new, |tenant| format!("&tenant={tenant}"));
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let wanted = most.saturating_sub(found.len());
        let path = format!("/v1/admin/dead-letters?limit={wanted}{filter}&cursor={cursor}");
        let mut page = client.get(&path).await?;
        let Some(letters) = page["data"].as_array_mut() else { return Ok(page) };
        found.append(letters);
        match page["next_cursor"].as_str() {
            Some(next) if found.len() < most => cursor = next.to_owned(),
            _ => {
                page["data"] = Value::Array(found);
                return Ok(page);
            }
        }
    }
}

/// A line per dead letter.
fn list(page: &Value) -> anyhow::Result<()> {
    let Some(letters) = page["data"].as_array() else {
        bail!("the server's answer is no list; is it a Verbatim server?");
    };
    if letters.is_empty() {
        eprintln!("no dead letters");
    }
    for letter in letters {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        println!(
            "{}  {}  {:<16}  {} attempts  {}: {}",
            text(&letter["id"]),
            text(&letter["failed_at"]),
            text(&letter["tenant"]),
            letter["attempts"],
            text(&letter["error"]["code"]),
            text(&letter["error"]["message"]),
        );
    }
    if page["has_more"] == true {
        eprintln!("there are more; --limit shows up to 100");
    }
    Ok(())
}
