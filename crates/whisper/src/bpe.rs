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
    let token =
        |from: usize, to: usize| vocabulary.id(&written[from..to]).filter(|&id| id < vocabulary.end_of_text);
    let mut pairs: Vec<Option<TokenId>> = starts.windows(3).map(|part| token(part[0], part[2])).collect();
    while let Some((_, index)) =
        pairs.iter().zip(0_usize..).filter_map(|(id, at)| id.map(|id| (id, at))).min()
    {
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
    use crate::vocabulary::tests::vocabulary;

    /// What `tiktoken` makes of OpenAI's own ranks (openai-whisper 20250625).
    #[rustfmt::skip]
    const ENGLISH: [(&str, &[TokenId]); 4] = [
        (" Hello, world! It's 2024 — don't you think we've waited   long enough?",
         &[18435, 11, 995, 0, 632, 338, 48609, 851, 836, 470, 345, 892, 356, 1053, 13488, 220, 220, 890, 1576, 30]),
        (" größer naïve Çağrı", &[1036, 9101, 39683, 263, 41492, 6184, 229, 64, 33133, 81, 30102]),
        (" emoji 🎉 and\ttabs\n\nnew lines  ",
         &[44805, 12520, 236, 231, 290, 197, 8658, 82, 198, 198, 3605, 3951, 220, 220]),
        (" x=3.14e-10; f(x)->{y} №5 ½²",
         &[2124, 28, 18, 13, 1415, 68, 12, 940, 26, 277, 7, 87, 8, 3784, 90, 88, 92, 2343, 226, 244, 20, 25208, 31185]),
    ];
    #[rustfmt::skip]
    const MULTILINGUAL: [(&str, &[TokenId]); 4] = [
        (" Hello, world! It's 2024 — don't you think we've waited   long enough?",
         &[2425, 11, 1002, 0, 467, 311, 45237, 3466, 500, 380, 291, 519, 321, 600, 15240, 220, 220, 938, 1547, 30]),
        (" 你好，世界。これはテストです", &[10930, 2131, 171, 120, 234, 24486, 1543, 25212, 22985, 40498, 4767]),
        (" हिन्दी में नमस्ते",
         &[37139, 33279, 35082, 27099, 3941, 99, 31881, 48449, 21981, 31945, 8485, 101, 48521, 45938, 27099, 36158, 21981]),
        (" x=3.14e-10; f(x)->{y} №5 ½²",
         &[2031, 28, 18, 13, 7271, 68, 12, 3279, 26, 283, 7, 87, 8, 12, 29, 90, 88, 92, 672, 226, 244, 20, 32653, 27643]),
    ];

    #[test]
    fn tokens_are_openais() {
        for (model, cases) in [("tiny.en", ENGLISH), ("base", MULTILINGUAL)] {
            let vocabulary = vocabulary(model);
            for (text, tokens) in cases {
                assert_eq!(encode(&vocabulary, text), tokens, "{model}: {text}");
                assert_eq!(vocabulary.decode(tokens), text);
            }
        }
    }

    #[test]
    fn names_of_special_tokens_are_only_text() {
        let vocabulary = vocabulary("base");
        let tokens = encode(&vocabulary, "<|endoftext|><|0.00|>");
        assert!(tokens.iter().all(|&token| token < vocabulary.end_of_text), "{tokens:?}");
    }

    #[test]
    fn words_take_one_space_with_them() {
        let cut = |text| words(text).collect::<Vec<_>>();
        assert_eq!(
            cut("it's  two,  3 x\n\ny "),
            ["it", "'s", " ", " two", ",", " ", " 3", " x", "\n", "\n", "y", " "]
        );
        assert_eq!(cut("   "), ["   "]);
    }
}
