//! What a stand-in hears in audio.

use verbatim_core::audio::SAMPLE_RATE;

use crate::audio::Audio;
use crate::tones;

/// Words of a phrase, at most.
const PHRASE_WORDS: usize = 5;
/// A pause that ends a phrase, in milliseconds.
const PHRASE_PAUSE_MS: u64 = 400;
/// A second that is quieter, as a mean of squares, has no word.
const QUIET: f32 = 1e-6;
#[rustfmt::skip]
const VOCABULARY: [&str; 16] = [
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "knoll", "lagoon", "marsh",
    "oasis", "pond", "ridge", "shore",
];

/// How a stand-in hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Hearing {
    /// A word for each second that is not silent; which one follows from how loud it is.
    Levels,
    /// The words of [`tones`].
    Tones,
    /// This, whatever the audio.
    Script(Vec<Phrase>),
}

/// One phrase.
#[derive(Debug, Clone, PartialEq)]
pub struct Phrase {
    /// Where it begins, in milliseconds.
    pub offset_ms: u64,
    /// How long it lasts, in milliseconds.
    pub duration_ms: u64,
    /// What was said.
    pub text: String,
    /// Its words.
    pub words: Vec<HeardWord>,
    /// Who said it; told only when speakers were asked for.
    pub speaker: Option<u32>,
    /// The channel it is on; told only when channels were asked for.
    pub channel: Option<u32>,
    /// The language; that which was asked for when absent.
    pub locale: Option<String>,
    /// How sure the service is.
    pub confidence: f64,
}

/// One word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeardWord {
    /// The word.
    pub text: String,
    /// Where it begins, in milliseconds.
    pub offset_ms: u64,
    /// How long it lasts, in milliseconds.
    pub duration_ms: u64,
}

impl Phrase {
    /// A phrase of these words: its times and text are theirs.
    pub fn of(words: Vec<HeardWord>) -> Self {
        let offset_ms = words.first().map_or(0, |word| word.offset_ms);
        let end = words.last().map_or(0, |word| word.offset_ms + word.duration_ms);
        let text = words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
        let duration_ms = end - offset_ms;
        Self {
            offset_ms,
            duration_ms,
            text,
            words,
            speaker: Some(1),
            channel: None,
            locale: None,
            confidence: 0.9,
        }
    }

    /// A phrase from `offset_ms` on, whose words last `word_ms` each without a pause.
    pub fn say(text: &str, offset_ms: u64, word_ms: u64) -> Self {
        let place = |(index, word): (usize, &str)| HeardWord {
            text: word.to_owned(),
            offset_ms: offset_ms + index as u64 * word_ms,
            duration_ms: word_ms,
        };
        Self::of(text.split_whitespace().enumerate().map(place).collect())
    }
}

impl Hearing {
    /// What is heard in the audio: in the channels that were asked for, or in their mixture.
    pub(crate) fn hear(&self, audio: &Audio, channels: &[usize]) -> Vec<Phrase> {
        let words = match self {
            Self::Script(phrases) => return phrases.clone(),
            Self::Levels => levels,
            Self::Tones => said,
        };
        if channels.is_empty() {
            return phrases(words(&audio.mono(), audio.rate), None);
        }
        let heard = channels.iter().flat_map(|index| {
            let words = words(audio.channel(*index), audio.rate);
            phrases(words, u32::try_from(*index).ok())
        });
        let mut heard: Vec<Phrase> = heard.collect();
        heard.sort_by_key(|phrase| phrase.offset_ms);
        heard
    }
}

fn levels(samples: &[f32], rate: u32) -> Vec<HeardWord> {
    let second = rate as usize;
    let loud = samples.chunks(second).enumerate().filter(|(_, chunk)| chunk.len() * 2 >= second);
    loud.filter_map(|(index, chunk)| {
        let power = chunk.iter().map(|sample| sample * sample).sum::<f32>() / chunk.len() as f32;
        (power > QUIET).then(|| HeardWord {
            text: VOCABULARY[(power.sqrt() * 100.0) as usize % VOCABULARY.len()].to_owned(),
            offset_ms: index as u64 * 1000,
            duration_ms: (chunk.len() * 1000 / second) as u64,
        })
    })
    .collect()
}

fn said(samples: &[f32], rate: u32) -> Vec<HeardWord> {
    if rate != SAMPLE_RATE {
        return Vec::new();
    }
    tones::listen(samples)
        .into_iter()
        .map(|sound| HeardWord {
            text: sound.text,
            offset_ms: sound.start_ms,
            duration_ms: sound.end_ms - sound.start_ms,
        })
        .collect()
}

fn phrases(words: Vec<HeardWord>, channel: Option<u32>) -> Vec<Phrase> {
    let mut groups: Vec<Vec<HeardWord>> = Vec::new();
    for word in words {
        let goes_on = groups.last().is_some_and(|group: &Vec<HeardWord>| {
            let last = &group[group.len() - 1];
            group.len() < PHRASE_WORDS && word.offset_ms < last.offset_ms + last.duration_ms + PHRASE_PAUSE_MS
        });
        match groups.last_mut() {
            Some(group) if goes_on => group.push(word),
            _ => groups.push(vec![word]),
        }
    }
    groups.into_iter().map(|group| Phrase { channel, ..Phrase::of(group) }).collect()
}
