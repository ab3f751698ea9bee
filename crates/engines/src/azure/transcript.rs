//! From what Azure heard, whichever interface it came from, to our transcript.

use std::collections::HashMap;

use verbatim_core::language::Language;
use verbatim_core::options::{Task, TranscribeOptions};
use verbatim_core::transcript::{Segment, Transcript, Word};

use super::locales::{is_spaced, language_of};
use super::{AZURE, MODEL};

/// One phrase; times in milliseconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Heard {
    pub(super) start_ms: u64,
    pub(super) end_ms: u64,
    pub(super) text: String,
    pub(super) words: Vec<HeardWord>,
    pub(super) locale: Option<String>,
    pub(super) confidence: Option<f32>,
    /// Azure's number of the speaker, from 1.
    pub(super) speaker: Option<u32>,
    /// Azure's number of the channel, from 0; only where channels were asked for.
    pub(super) channel: Option<u32>,
}

/// One word of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct HeardWord {
    pub(super) text: String,
    pub(super) start_ms: u64,
    pub(super) end_ms: u64,
    pub(super) confidence: Option<f32>,
}

/// The transcript of audio of this length. Phrases come in order of time, those of several channels merged.
pub(super) fn transcript(mut heard: Vec<Heard>, duration_ms: u64, options: &TranscribeOptions) -> Transcript {
    heard.retain(|phrase| !phrase.text.trim().is_empty());
    heard.sort_by_key(|phrase| (phrase.start_ms, phrase.channel));
    let (language, language_probability) = match options.language {
        Some(language) => (language, 1.0),
        None => spoken(&heard),
    };
    let segments =
        heard.into_iter().zip(0..).map(|(phrase, index)| segment(phrase, index, language, options));
    Transcript {
        task: Task::Transcribe,
        language,
        language_probability,
        duration_ms,
        engine: AZURE.to_owned(),
        model: MODEL.to_owned(),
        segments: segments.collect(),
    }
}

fn segment(heard: Heard, index: u32, language: Language, options: &TranscribeOptions) -> Segment {
    let language = heard.locale.as_deref().and_then(language_of).unwrap_or(language);
    // As Whisper writes them: texts that are joined need no separator.
    let spaced =
        |text: &str| if is_spaced(language) { format!(" {}", text.trim()) } else { text.trim().to_owned() };
    let sure = heard.confidence.unwrap_or(1.0);
    let words = if options.words { heard.words } else { Vec::new() };
    let words = words.into_iter().map(|word| Word {
        text: spaced(&word.text),
        start_ms: word.start_ms,
        end_ms: word.end_ms,
        probability: word.confidence.unwrap_or(sure).clamp(0.0, 1.0),
    });
    let speaker =
        if options.diarize { heard.speaker.map(|number| format!("speaker {number}")) } else { None };
    let channel = heard.channel.map(|number| format!("channel {number}"));
    let speaker = match (channel, speaker) {
        (Some(channel), Some(speaker)) => Some(format!("{channel}, {speaker}")),
        (channel, speaker) => channel.or(speaker),
    };
    Segment {
        index,
        start_ms: heard.start_ms,
        end_ms: heard.end_ms,
        text: spaced(&heard.text),
        words: words.collect(),
        speaker,
        decoding: None,
    }
}

/// The language that was spoken longest, and how sure Azure was of what it heard in it, weighed by length.
fn spoken(heard: &[Heard]) -> (Language, f32) {
    let mut order = Vec::new();
    let mut totals: HashMap<Language, (u64, f64)> = HashMap::new();
    for phrase in heard {
        let Some(language) = phrase.locale.as_deref().and_then(language_of) else { continue };
        let length = phrase.end_ms.saturating_sub(phrase.start_ms).max(1);
        let total = totals.entry(language).or_insert_with(|| {
            order.push(language);
            (0, 0.0)
        });
        total.0 += length;
        #[expect(clippy::cast_precision_loss, reason = "audio is far shorter than 2^53 ms")]
        let weight = length as f64;
        total.1 += weight * f64::from(phrase.confidence.unwrap_or(1.0));
    }
    // The first heard wins a tie.
    let longest = order.iter().rev().max_by_key(|language| totals[language].0);
    match longest {
        None => (Language::ENGLISH, 0.0),
        Some(language) => {
            let (length, sure) = totals[language];
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                reason = "a ratio below 1"
            )]
            let sure = (sure / length as f64) as f32;
            (*language, sure.clamp(0.0, 1.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(start_ms: u64, end_ms: u64, text: &str, locale: &str) -> Heard {
        let locale = Some(locale.to_owned());
        Heard { start_ms, end_ms, text: text.to_owned(), locale, confidence: Some(0.5), ..Heard::default() }
    }

    #[test]
    fn the_language_is_that_which_was_spoken_longest() {
        let phrases = vec![heard(0, 1000, "Hello.", "en-US"), heard(1000, 5000, "Guten Tag.", "de-DE")];
        let options = TranscribeOptions::for_model(MODEL);
        let found = transcript(phrases.clone(), 5000, &options);
        assert_eq!((found.language.code(), found.language_probability), ("de", 0.5));
        assert_eq!(found.text(), "Hello. Guten Tag.");
        let given = TranscribeOptions { language: Some(Language::ENGLISH), ..options.clone() };
        assert_eq!(transcript(phrases, 5000, &given).language_probability, 1.0);
        let nothing = transcript(Vec::new(), 5000, &options);
        assert_eq!((nothing.language, nothing.language_probability), (Language::ENGLISH, 0.0));
    }

    #[test]
    fn languages_without_spaces_get_none() {
        let phrases = vec![heard(0, 1000, "你好。", "zh-CN"), heard(1000, 2000, "再见。", "zh-CN")];
        assert_eq!(transcript(phrases, 2000, &TranscribeOptions::for_model(MODEL)).text(), "你好。再见。");
    }

    #[test]
    fn channels_are_merged_by_time_and_named() {
        let on = |channel, phrase: Heard| Heard { channel: Some(channel), speaker: Some(3), ..phrase };
        let phrases = vec![
            on(0, heard(0, 900, "One.", "en-US")),
            on(0, heard(2000, 2900, "Three.", "en-US")),
            on(1, heard(1000, 1900, "Two.", "en-US")),
            on(1, heard(3000, 3100, " ", "en-US")),
        ];
        let found = transcript(phrases, 3000, &TranscribeOptions::for_model(MODEL));
        assert_eq!(found.text(), "One. Two. Three.");
        let speakers: Vec<_> =
            found.segments.iter().filter_map(|segment| segment.speaker.as_deref()).collect();
        assert_eq!(speakers, ["channel 0", "channel 1", "channel 0"], "speakers were not asked for");
        assert_eq!(found.segments.iter().map(|segment| segment.index).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
