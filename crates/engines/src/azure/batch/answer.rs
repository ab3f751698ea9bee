//! What Azure says of a batch transcription.

use serde::Deserialize;

use super::super::failures::ServiceError;
use super::super::times::Ticks;
use super::super::transcript::{Heard, HeardWord};

/// A transcription as polling shows it.
#[derive(Deserialize)]
pub(super) struct Operation {
    #[serde(rename = "self")]
    pub(super) url: Option<String>,
    pub(super) status: Status,
    #[serde(default)]
    pub(super) links: Links,
    #[serde(default)]
    pub(super) properties: Properties,
}

#[derive(Deserialize)]
pub(super) enum Status {
    NotStarted,
    Running,
    Succeeded,
    Failed,
}

#[derive(Default, Deserialize)]
pub(super) struct Links {
    pub(super) files: Option<String>,
}

#[derive(Default, Deserialize)]
pub(super) struct Properties {
    #[serde(default)]
    pub(super) error: ServiceError,
}

/// A page of its files.
#[derive(Deserialize)]
pub(super) struct Files {
    pub(super) values: Vec<File>,
    #[serde(rename = "@nextLink")]
    pub(super) next: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct File {
    pub(super) kind: String,
    pub(super) links: FileLinks,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileLinks {
    pub(super) content_url: String,
}

/// The file with the transcript.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Recognised {
    #[serde(default)]
    recognized_phrases: Vec<Phrase>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Phrase {
    #[serde(default)]
    recognition_status: Option<String>,
    offset_in_ticks: Ticks,
    duration_in_ticks: Ticks,
    #[serde(default)]
    n_best: Vec<Guess>,
    locale: Option<String>,
    speaker: Option<u32>,
    channel: Option<u32>,
}

#[derive(Deserialize)]
struct Guess {
    confidence: Option<f32>,
    display: String,
    #[serde(default)]
    words: Vec<Word>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Word {
    word: String,
    offset_in_ticks: Ticks,
    duration_in_ticks: Ticks,
    confidence: Option<f32>,
}

/// The phrases that were understood; of the guesses the first.
pub(super) fn heard(recognised: Recognised, with_channels: bool) -> Vec<Heard> {
    let understood =
        |phrase: &Phrase| phrase.recognition_status.as_deref().is_none_or(|status| status == "Success");
    let phrases = recognised.recognized_phrases.into_iter().filter(understood);
    phrases.filter_map(|phrase| phrase_of(phrase, with_channels)).collect()
}

fn phrase_of(phrase: Phrase, with_channels: bool) -> Option<Heard> {
    let guess = phrase.n_best.into_iter().next()?;
    let words = guess.words.into_iter().map(|word| HeardWord {
        text: word.word,
        start_ms: word.offset_in_ticks.millis(),
        end_ms: word.offset_in_ticks.plus(word.duration_in_ticks).millis(),
        confidence: word.confidence,
    });
    Some(Heard {
        start_ms: phrase.offset_in_ticks.millis(),
        end_ms: phrase.offset_in_ticks.plus(phrase.duration_in_ticks).millis(),
        text: guess.display,
        words: words.collect(),
        locale: phrase.locale,
        confidence: guess.confidence,
        speaker: phrase.speaker,
        channel: phrase.channel.filter(|_| with_channels),
    })
}
