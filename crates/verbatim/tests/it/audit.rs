//! The audit of a running service and of the command line: in files of its own, or in the log whatever its filter says.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::Value;
use tokio::process::Command;

use crate::support::sound::hello_times;
use crate::support::{Client, Server};

const SETTINGS: [(&str, &str); 3] = [
    ("VERBATIM__AUTH__REQUIRED", "true"),
    ("VERBATIM__WORKER__ENGINES", "fake"),
    ("VERBATIM__LOG__FILTER", "off"),
];

/// Runs a command; `audit` is the folder of the audit.
async fn run(folder: &Path, audit: Option<&Path>, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verbatim"));
    command.args(arguments).current_dir(folder).kill_on_drop(true);
    if let Some(audit) = audit {
        command.env("VERBATIM__LOG__AUDIT_DIR", audit);
    }
    Ok(command.output().await?)
}

fn out(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout.clone())?.trim().to_owned())
}

/// Every line of the audit in this folder.
fn written(audit: &Path) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    for file in std::fs::read_dir(audit)? {
        let file = file?;
        ensure!(file.metadata()?.permissions().mode() & 0o777 == 0o600, "{file:?} can be read by others");
        for line in std::fs::read_to_string(file.path())?.lines() {
            lines.push(serde_json::from_str(line).with_context(|| line.to_owned())?);
        }
    }
    Ok(lines)
}

/// The one line about this.
fn only<'a>(lines: &'a [Value], action: &str, object: &str) -> Result<&'a Value> {
    let mut found = lines.iter().filter(|line| line["action"] == action && line["object"] == object);
    let line = found.next().with_context(|| format!("no {action} of {object} in {lines:?}"))?;
    ensure!(found.next().is_none(), "more than one {action} of {object}");
    Ok(line)
}

#[tokio::test]
async fn who_read_a_transcript_stands_in_a_file_that_no_log_rotation_reaches() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let audit = folder.path().join("audit");
    let audit_dir = audit.to_str().context("a path in UTF-8")?.to_owned();
    let settings = [&SETTINGS[..], &[("VERBATIM__LOG__AUDIT_DIR", audit_dir.as_str())]].concat();
    let server = Server::start_in(folder.path(), &settings).await?;
    let create = ["keys", "create", "--tenant", "acme", "--data-dir", "data"];
    let key = out(&run(folder.path(), Some(&audit), &create).await?)?;
    let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}"))?)]);
    let http = reqwest::Client::builder().default_headers(headers).build()?;
    let client = Client { url: server.url().to_owned(), http };
    let (_, job) = client.upload(hello_times(1), &[]).await?;
    let id = job["id"].as_str().context("a job has an id")?;
    ensure!(client.ended(id).await?["status"] == "completed", "the job of {id}");
    let transcript = client.http.get(format!("{}/v1/jobs/{id}/transcript", client.url)).send().await?;
    let request = transcript.headers()["x-request-id"].to_str()?.to_owned();
    ensure!(transcript.status().is_success(), "{transcript:?}");

    let lines = written(&audit)?;
    let read = only(&lines, "transcript.read", id)?;
    ensure!(read["tenant"] == "acme" && read["outcome"] == "done" && read["request.id"] == request, "{read}");
    ensure!(
        read["client"] == "127.0.0.1" && read["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')),
        "{read}"
    );
    let made = only(&lines, "key.create", read["key.id"].as_str().context("a key's id")?)?;
    ensure!(
        made["via"] == "cli" && made["object.tenant"] == "acme" && made["object.scopes"] == "jobs",
        "{made}"
    );
    let log = std::fs::read_to_string(folder.path().join("serve.log"))?;
    ensure!(log.is_empty(), "the filter is off, and the audit is elsewhere: {log}");
    Ok(())
}

#[tokio::test]
async fn without_a_folder_the_audit_is_in_the_log_whatever_its_filter_says() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start_in(folder.path(), &SETTINGS).await?;
    let create = ["keys", "create", "--tenant", "ops", "--scope", "admin", "--data-dir", "data"];
    let made = run(folder.path(), None, &create).await?;
    let key = out(&made)?;
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    ensure!(said.contains("key.create") && said.contains("object.scopes=\"admin\""), "{said}");
    let secret = key.splitn(3, '_').nth(2).context("a key has two halves")?;
    ensure!(!said.contains(secret), "the line tells the secret");
    let list = reqwest::Client::new()
        .get(format!("{}/v1/admin/keys", server.url()))
        .bearer_auth(&key)
        .send()
        .await?;
    ensure!(list.status().is_success(), "{list:?}");
    let log = std::fs::read_to_string(folder.path().join("serve.log"))?;
    ensure!(log.lines().count() == 1 && log.contains("key.list"), "{log}");
    Ok(())
}

#[tokio::test]
async fn commands_that_change_something_leave_lines_and_nothing_changes_where_they_cannot() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (dir, audit) = (folder.path(), folder.path().join("audit"));
    let verbatim = async |arguments: &[&str]| run(dir, Some(&audit), arguments).await;
    let admin =
        ["keys", "create", "--tenant", "ops", "--scope", "read,admin", "--json", "--data-dir", "data"];
    let key: Value = serde_json::from_str(&out(&verbatim(&admin).await?)?)?;
    let id = key["id"].as_str().context("a key has an id")?;
    out(&verbatim(&["keys", "revoke", id, "--data-dir", "data"]).await?)?;
    let unknown = "key_00000000000000000000000000";
    ensure!(
        !verbatim(&["keys", "revoke", unknown, "--data-dir", "data"]).await?.status.success(),
        "{unknown}"
    );
    // What only looks leaves none.
    out(&verbatim(&["keys", "list", "--data-dir", "data"]).await?)?;
    let server = Server::start_in(dir, &[("VERBATIM__WORKER__ENGINES", "fake")]).await?;
    let letter = "work_00000000000000000000000000";
    for act in ["redrive", "discard"] {
        let refused = verbatim(&["dlq", "--server", server.url(), act, letter]).await?;
        ensure!(!refused.status.success(), "there is no {letter}");
    }
    drop(server);
    out(&verbatim(&["backup", "all.tar", "--quiet", "--data-dir", "data"]).await?)?;
    out(&verbatim(&["restore", "all.tar", "--quiet", "--data-dir", "new"]).await?)?;
    out(&verbatim(&["blobs", "adopt", "--data-dir", "new"]).await?)?;
    let store = "00000000000000000000000000";
    let purge = ["blobs", "purge", "--store", store, "--yes", "--data-dir", "new"];
    out(&verbatim(&purge).await?)?;

    let lines = written(&audit)?;
    let scopes = |line: &Value| (line["object.tenant"] == "ops", line["object.scopes"] == "read,admin");
    for action in ["key.create", "key.revoke"] {
        ensure!(scopes(only(&lines, action, id)?) == (true, true), "{lines:?}");
    }
    ensure!(only(&lines, "key.revoke", unknown)?["outcome"] == "not_found", "{lines:?}");
    for action in ["dead_letter.redrive", "dead_letter.discard"] {
        ensure!(only(&lines, action, letter)?["outcome"] == "failed", "{lines:?}");
    }
    let tar = dir.join("all.tar");
    for action in ["store.backup", "store.restore"] {
        ensure!(only(&lines, action, tar.to_str().context("UTF-8")?)?["outcome"] == "done", "{lines:?}");
    }
    let outcomes = |action: &str| {
        let of_it = lines.iter().filter(|line| line["action"] == action);
        of_it.map(|line| line["outcome"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    ensure!(outcomes("blobs.adopt") == ["done"] && outcomes("blobs.purge") == ["begun", "done"], "{lines:?}");
    let user =
        std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own))?.to_string();
    let by = |line: &Value| line["actor"].as_str().is_some_and(|actor| actor.starts_with(&user));
    ensure!(lines.iter().all(|line| line["via"] == "cli" && by(line)), "{lines:?}");
    ensure!(lines.len() == 10, "{lines:?}");

    // A file where the folder should be.
    let nowhere = run(dir, Some(&tar), &["keys", "create", "--tenant", "acme", "--data-dir", "data"]).await?;
    let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    ensure!(!nowhere.status.success() && said.contains("log.audit_dir"), "{said}");
    let listed = out(&verbatim(&["keys", "list", "--tenant", "acme", "--data-dir", "data"]).await?)?;
    ensure!(listed.is_empty(), "{listed}");
    Ok(())
}
