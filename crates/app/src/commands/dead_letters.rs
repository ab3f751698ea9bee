//! `verbatim dlq list | redrive | discard`

use anyhow::bail;
use serde_json::Value;

use crate::cli::{DeadLettersArgs, DeadLettersCommand};
use crate::client::Client;

/// Does what was asked of the dead letters of a server.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub async fn run(arguments: &DeadLettersArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.server)?;
    match &arguments.command {
        DeadLettersCommand::List { tenant, limit } => {
            let filter = tenant.as_ref().map_or_else(String::new, |tenant| format!("&tenant={tenant}"));
            let page = client.get(&format!("/v1/admin/dead-letters?limit={limit}{filter}")).await?;
            if arguments.json {
                println!("{page}");
            } else {
                list(&page)?;
            }
        }
        DeadLettersCommand::Redrive { id } => {
            client.post(&format!("/v1/admin/dead-letters/{id}/redrive")).await?;
            println!("{id} queued");
        }
        DeadLettersCommand::Discard { id } => {
            client.delete_at(&format!("/v1/admin/dead-letters/{id}")).await?;
            println!("{id} discarded");
        }
    }
    Ok(())
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
