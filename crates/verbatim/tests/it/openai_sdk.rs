//! OpenAI's own Python client drives the service: `python/openai_sdk.py` says what it asks.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::support::{Server, repository};

/// `.venv` as `scripts/setup test` makes it, or what VERBATIM_PYTHON names.
pub(crate) fn python() -> PathBuf {
    std::env::var_os("VERBATIM_PYTHON").map_or_else(|| repository().join(".venv/bin/python"), PathBuf::from)
}

/// Speech that the `base` model understands, in another language than English.
fn speak_spanish(file: &Path) -> Result<()> {
    let words = "Buenos días. El tiempo es muy bueno hoy. Vamos al parque con el perro.";
    let status =
        Command::new("espeak-ng").args(["-v", "es", "-s", "140", "-w"]).arg(file).arg(words).status();
    ensure!(status.context("espeak-ng is missing: run `scripts/setup test`")?.success(), "espeak-ng failed");
    Ok(())
}

#[tokio::test]
async fn openais_python_client_works_unchanged() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let spanish = dir.path().join("spanish.wav");
    speak_spanish(&spanish)?;
    let server = Server::start(&[
        ("VERBATIM__WHISPER__MODEL", "base"),
        ("VERBATIM__WHISPER__ADDITIONAL_MODELS", "tiny.en"),
        ("VERBATIM__WHISPER__REPLICAS", "1"),
    ])
    .await?;
    let output = tokio::process::Command::new(python())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/openai_sdk.py"))
        .env("VERBATIM_URL", server.url())
        .env("VERBATIM_ENGLISH", repository().join("samples/hello.wav"))
        .env("VERBATIM_SPANISH", &spanish)
        .kill_on_drop(true)
        .output()
        .await
        .context("the tests' Python is missing: run `scripts/setup test`")?;
    let story = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{story}");
    ensure!(!story.contains("Ran 0 tests"), "a script that tests nothing is no proof: {story}");
    Ok(())
}
