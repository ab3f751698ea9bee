//! The tokens of a window into pieces with times, by the timestamps among them (OpenAI's `transcribe.py`).

use crate::mel::FRAMES_PER_SECOND;
use crate::vocabulary::{TokenId, Vocabulary};
use crate::words::TimedWord;

/// Seconds from one timestamp token to the next.
const TIMESTAMP_SECS: f64 = 0.02;
/// Mel frames in that time.
const TIMESTAMP_FRAMES: usize = 2;

/// Where a window lies in the cut audio.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// First mel frame.
    pub(crate) start: usize,
    /// Frames with audio, at most 30 s of them.
    pub(crate) frames: usize,
}

impl Window {
    /// When it begins, in seconds.
    pub(crate) fn offset(self) -> f64 {
        seconds(self.start)
    }
}

/// A stretch of text within a window. Times are seconds in the cut audio.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Piece {
    pub(crate) start: f64,
    pub(crate) end: f64,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) words: Vec<TimedWord>,
}

/// The pieces of a window, and where the next window begins.
#[derive(Debug, PartialEq)]
pub(crate) struct Split {
    pub(crate) pieces: Vec<Piece>,
    /// First frame of the next window.
    pub(crate) next: usize,
    /// The window ends with a single timestamp: nothing is said after it, so that the next window begins where this one
    /// ends, whatever the last word says.
    pub(crate) ends_in_silence: bool,
}

/// Cuts at each pair of timestamps. Text after the last pair is unfinished and left to the next window.
pub(crate) fn split(vocabulary: &Vocabulary, tokens: &[TokenId], window: Window) -> Split {
    let is_timestamp = |token: &TokenId| vocabulary.is_timestamp(*token);
    let position = |token: TokenId| token.saturating_sub(vocabulary.timestamp_begin);
    let time = |token: TokenId| window.offset() + f64::from(position(token)) * TIMESTAMP_SECS;
    let piece =
        |start, end, tokens: &[TokenId]| Piece { start, end, tokens: tokens.to_vec(), words: Vec::new() };

    let ends_in_silence = matches!(tokens, [.., text, last] if !is_timestamp(text) && is_timestamp(last));
    let mut cuts: Vec<usize> =
        (1..tokens.len()).filter(|&at| is_timestamp(&tokens[at - 1]) && is_timestamp(&tokens[at])).collect();
    let end_of_window = window.start + window.frames;

    if cuts.is_empty() {
        let last = tokens.iter().rfind(|token| is_timestamp(token)).filter(|&&last| position(last) > 0);
        let end = last.map_or(seconds(end_of_window), |&last| time(last));
        return Split {
            pieces: vec![piece(window.offset(), end, tokens)],
            next: end_of_window,
            ends_in_silence,
        };
    }
    if ends_in_silence {
        cuts.push(tokens.len());
    }
    let mut from = 0;
    let mut pieces = Vec::with_capacity(cuts.len());
    for cut in cuts {
        let tokens = &tokens[from..cut];
        pieces.push(piece(time(tokens[0]), time(tokens[tokens.len() - 1]), tokens));
        from = cut;
    }
    let next = if ends_in_silence {
        end_of_window
    } else {
        window.start + position(tokens[from - 1]) as usize * TIMESTAMP_FRAMES
    };
    Split { pieces, next, ends_in_silence }
}

/// Frames as seconds.
pub(crate) fn seconds(frames: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "audio is far shorter than 2^53 frames")]
    let seconds = frames as f64 / FRAMES_PER_SECOND as f64;
    seconds
}

/// Seconds as frames, to the nearest.
pub(crate) fn frames(seconds: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a time"
    )]
    let frames = (seconds * FRAMES_PER_SECOND as f64).round() as usize;
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::tests::vocabulary;

    const WINDOW: Window = Window { start: 1_000, frames: 2_500 };

    /// Text tokens as they are, timestamps as seconds.
    enum Token {
        Text(TokenId),
        Time(f64),
    }
    use Token::{Text, Time};

    /// Start and end in seconds, and the text.
    type Cut = (f64, f64, Vec<TokenId>);

    fn cut(tokens: &[Token]) -> (Vec<Cut>, usize, bool) {
        let vocabulary = vocabulary("tiny.en");
        let tokens: Vec<TokenId> = tokens
            .iter()
            .map(|token| match token {
                Text(id) => *id,
                Time(seconds) => vocabulary.timestamp_begin + (seconds / TIMESTAMP_SECS).round() as TokenId,
            })
            .collect();
        let split = split(&vocabulary, &tokens, WINDOW);
        let text =
            |piece: &Piece| piece.tokens.iter().copied().filter(|id| !vocabulary.is_timestamp(*id)).collect();
        let round = |seconds: f64| (seconds * 100.0).round() / 100.0;
        let pieces =
            split.pieces.iter().map(|piece| (round(piece.start), round(piece.end), text(piece))).collect();
        (pieces, split.next, split.ends_in_silence)
    }

    #[test]
    fn text_after_the_last_pair_waits_for_the_next_window() {
        let cut = cut(&[Time(0.0), Text(1), Time(2.0), Time(3.0), Text(2), Time(5.0), Time(5.0), Text(3)]);
        assert_eq!(cut, (vec![(10.0, 12.0, vec![1]), (13.0, 15.0, vec![2])], 1_500, false));
    }

    #[test]
    fn a_single_timestamp_at_the_end_ends_the_window() {
        let cut = cut(&[Time(0.0), Text(1), Time(2.0), Time(3.0), Text(2), Time(5.0)]);
        assert_eq!(cut, (vec![(10.0, 12.0, vec![1]), (13.0, 15.0, vec![2])], 3_500, true));
    }

    #[test]
    fn without_pairs_the_window_is_one_piece() {
        assert_eq!(cut(&[Time(0.0), Text(1), Text(2)]), (vec![(10.0, 35.0, vec![1, 2])], 3_500, false));
        assert_eq!(cut(&[Time(0.0), Text(1), Time(4.0)]), (vec![(10.0, 14.0, vec![1])], 3_500, true));
        assert_eq!(cut(&[]), (vec![(10.0, 35.0, vec![])], 3_500, false));
    }
}
