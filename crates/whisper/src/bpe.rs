//! Text into tokens, by byte-pair merging in the order of the vocabulary, as OpenAI's `tiktoken` does it for Whisper.
//! Names of special tokens in the text are text like any other.

use std::sync::LazyLock;

use regex::Regex;

use crate::bytes;
use crate::vocabulary::{TokenId, Vocabulary};

/// GPT-2's pattern, without the look-ahead that [`words`] makes up for.
#[expect(clippy::expect_used, reason = "the pattern is a constant")]
static WORD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+").expect("a valid pattern")
});

/// The tokens of `text`.
pub(crate) fn encode(vocabulary: &Vocabulary, text: &str) -> Vec<TokenId> {
    words(text).flat_map(|word| merge(vocabulary, word)).collect()
}

/// Cuts text into the pieces within which tokens may form. The last white space before a word belongs to the word.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut word = WORD.find(rest)?.as_str();
        let last = word.chars().next_back()?;
        if last.is_whitespace() && word.len() > last.len_utf8() && word.len() < rest.len() {
            word = &word[..word.len() - last.len_utf8()];
        }
        rest = &rest[word.len()..];
        Some(word)
    })
}

/// Joins neighbouring parts, always the pair that comes first in the vocabulary, until no pair is in it.
fn merge(vocabulary: &Vocabulary, word: &str) -> Vec<TokenId> {
    let written: String = word.bytes().map(bytes::to_char).collect();
    let mut starts: Vec<usize> = written.char_indices().map(|(start, _)| start).collect();
    starts.push(written.len());
    let token = |from: usize, to: usize| vocabulary.id(&written[from..to]).filter(|&id| id < vocabulary.end_of_text);
    let mut pairs: Vec<Option<TokenId>> = starts.windows(3).map(|part| token(part[0], part[2])).collect();
    while let Some((_, index)) = pairs.iter().zip(0_usize..).filter_map(|(id, at)| id.map(|id| (id, at))).min() {
        starts.remove(index + 1);
        pairs.remove(index);
        let pair = |at: usize| Some(token(*starts.get(at)?, *starts.get(at + 2)?)).flatten();
        if let Some(slot) = pairs.get_mut(index) {
            *slot = pair(index);
        }
        if let Some(before) = index.checked_sub(1) {
            pairs[before] = pair(before);
        }
    }
    starts.windows(2).filter_map(|part| token(part[0], part[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_take_one_space_with_them() {
        let cut = |text| words(text).collect::<Vec<_>>();
        assert_eq!(cut("it's  two,  3 x\n\ny "), ["it", "'s", " ", " two", ",", " ", " 3", " x", "\n", "\n", "y", " "]);
        assert_eq!(cut("   "), ["   "]);
    }
}
