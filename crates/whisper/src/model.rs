//! A loaded model: its weights in CTranslate2, its tokens and its mel filters.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ct2rs::sys;
use sha2::{Digest, Sha256};
use verbatim_core::model::ModelInfo;

use crate::config::{ComputeType, ModelSource};
use crate::error::LoadError;
use crate::mel::MelBank;
use crate::vocabulary::Vocabulary;

/// The name of the engine.
pub const ENGINE: &str = "whisper";

/// Changes whenever the decoder would write other words from the same weights; part of each model's revision.
pub const DECODER_REVISION: &str = "v1";

/// A model that is ready to hear.
pub(crate) struct Model {
    pub(crate) info: ModelInfo,
    pub(crate) whisper: sys::Whisper,
    pub(crate) vocabulary: Vocabulary,
    pub(crate) mel: MelBank,
}

impl Model {
    /// Loads one model.
    ///
    /// # Errors
    /// [`LoadError`], which names the folder or file.
    pub(crate) fn load(
        source: &ModelSource,
        compute_type: ComputeType,
        config: sys::Config,
    ) -> Result<Self, LoadError> {
        let folder = &source.folder;
        let weights = folder.join("model.bin");
        let mut file = File::open(&weights).map_err(|error| LoadError::unreadable(&weights, error))?;
        let digest = check_and_digest(folder, &mut file)?;
        let vocabulary = Vocabulary::load(folder)?;
        let whisper = sys::Whisper::new(folder, config)
            .map_err(|error| LoadError::Refused { folder: folder.clone(), source: error.into() })?;
        let info = ModelInfo {
            name: source.name.clone(),
            engine: ENGINE.to_owned(),
            multilingual: whisper.is_multilingual(),
            translates: whisper.is_multilingual(),
            diarizes: false,
            revision: format!("{DECODER_REVISION}-{}-{digest}", compute_type.as_str()),
        };
        Ok(Self { info, mel: MelBank::new(whisper.n_mels()), whisper, vocabulary })
    }
}

/// Size of the weights of a model.
///
/// # Errors
/// [`LoadError::Unreadable`] when there are none.
pub(crate) fn weights_bytes(folder: &Path) -> Result<u64, LoadError> {
    let weights = folder.join("model.bin");
    Ok(std::fs::metadata(&weights).map_err(|error| LoadError::unreadable(&weights, error))?.len())
}

/// Reads the weights through once: the header must name a Whisper model, since CTranslate2 would abort the process on
/// another kind, and the digest of the whole names them.
fn check_and_digest(folder: &Path, file: &mut File) -> Result<String, LoadError> {
    const KIND: &[u8] = b"WhisperSpec\0";
    let path = folder.join("model.bin");
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut checked = false;
    loop {
        let read = file.read(&mut buffer).map_err(|error| LoadError::unreadable(&path, error))?;
        if !checked {
            // Format version (4 bytes), length of the kind (2 bytes), kind.
            if buffer[..read].get(6..6 + KIND.len()) != Some(KIND) {
                return Err(LoadError::not_whisper(folder, "model.bin does not hold Whisper weights"));
            }
            checked = true;
        }
        if read == 0 {
            return Ok(hex::encode(&hasher.finalize()[..8]));
        }
        hasher.update(&buffer[..read]);
    }
}
