//! `verbatim-model.json`: beside the files of a fetched model, where they came from and what they hash to.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::checksum::Checksum;
use crate::error::ModelError;

const NAME: &str = "verbatim-model.json";

/// The record of a fetched model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The model's name.
    pub model: String,
    /// Where it came from: a repository on the hub, or Python packages.
    pub source: String,
    /// Which version of it: a commit, or the packages' versions.
    pub revision: String,
    /// Its files by name.
    pub files: BTreeMap<String, FileRecord>,
}

/// One file of a fetched model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// The record in a model's folder; `None` when the folder was not made by a pull.
    ///
    /// # Errors
    /// [`ModelError::Io`] when there is one that cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>, ModelError> {
        let path = folder.join(NAME);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ModelError::io(&path)(error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| ModelError::io(&path)(error.into()))
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<(), ModelError> {
        let path = folder.join(NAME);
        let text = serde_json::to_vec_pretty(self).map_err(|error| ModelError::io(&path)(error.into()))?;
        std::fs::write(&path, text).map_err(ModelError::io(&path))
    }
}

/// Reads every file of a fetched model and compares it with the record.
///
/// # Errors
/// [`ModelError::Damaged`] for the first file that differs or is gone, [`ModelError::NoManifest`] when there is no
/// record, [`ModelError::Io`] when something cannot be read.
pub fn verify(folder: &Path) -> Result<Manifest, ModelError> {
    let manifest =
        Manifest::read(folder)?.ok_or_else(|| ModelError::NoManifest { path: folder.to_owned() })?;
    for (name, record) in &manifest.files {
        let checked = Checksum::Sha256(record.sha256.clone()).check(&folder.join(name));
        match checked {
            Err(ModelError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let (file, expected) = (name.clone(), record.sha256.clone());
                return Err(ModelError::Damaged {
                    file,
                    expected,
                    actual: "none, the file is gone".to_owned(),
                });
            }
            other => other?,
        };
    }
    Ok(manifest)
}
