//! The tokens of a model: their text, and the ones with a meaning of their own.

use std::collections::HashMap;
use std::path::Path;

use verbatim_core::language::Language;
use verbatim_core::options::Task;

use crate::bytes;
use crate::error::LoadError;

/// Identifies a token.
pub(crate) type TokenId = u32;

/// All tokens of a model. Text tokens come first, then the special ones, then timestamps in steps of 20 ms.
pub(crate) struct Vocabulary {
    tokens: Vec<String>,
    ids: HashMap<String, TokenId>,
    /// `<|endoftext|>`; everything below is text.
    pub(crate) end_of_text: TokenId,
    /// `<|0.00|>`; everything from here on is a timestamp.
    pub(crate) timestamp_begin: TokenId,
    start_of_transcript: TokenId,
    start_of_previous: TokenId,
}

impl Vocabulary {
    /// Reads `vocabulary.json` or `vocabulary.txt` from a model folder.
    ///
    /// # Errors
    /// [`LoadError`] when there is none, or when it is not Whisper's.
    pub(crate) fn load(folder: &Path) -> Result<Self, LoadError> {
        let json = folder.join("vocabulary.json");
        if json.exists() {
            let text = std::fs::read_to_string(&json).map_err(|error| LoadError::unreadable(&json, error))?;
            let tokens = serde_json::from_str(&text)
                .map_err(|_| LoadError::not_whisper(folder, "vocabulary.json is not a list of tokens"))?;
            return Self::new(folder, tokens);
        }
        let plain = folder.join("vocabulary.txt");
        let text = std::fs::read_to_string(&plain).map_err(|error| LoadError::unreadable(&plain, error))?;
        Self::new(folder, text.lines().map(str::to_owned).collect())
    }

    fn new(folder: &Path, tokens: Vec<String>) -> Result<Self, LoadError> {
        let ids: HashMap<String, TokenId> = tokens.iter().cloned().zip(0..).collect();
        let special = |name: &str| {
            ids.get(name)
                .copied()
                .ok_or_else(|| LoadError::not_whisper(folder, format!("its vocabulary lacks `{name}`")))
        };
        Ok(Self {
            end_of_text: special("<|endoftext|>")?,
            timestamp_begin: special("<|notimestamps|>")? + 1,
            start_of_transcript: special("<|startoftranscript|>")?,
            start_of_previous: special("<|startofprev|>")?,
            tokens,
            ids,
        })
    }

    /// The token as it is written in the vocabulary.
    pub(crate) fn written(&self, id: TokenId) -> &str {
        self.tokens.get(id as usize).map_or("", String::as_str)
    }

    /// The token that is written like this.
    pub(crate) fn id(&self, written: &str) -> Option<TokenId> {
        self.ids.get(written).copied()
    }

    /// Whether a token is a timestamp.
    pub(crate) fn is_timestamp(&self, id: TokenId) -> bool {
        id >= self.timestamp_begin
    }

    /// The text of the text tokens among `ids`; bytes that are not UTF-8 become U+FFFD.
    pub(crate) fn decode(&self, ids: &[TokenId]) -> String {
        let bytes: Vec<u8> = ids
            .iter()
            .filter(|&&id| id < self.end_of_text)
            .flat_map(|&id| self.written(id).chars().filter_map(bytes::from_char))
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What starts a transcript: multilingual models are told the language and the task, English ones are not.
    pub(crate) fn start_sequence(&self, language: Option<(Language, Task)>) -> Vec<TokenId> {
        let mut sequence = vec![self.start_of_transcript];
        if let Some((language, task)) = language {
            sequence.extend(self.id(&format!("<|{}|>", language.code())));
            sequence.extend(self.id(&format!("<|{}|>", task.as_str())));
        }
        sequence
    }

    /// The whole prompt: what was said before, if anything, and the start of the transcript.
    pub(crate) fn prompt(&self, previous: &[TokenId], start_sequence: &[TokenId]) -> Vec<TokenId> {
        let mut prompt = Vec::with_capacity(previous.len() + start_sequence.len() + 1);
        if !previous.is_empty() {
            prompt.push(self.start_of_previous);
            prompt.extend(&previous[previous.len().saturating_sub(MAX_CONTEXT)..]);
        }
        prompt.extend(start_sequence);
        prompt
    }
}

/// Most tokens of earlier text in a prompt: half of the decoder's 448, less one for the token that announces them.
pub(crate) const MAX_CONTEXT: usize = 448 / 2 - 1;

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use super::*;

    /// The vocabulary of a model that `verbatim models pull` fetched.
    pub(crate) fn vocabulary(model: &str) -> Vocabulary {
        let models = std::env::var_os("VERBATIM_MODELS_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models"), PathBuf::from);
        Vocabulary::load(&models.join(model)).expect("run `verbatim models pull`, or set VERBATIM_MODELS_DIR")
    }

    #[test]
    fn special_tokens_are_found() {
        let (english, multilingual) = (vocabulary("tiny.en"), vocabulary("base"));
        assert_eq!((english.end_of_text, english.timestamp_begin), (50_256, 50_363));
        assert_eq!((multilingual.end_of_text, multilingual.timestamp_begin), (50_257, 50_364));
    }

    #[test]
    fn prompts_are_what_the_models_were_trained_on() {
        let base = vocabulary("base");
        let german = Language::parse("de").unwrap();
        let start = base.start_sequence(Some((german, Task::Translate)));
        assert_eq!(start, [50_258, 50_261, 50_358]);
        assert_eq!(base.prompt(&[], &start), start);
        let previous: Vec<TokenId> = (0..300).collect();
        let prompt = base.prompt(&previous, &start);
        assert_eq!(prompt[..2], [50_361, 77]);
        assert_eq!(prompt.len(), 1 + 223 + 3);
        assert_eq!(vocabulary("tiny.en").start_sequence(None), [50_257]);
    }

    #[test]
    fn special_tokens_have_no_text() {
        let base = vocabulary("base");
        assert_eq!(base.decode(&[50_364, 2425, 11, 1002, 50_414, 50_257]), " Hello, world");
    }
}
