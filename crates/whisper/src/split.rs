//! Tokens into words, as OpenAI's `tokenizer.py` does it.

use verbatim_core::language::Language;

use crate::vocabulary::{TokenId, Vocabulary};

/// Python's `string.punctuation`.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// Languages that do not put spaces between words.
const WITHOUT_SPACES: [&str; 6] = ["zh", "ja", "th", "lo", "my", "yue"];

/// A word and the tokens it is made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenWord {
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenId>,
}

/// The words of some text tokens.
pub(crate) fn words(vocabulary: &Vocabulary, language: Language, tokens: &[TokenId]) -> Vec<TokenWord> {
    let characters = whole_characters(vocabulary, tokens);
    if WITHOUT_SPACES.contains(&language.code()) {
        return characters;
    }
    let mut words: Vec<TokenWord> = Vec::new();
    for part in characters {
        let begins = part.text.starts_with(' ') || PUNCTUATION.contains(part.text.trim());
        match words.last_mut() {
            Some(word) if !begins => {
                word.text.push_str(&part.text);
                word.tokens.extend(part.tokens);
            }
            _ => words.push(part),
        }
    }
    words
}

/// The shortest runs of tokens that are whole characters: a token may end within one.
fn whole_characters(vocabulary: &Vocabulary, tokens: &[TokenId]) -> Vec<TokenWord> {
    const BROKEN: char = char::REPLACEMENT_CHARACTER;
    let whole: Vec<char> = vocabulary.decode(tokens).chars().collect();
    let (mut parts, mut done) = (Vec::new(), 0);
    let mut pending: Vec<TokenId> = Vec::new();
    for &token in tokens {
        pending.push(token);
        let text = vocabulary.decode(&pending);
        let broken = text.chars().position(|character| character == BROKEN);
        // Broken in the whole text too: more tokens will not mend it.
        if broken.is_none_or(|at| whole.get(done + at) == Some(&BROKEN)) {
            done += text.chars().count();
            parts.push(TokenWord { text, tokens: std::mem::take(&mut pending) });
        }
    }
    if !pending.is_empty() {
        parts.push(TokenWord { text: vocabulary.decode(&pending), tokens: pending });
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpe;
    use crate::vocabulary::tests::vocabulary;

    fn cut(model: &str, language: &str, text: &str) -> Vec<String> {
        let (vocabulary, language) = (vocabulary(model), Language::parse(language).unwrap());
        let tokens = bpe::encode(&vocabulary, text);
        let words = words(&vocabulary, language, &tokens);
        assert_eq!(words.iter().flat_map(|word| word.tokens.clone()).collect::<Vec<_>>(), tokens);
        words.into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn words_begin_at_spaces_and_punctuation() {
        // As faster-whisper 1.2.1 cuts it.
        let words = cut("tiny.en", "en", " \"Hello,\" said the co-driver: don't!");
        assert_eq!(words, [" \"Hello,\"", " said", " the", " co", "-driver", ":", " don't", "!"]);
        assert_eq!(cut("base", "de", " naïve 🎉"), [" naïve", " 🎉"]);
    }

    #[test]
    fn without_spaces_every_run_of_whole_characters_is_a_word() {
        assert_eq!(cut("base", "ja", " 世界🎉です。"), [" ", "世界", "🎉", "です", "。"]);
    }

    #[test]
    fn characters_that_stay_broken_end_a_word_too() {
        let vocabulary = vocabulary("tiny.en");
        // The first two bytes of an emoji, and then a word.
        let words = words(&vocabulary, Language::ENGLISH, &[12_520, 236, 290]);
        let tokens: Vec<TokenId> = words.iter().flat_map(|word| word.tokens.clone()).collect();
        assert_eq!(tokens, [12_520, 236, 290]);
    }
}
