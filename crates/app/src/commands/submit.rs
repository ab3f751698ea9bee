//! `verbatim submit FILE...`: files to a server, transcripts back.

use std::io::Write;

use anyhow::{Context, bail};
use serde_json::Value;
use verbatim_core::render::TranscriptFormat;

use super::jobs::{reason, warn};
use crate::cli::SubmitArgs;
use crate::client::Client;
use crate::files::{self, Input};
use crate::progress::{Progress, Unit};

/// Uploads every file at once, then prints the transcripts in the order of the command line.
///
/// # Errors
/// When any file could not be transcribed; the others are all the same.
pub async fn run(arguments: &SubmitArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.server)?;
    let inputs = files::expand(&arguments.files.files)?;
    let fields = fields(arguments);
    let mut jobs = Vec::new();
    let mut failures = 0;
    for input in &inputs {
        match upload(&client, input, &fields).await {
            Ok(job) => {
                if arguments.json {
                    println!("{job}");
                } else if arguments.no_wait {
                    println!("{}  {}", job["id"].as_str().unwrap_or("-"), input.label());
                }
                jobs.push((input, job));
            }
            Err(error) => {
                failures += 1;
                eprintln!("{}: {error:#}", input.label());
            }
        }
    }
    if !arguments.no_wait {
        for (input, job) in &jobs {
            if let Err(error) = deliver(&client, arguments, input, job, inputs.len() > 1).await {
                failures += 1;
                eprintln!("{}: {error:#}", input.label());
            }
        }
    }
    if failures > 0 {
        bail!("{failures} of {} failed", inputs.len());
    }
    Ok(())
}

/// The form fields that say what is asked for.
fn fields(arguments: &SubmitArgs) -> Vec<(&'static str, String)> {
    let speech = &arguments.speech;
    let mut fields = vec![("priority", arguments.priority.clone())];
    let mut add = |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
    add("model", arguments.model.clone());
    add("language", speech.language.clone());
    add("task", speech.translate.then(|| "translate".to_owned()));
    add("prompt", speech.prompt.clone());
    add("temperature", (speech.temperature > 0.0).then(|| speech.temperature.to_string()));
    add("timestamp_granularities[]", speech.words.then(|| "word".to_owned()));
    add("vad", speech.no_vad.then(|| "false".to_owned()));
    fields
}

async fn upload(client: &Client, input: &Input, fields: &[(&str, String)]) -> anyhow::Result<Value> {
    match input {
        Input::File(path) => client.submit(path, fields).await,
        Input::Stdin => {
            let spooled = spool_stdin()?;
            client.submit(spooled.path(), fields).await
        }
    }
}

/// Standard input in a temporary file that vanishes with the returned value.
///
/// # Errors
/// When it cannot be read or the disk is full.
pub fn spool_stdin() -> anyhow::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    std::io::copy(&mut std::io::stdin().lock(), &mut file).context("cannot read standard input")?;
    file.flush()?;
    Ok(file)
}

/// Waits for one job and writes its transcript.
async fn deliver(
    client: &Client,
    arguments: &SubmitArgs,
    input: &Input,
    job: &Value,
    many: bool,
) -> anyhow::Result<()> {
    let id = job["id"].as_str().context("the server's answer has no job id")?;
    let progress = Progress::new(&input.label(), 1000, Unit::Permille, false);
    let last = client
        .follow(id, |event| {
            if let Some(done) = event.data["progress"].as_f64() {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 0 and 1000"
                )]
                progress.set((done.clamp(0.0, 1.0) * 1000.0) as u64, 1000);
            }
            Ok(())
        })
        .await?;
    progress.finish();
    if last.name != "completed" {
        bail!("{}{}", last.name, reason(&last.data));
    }
    warn(&client.get(&format!("/v1/jobs/{id}")).await?, &input.label());
    let format = TranscriptFormat::from(arguments.files.format).as_str();
    let rendered = client.get_text(&format!("/v1/jobs/{id}/transcript?format={format}")).await?;
    files::deliver(&arguments.files, input, many, &rendered)
}
