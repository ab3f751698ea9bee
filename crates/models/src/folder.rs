//! Models on this machine: what makes a folder a model, and which folder a name or path means.

use std::path::{Path, PathBuf};

use crate::catalog::{CATALOG, KnownModel, find};
use crate::error::ModelError;

/// Files of a Whisper model in CTranslate2's format, as the hub's repositories and faster-whisper have them.
pub(crate) fn is_model_file(name: &str) -> bool {
    matches!(name, "config.json" | "model.bin" | "tokenizer.json" | "preprocessor_config.json")
        || is_vocabulary(name)
}

fn is_vocabulary(name: &str) -> bool {
    matches!(name, "vocabulary.json" | "vocabulary.txt")
}

/// Checks that the folder has what no model can lack.
pub(crate) fn check(folder: &Path) -> Result<(), ModelError> {
    let has = |name: &str| folder.join(name).is_file();
    let missing = if !has("config.json") {
        "config.json"
    } else if !has("model.bin") {
        "model.bin"
    } else if !has("vocabulary.json") && !has("vocabulary.txt") {
        "vocabulary.json or vocabulary.txt"
    } else {
        return Ok(());
    };
    Err(ModelError::NotAModel { path: folder.to_owned(), missing })
}

/// The folder of a model: `name_or_path` is a known name or alias, the name of a folder in the models folder `dir`, or
/// a path.
///
/// # Errors
/// [`ModelError::NotInstalled`] for a known model that must be pulled first, [`ModelError::NotAModel`] for a folder
/// that lacks files, [`ModelError::Unknown`] for anything else.
pub fn resolve(name_or_path: &str, dir: &Path) -> Result<PathBuf, ModelError> {
    if let Some(known) = find(name_or_path) {
        let folder = dir.join(known.name);
        if !folder.is_dir() {
            return Err(ModelError::NotInstalled { name: known.name, dir: dir.to_owned() });
        }
        return check(&folder).map(|()| folder);
    }
    [dir.join(name_or_path), PathBuf::from(name_or_path)]
        .into_iter()
        .find(|folder| !name_or_path.is_empty() && folder.is_dir())
        .ok_or_else(|| ModelError::unknown(name_or_path))
        .and_then(|folder| check(&folder).map(|()| folder))
}

/// A known model, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelStatus {
    /// What is known of it.
    pub model: &'static KnownModel,
    /// Its folder; `None` when it must be pulled first.
    pub installed: Option<PathBuf>,
}

/// Every known model, and whether it is in the models folder `dir`.
pub fn list(dir: &Path) -> Vec<ModelStatus> {
    CATALOG.iter().map(|model| ModelStatus { model, installed: resolve(model.name, dir).ok() }).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn make_model(folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        for name in ["config.json", "model.bin", "vocabulary.txt"] {
            fs::write(folder.join(name), "x")?;
        }
        Ok(())
    }

    #[test]
    fn a_model_is_found_by_name_alias_folder_and_path() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let elsewhere = tempfile::tempdir()?;
        make_model(&dir.path().join("large-v3-turbo"))?;
        make_model(&dir.path().join("my-own"))?;
        make_model(elsewhere.path())?;
        assert_eq!(resolve("large-v3-turbo", dir.path())?, dir.path().join("large-v3-turbo"));
        assert_eq!(resolve("turbo", dir.path())?, dir.path().join("large-v3-turbo"));
        assert_eq!(resolve("my-own", dir.path())?, dir.path().join("my-own"));
        let path = elsewhere.path().to_string_lossy().into_owned();
        assert_eq!(resolve(&path, dir.path())?, elsewhere.path());
        Ok(())
    }

    #[test]
    fn a_known_model_that_is_absent_says_how_to_get_it() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let message = resolve("base", dir.path()).unwrap_err().to_string();
        assert!(message.contains("verbatim models pull base"), "{message}");
        Ok(())
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        for name in ["bsae", ""] {
            let message = resolve(name, dir.path()).unwrap_err().to_string();
            assert!(message.contains("tiny.en, tiny, base.en, base"), "{message}");
        }
        Ok(())
    }

    #[test]
    fn a_folder_that_lacks_a_file_says_which() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        make_model(&dir.path().join("tiny"))?;
        fs::remove_file(dir.path().join("tiny/vocabulary.txt"))?;
        let message = resolve("tiny", dir.path()).unwrap_err().to_string();
        assert!(message.contains("vocabulary"), "{message}");
        Ok(())
    }

    #[test]
    fn the_list_tells_installed_from_absent() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        make_model(&dir.path().join("tiny"))?;
        let installed: Vec<&str> = list(dir.path())
            .iter()
            .filter(|status| status.installed.is_some())
            .map(|status| status.model.name)
            .collect();
        assert_eq!(installed, ["tiny"]);
        Ok(())
    }
}
