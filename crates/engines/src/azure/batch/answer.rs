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
    let phrases = recognised.recognized_phrases.into_iter().filter(understood).collect();
    let phrases = if with_channels { phrases } else { without_echoes(phrases) };
    phrases.into_iter().filter_map(|phrase| phrase_of(phrase, with_channels)).collect()
}

/// Of a stereo upload Azure hears both channels unless told which. Who does not ask for channels wants each word once: what
/// another channel says at the same time in the same words is the same voice.
fn without_echoes(phrases: Vec<Phrase>) -> Vec<Phrase> {
    let words = |phrase: &Phrase| {
        let text = phrase.n_best.first().map(|guess| guess.display.to_lowercase()).unwrap_or_default();
        text.chars().filter(|c| c.is_alphanumeric()).collect::<String>()
    };
    let span = |phrase: &Phrase| {
        (phrase.offset_in_ticks.millis(), phrase.offset_in_ticks.plus(phrase.duration_in_ticks).millis())
    };
    let mut kept: Vec<Phrase> = Vec::new();
    for phrase in phrases {
        let (start, end) = span(&phrase);
        let is_echo = kept.iter().any(|other| {
            let (other_start, other_end) = span(other);
            other.channel != phrase.channel
                && start < other_end
                && other_start < end
                && words(other) == words(&phrase)
        });
        if !is_echo {
            kept.push(phrase);
        }
    }
    kept
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn phrase(channel: u32, offset: u64, text: &str) -> serde_json::Value {
        json!({
            "recognitionStatus": "Success", "channel": channel, "offsetInTicks": offset, "durationInTicks": 10_000_000,
            "nBest": [{ "confidence": 0.9, "lexical": text, "itn": text, "maskedITN": text, "display": text }],
        })
    }

    #[test]
    fn one_voice_on_both_channels_is_heard_once_unless_channels_are_asked_for() {
        let recognised = || -> Recognised {
            let phrases = [
                phrase(0, 0, "Good morning."),
                phrase(0, 20_000_000, "Yes."),
                phrase(1, 200_000, "good morning"),
                phrase(1, 40_000_000, "Yes."),
            ];
            serde_json::from_value(json!({ "recognizedPhrases": phrases })).unwrap()
        };
        let texts = |with_channels| -> Vec<String> {
            heard(recognised(), with_channels).into_iter().map(|heard| heard.text).collect()
        };
        assert_eq!(texts(false), ["Good morning.", "Yes.", "Yes."]);
        assert_eq!(texts(true).len(), 4);
    }
}
