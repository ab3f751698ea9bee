//! Word times: the decoder's attention to the audio, aligned by dynamic time warping, and then the corrections of
//! OpenAI's `timing.py` as faster-whisper has them.

use ct2rs::sys::StorageView;
use verbatim_core::language::Language;
use verbatim_core::ports::EngineError;

use crate::decode::failed;
use crate::model::Model;
use crate::segments::{Piece, Window};
use crate::split::{self, TokenWord};
use crate::vocabulary::TokenId;

/// Punctuation that belongs to the word after it.
const PREPENDED: &str = "\"'“¿([{-";
/// Punctuation that belongs to the word before it.
const APPENDED: &str = "\"'.。,，!！?？:：”)]}、";
/// Marks that end a sentence.
const SENTENCE_ENDS: &str = ".。!！?？";
/// Frames of attention per second, half as many as mel frames.
const ATTENTION_PER_SECOND: f64 = 50.0;
/// Attention is smoothed over this many frames.
const MEDIAN_FILTER: i64 = 7;

/// A word with its time, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TimedWord {
    pub(crate) text: String,
    pub(crate) start: f64,
    pub(crate) end: f64,
    pub(crate) probability: f32,
    pub(crate) tokens: Vec<TokenId>,
}

impl TimedWord {
    fn duration(&self) -> f64 {
        self.end - self.start
    }
}

/// When each token of a text was said, in seconds from the start of its window.
#[derive(Debug)]
pub(crate) struct Alignment {
    /// When each token begins, and at last when the text ends; empty when the window is too short to tell.
    begins: Vec<f64>,
    /// How likely each token was.
    probabilities: Vec<f32>,
}

/// Aligns the texts of windows that were encoded together and started with the same tokens.
///
/// # Errors
/// `EngineFailed` when CTranslate2 fails.
pub(crate) fn align(
    model: &Model,
    encoded: &StorageView,
    start_sequence: &[TokenId],
    texts: &[Vec<TokenId>],
    frames: &[usize],
) -> Result<Vec<Alignment>, EngineError> {
    let wide = |ids: &[TokenId]| ids.iter().map(|&id| id as usize).collect::<Vec<usize>>();
    let texts: Vec<Vec<usize>> = texts.iter().map(|text| wide(text)).collect();
    let aligned = model
        .whisper()
        .align(encoded, &wide(start_sequence), &texts, frames, MEDIAN_FILTER)
        .map_err(failed)?;
    let alignment = |aligned: ct2rs::sys::WhisperAlignmentResult| {
        let mut begins: Vec<f64> = Vec::new();
        let mut previous = None;
        for step in &aligned.alignments {
            if previous != Some(step.token_x) {
                #[expect(clippy::cast_precision_loss, reason = "at most 1500 frames")]
                begins.push(step.frame_x as f64 / ATTENTION_PER_SECOND);
                previous = Some(step.token_x);
            }
        }
        Alignment { begins, probabilities: aligned.text_token_probs }
    };
    Ok(aligned.into_iter().map(alignment).collect())
}

/// Gives the words of a window's pieces their times, and moves the pieces' own times to those of their words.
pub(crate) fn add_times(
    model: &Model,
    language: Language,
    alignment: &Alignment,
    window: Window,
    pieces: &mut [Piece],
    mut last_speech_end: f64,
) {
    let text = text_tokens(model, pieces);
    let mut words = timed(split::words(&model.vocabulary, language, &text), alignment);
    let pace = Pace::of(&words);
    pace.shorten_around_sentence_ends(&mut words);
    merge_punctuation(&mut words);
    hand_out(model, window, pieces, words);
    for piece in pieces {
        pace.fit(piece, last_speech_end);
        if !piece.words.is_empty() {
            last_speech_end = piece.end;
        }
    }
}

/// Words with times from the start of the window.
fn timed(words: Vec<TokenWord>, alignment: &Alignment) -> Vec<TimedWord> {
    let Some(&last) = alignment.begins.last() else { return Vec::new() };
    let begin = |token: usize| alignment.begins.get(token).copied().unwrap_or(last);
    let mut token = 0;
    let timed = words.into_iter().map(|word| {
        let first = token;
        token += word.tokens.len();
        let probabilities = alignment.probabilities.get(first..token).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "a few tokens")]
        let probability = probabilities.iter().sum::<f32>() / probabilities.len().max(1) as f32;
        TimedWord {
            text: word.text,
            start: begin(first),
            end: begin(token),
            probability,
            tokens: word.tokens,
        }
    });
    timed.collect()
}

/// The text tokens of some pieces, without timestamps.
pub(crate) fn text_tokens(model: &Model, pieces: &[Piece]) -> Vec<TokenId> {
    let tokens = pieces.iter().flat_map(|piece| &piece.tokens).copied();
    tokens.filter(|&token| token < model.vocabulary.end_of_text).collect()
}

/// Gives each piece the words that its tokens are in, in seconds of the cut audio.
fn hand_out(model: &Model, window: Window, pieces: &mut [Piece], words: Vec<TimedWord>) {
    let mut words = words.into_iter().peekable();
    for piece in pieces {
        let wanted = text_tokens(model, std::slice::from_ref(piece)).len();
        let mut given = 0;
        while given < wanted
            && let Some(word) = words.next()
        {
            given += word.tokens.len();
            if !word.text.is_empty() {
                let (start, end) =
                    (hundredths(window.offset() + word.start), hundredths(window.offset() + word.end));
                piece.words.push(TimedWord { start, end, ..word });
            }
        }
    }
}

fn hundredths(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

/// How long words are in this window. Alignment stretches words into the pauses beside them; words much longer than
/// usual are cut to size.
struct Pace {
    median: f64,
    longest: f64,
}

impl Pace {
    fn of(words: &[TimedWord]) -> Self {
        let mut durations: Vec<f64> =
            words.iter().map(TimedWord::duration).filter(|&length| length != 0.0).collect();
        durations.sort_by(f64::total_cmp);
        let middle = durations.len() / 2;
        let median = match durations.len() {
            0 => 0.0,
            length if length % 2 == 0 => f64::midpoint(durations[middle - 1], durations[middle]),
            _ => durations[middle],
        };
        let median = median.min(0.7);
        Self { median, longest: median * 2.0 }
    }

    /// Words beside the end of a sentence.
    fn shorten_around_sentence_ends(&self, words: &mut [TimedWord]) {
        if self.median == 0.0 {
            return;
        }
        for index in 1..words.len() {
            if words[index].duration() <= self.longest {
                continue;
            }
            if SENTENCE_ENDS.contains(words[index].text.as_str()) {
                words[index].end = words[index].start + self.longest;
            } else if SENTENCE_ENDS.contains(words[index - 1].text.as_str()) {
                words[index].start = words[index].end - self.longest;
            }
        }
    }

    /// Words at the borders of a piece; then the piece takes the times of its words.
    fn fit(&self, piece: &mut Piece, last_speech_end: f64) {
        let Piece { start, end, words, .. } = piece;
        self.shorten_after_pause(words, last_speech_end);
        let Some(first) = words.first_mut() else { return };
        if *start < first.end && *start - 0.5 > first.start {
            first.start = (first.end - self.median).min(*start).max(0.0);
        } else {
            *start = first.start;
        }
        let Some(last) = words.last_mut() else { return };
        if *end > last.start && *end + 0.5 < last.end {
            last.end = (last.start + self.median).max(*end);
        } else {
            *end = last.end;
        }
    }

    /// The first two words after a pause.
    fn shorten_after_pause(&self, words: &mut [TimedWord], last_speech_end: f64) {
        let [first, rest @ ..] = words else { return };
        let second = rest.first_mut();
        if first.end - last_speech_end <= self.median * 4.0 {
            return;
        }
        let both_long = second.as_ref().is_some_and(|second| second.end - first.start > self.longest * 2.0);
        if first.duration() <= self.longest && !both_long {
            return;
        }
        if let Some(second) = second
            && second.duration() > self.longest
        {
            let border = (second.end / 2.0).max(second.end - self.longest);
            first.end = border;
            second.start = border;
        }
        first.start = (first.end - self.longest).max(0.0);
    }
}

/// Joins punctuation to the words it belongs to; what was joined stays behind without text and tokens.
fn merge_punctuation(words: &mut [TimedWord]) {
    let mut following = words.len().saturating_sub(1);
    for index in (0..following).rev() {
        let text = &words[index].text;
        if text.starts_with(' ') && PREPENDED.contains(text.trim()) {
            let (text, tokens) = take(&mut words[index]);
            let word = &mut words[following];
            word.text.insert_str(0, &text);
            word.tokens.splice(0..0, tokens);
        } else {
            following = index;
        }
    }
    let mut previous = 0;
    for index in 1..words.len() {
        if !words[previous].text.ends_with(' ') && APPENDED.contains(words[index].text.as_str()) {
            let (text, tokens) = take(&mut words[index]);
            words[previous].text.push_str(&text);
            words[previous].tokens.extend(tokens);
        } else {
            previous = index;
        }
    }
}

fn take(word: &mut TimedWord) -> (String, Vec<TokenId>) {
    (std::mem::take(&mut word.text), std::mem::take(&mut word.tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str, start: f64, end: f64) -> TimedWord {
        TimedWord { text: text.into(), start, end, probability: 1.0, tokens: vec![1] }
    }

    fn texts(words: &[TimedWord]) -> Vec<&str> {
        words.iter().map(|word| word.text.as_str()).collect()
    }

    #[test]
    fn punctuation_joins_the_word_it_belongs_to() {
        let mut words: Vec<TimedWord> =
            [" said", " \"", "Hello", ",\"", " (", "yes", ")", "!"].map(|text| word(text, 0.0, 1.0)).to_vec();
        merge_punctuation(&mut words);
        // `,"` is none of the marks, which are looked for as they stand in the list.
        assert_eq!(texts(&words), [" said", "", " \"Hello", ",\"", "", " (yes)!", "", ""]);
        assert_eq!(words[5].tokens.len(), 4);
    }

    #[test]
    fn words_around_the_end_of_a_sentence_are_cut_to_size() {
        let mut words = vec![
            word(" one", 0.0, 0.4),
            word(" two", 0.4, 0.8),
            word(".", 0.8, 3.0),
            word(" three", 3.0, 6.0),
            word(" four", 6.0, 6.4),
        ];
        let pace = Pace::of(&words);
        assert!((pace.median - 0.4).abs() < 1e-9);
        pace.shorten_around_sentence_ends(&mut words);
        assert!((words[2].end - 1.6).abs() < 1e-9 && (words[3].start - 5.2).abs() < 1e-9, "{words:?}");
    }

    #[test]
    fn a_first_word_that_reaches_into_the_pause_before_it_is_cut() {
        let pace = Pace { median: 0.3, longest: 0.6 };
        let words = vec![word(" one", 2.0, 9.0), word(" two", 9.0, 9.3)];
        let mut piece = Piece { start: 2.0, end: 9.4, tokens: Vec::new(), words };
        pace.fit(&mut piece, 0.0);
        assert!((piece.words[0].start - 8.4).abs() < 1e-9, "{piece:?}");
        assert!((piece.start - 8.4).abs() < 1e-9 && (piece.end - 9.3).abs() < 1e-9, "{piece:?}");
    }

    #[test]
    fn a_last_word_longer_than_its_segment_ends_with_it() {
        let pace = Pace { median: 0.3, longest: 0.6 };
        let words = vec![word(" one", 1.0, 1.3), word(" two", 1.3, 4.0)];
        let mut piece = Piece { start: 1.0, end: 2.0, tokens: Vec::new(), words };
        pace.fit(&mut piece, 0.9);
        assert!((piece.words[1].end - 2.0).abs() < 1e-9 && (piece.end - 2.0).abs() < 1e-9, "{piece:?}");
    }
}
