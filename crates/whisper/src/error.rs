//! Why a model folder cannot be used.

use std::path::{Path, PathBuf};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why an engine could not be loaded. The messages are for operators.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The configuration names no model.
    #[error("no Whisper model is configured")]
    NoModels,
    /// Two models have the same name.
    #[error("two Whisper models are called `{0}`")]
    DuplicateName(String),
    /// A file of the model is missing or cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder holds something else than a CTranslate2 Whisper model.
    #[error("{} is not a CTranslate2 Whisper model: {reason}", folder.display())]
    NotWhisper {
        /// The folder.
        folder: PathBuf,
        /// What gave it away.
        reason: String,
    },
    /// CTranslate2 refused the model.
    #[error("CTranslate2 cannot load the model in {}", folder.display())]
    Refused {
        /// The folder.
        folder: PathBuf,
        /// What it said.
        source: Source,
    },
    /// CUDA was asked for and there is no device.
    #[error("there is no CUDA device that CTranslate2 can use")]
    NoCuda,
    /// The operating system gave no thread.
    #[error("cannot start a thread for inference")]
    NoThread(#[source] std::io::Error),
}

impl LoadError {
    pub(crate) fn unreadable(path: &Path, source: std::io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), source }
    }

    pub(crate) fn not_whisper(folder: &Path, reason: impl Into<String>) -> Self {
        Self::NotWhisper { folder: folder.to_owned(), reason: reason.into() }
    }
}
