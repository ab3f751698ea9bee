//! `verbatim jobs list | get | watch | cancel`

use anyhow::bail;
use serde_json::Value;

use crate::cli::{JobsArgs, JobsCommand};
use crate::client::{Client, Event};

/// Does what was asked of the jobs of a server.
///
/// # Errors
/// When the server cannot be reached or refuses; for `watch`, also when the job does not complete.
pub async fn run(arguments: &JobsArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.server)?;
    match &arguments.command {
        JobsCommand::List { status, limit } => {
            let filter = status.as_ref().map_or_else(String::new, |status| format!("&status={status}"));
            let page = client.get(&format!("/v1/jobs?limit={limit}{filter}")).await?;
            if arguments.json {
                println!("{page}");
            } else {
                list(&page);
            }
        }
        JobsCommand::Get { id } => {
            let job = client.get(&format!("/v1/jobs/{id}")).await?;
            println!(
                "{}",
                if arguments.json { job.to_string() } else { serde_json::to_string_pretty(&job)? }
            );
        }
        JobsCommand::Watch { id } => watch(&client, id, arguments.json).await?,
        JobsCommand::Cancel { id } => {
            let removed = client.delete(id).await?;
            println!("{id} {}", if removed { "removed" } else { "cancelled" });
        }
    }
    Ok(())
}

/// A line per job.
fn list(page: &Value) {
    let jobs = page["data"].as_array().map_or(&[][..], Vec::as_slice);
    if jobs.is_empty() {
        eprintln!("no jobs");
    }
    for job in jobs {
        let percent = job["progress"].as_f64().unwrap_or(0.0) * 100.0;
        println!(
            "{}  {:<10} {percent:>3.0} %  {}  {}",
            text(&job["id"]),
            text(&job["status"]),
            text(&job["created_at"]),
            text(&job["model"]),
        );
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

async fn watch(client: &Client, id: &str, json: bool) -> anyhow::Result<()> {
    let last = client
        .follow(id, |event| {
            if json {
                println!("{}", serde_json::json!({ "event": event.name, "data": event.data }));
            } else {
                show(event);
            }
            Ok(())
        })
        .await?;
    match last.name.as_str() {
        "completed" => {
            if !json {
                warn(&client.get(&format!("/v1/jobs/{id}")).await?, id);
            }
            Ok(())
        }
        outcome => bail!("{id} {outcome}{}", reason(&last.data)),
    }
}

/// Segments go to standard output, what happens around them to standard error.
fn show(event: &Event) {
    match event.name.as_str() {
        "segment" => println!("{}", text(&event.data["segment"]["text"]).trim()),
        "progress" => {}
        name => eprintln!("{name}"),
    }
}

/// Tells on standard error what was noticed in the audio of a job.
pub fn warn(job: &Value, label: &str) {
    let warnings = job["warnings"].as_array().map_or(&[][..], Vec::as_slice);
    for warning in warnings {
        eprintln!("{label}: warning: {}", text(&warning["message"]));
    }
}

/// Why a job failed, as the last event tells.
pub fn reason(data: &Value) -> String {
    data["error"]["message"].as_str().map_or_else(String::new, |message| format!(": {message}"))
}
