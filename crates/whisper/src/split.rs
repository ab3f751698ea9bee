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
    parts
}
