//! When two uploads are the same work: same tenant, same bytes, same options that change the words.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::TenantId;
use crate::model::ModelInfo;
use crate::options::TranscribeOptions;

/// Names one piece of work within the service; lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DedupeKey(String);

impl DedupeKey {
    /// The key of `tenant`'s audio with SHA-256 `audio_sha256` under `options` on `model`. Output formats are not part
    /// of it: they do not change the words.
    pub fn new(
        tenant: &TenantId,
        audio_sha256: &str,
        options: &TranscribeOptions,
        model: &ModelInfo,
    ) -> Self {
        let mut hasher = Sha256::new();
        for part in [tenant.as_str(), audio_sha256, model.revision.as_str(), &fingerprint(options)] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self(hex::encode(hasher.finalize()))
    }

    /// The key that a store kept as text.
    pub fn from_stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The options as one line of JSON. Serde writes the fields in the order of their declaration, so equal options give
/// equal lines.
fn fingerprint(options: &TranscribeOptions) -> String {
    serde_json::to_string(options).unwrap_or_else(|_| format!("{options:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Task;

    fn key(tenant: &str, sha: &str, options: &TranscribeOptions, revision: &str) -> DedupeKey {
        let model = ModelInfo {
            name: "tiny.en".into(),
            engine: "whisper".into(),
            multilingual: false,
            translates: false,
            diarizes: false,
            revision: revision.into(),
        };
        DedupeKey::new(&TenantId::parse(tenant).unwrap(), sha, options, &model)
    }

    #[test]
    fn only_what_changes_the_words_changes_the_key() {
        let options = TranscribeOptions::for_model("tiny.en");
        let same = key("a", "00", &options, "r1");
        assert_eq!(same, key("a", "00", &options.clone(), "r1"));
        assert_ne!(same, key("b", "00", &options, "r1"));
        assert_ne!(same, key("a", "01", &options, "r1"));
        assert_ne!(same, key("a", "00", &options, "r2"));
        let translated = TranscribeOptions { task: Task::Translate, ..options.clone() };
        assert_ne!(same, key("a", "00", &translated, "r1"));
        let prompted = TranscribeOptions { prompt: Some("Ada".into()), ..options };
        assert_ne!(same, key("a", "00", &prompted, "r1"));
    }

    #[test]
    fn parts_cannot_run_into_each_other() {
        let options = TranscribeOptions::for_model("tiny.en");
        assert_ne!(key("ab", "c", &options, "r"), key("a", "bc", &options, "r"));
    }
}
