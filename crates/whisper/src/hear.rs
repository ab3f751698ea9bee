//! Windows through the network: encoded together, decoded together, and aligned together where words are wanted.
//! Windows of different jobs may share a batch; what becomes of one of them does not depend on the others.

use std::sync::Arc;

use ct2rs::sys::{Device, StorageView};
use verbatim_core::CancellationToken;
use verbatim_core::language::Language;
use verbatim_core::options::Task;
use verbatim_core::ports::EngineError;

use crate::decode::{self, Decoded, failed};
use crate::features::WINDOW_FRAMES;
use crate::model::Model;
use crate::segments::{self, Split, Window};
use crate::vocabulary::TokenId;
use crate::words::{self, Alignment};

/// A window that waits to be heard.
pub(crate) struct Unheard {
    pub(crate) model: Arc<Model>,
    /// As [`crate::features::Features::window`] has them.
    pub(crate) features: Vec<f32>,
    pub(crate) window: Window,
    /// What was said before, at most as much as fits into a prompt.
    pub(crate) context: Vec<TokenId>,
    /// Detected when absent.
    pub(crate) language: Option<Language>,
    pub(crate) task: Task,
    /// The temperature that was asked for; 0 for all of them.
    pub(crate) temperature: f32,
    pub(crate) words: bool,
    pub(crate) cancel: CancellationToken,
}

impl Unheard {
    /// Whether both can be in one batch: CTranslate2 wants prompts of equal length and the same options.
    pub(crate) fn goes_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.model, &other.model)
            && self.context.len() == other.context.len()
            && (self.language, self.task, self.words) == (other.language, other.task, other.words)
            && self.temperature.total_cmp(&other.temperature).is_eq()
    }
}

/// What was heard in a window.
pub(crate) struct Heard {
    /// The language and its probability, 1 when it was given.
    pub(crate) language: (Language, f32),
    pub(crate) decoded: Decoded,
    pub(crate) split: Split,
    /// Present when words are wanted and something was said.
    pub(crate) alignment: Option<Alignment>,
}

/// Hears windows that go together. When the batch fails, each is tried alone, so that only the culprit fails.
pub(crate) fn hear(batch: &[Unheard]) -> Vec<Result<Heard, EngineError>> {
    hear_together(batch).unwrap_or_else(|error| {
        if let [_] = batch {
            return vec![Err(error)];
        }
        tracing::warn!(%error, windows = batch.len(), "a batch failed; its windows are tried one by one");
        batch.iter().flat_map(|unheard| hear(std::slice::from_ref(unheard))).collect()
    })
}

fn hear_together(batch: &[Unheard]) -> Result<Vec<Result<Heard, EngineError>>, EngineError> {
    let Some(Unheard { model, task, temperature, .. }) = batch.first() else { return Ok(Vec::new()) };
    let encoded = encode(model, batch)?;
    let languages = languages(model, batch, &encoded)?;
    let starts: Vec<Vec<TokenId>> = languages
        .iter()
        .map(|&(language, _)| {
            model.vocabulary.start_sequence(model.info.multilingual.then_some((language, *task)))
        })
        .collect();
    let prompts: Vec<Vec<TokenId>> = batch
        .iter()
        .zip(&starts)
        .map(|(unheard, start)| model.vocabulary.prompt(&unheard.context, start))
        .collect();
    let temperatures = decode::temperatures(*temperature);
    let [first, others @ ..] = temperatures.as_slice() else { return Ok(Vec::new()) };
    let firsts = decode::decode_at(model, &encoded, &prompts, *first)?;

    let mut heard = Vec::with_capacity(batch.len());
    for (((unheard, prompt), decoded), language) in batch.iter().zip(&prompts).zip(firsts).zip(languages) {
        let decoded = if !decoded.needs_fallback() {
            Ok(decoded)
        } else if batch.len() == 1 {
            decode::fall_back(model, &encoded, prompt, decoded, others, &unheard.cancel)
        } else {
            // The others are content; this one goes on alone.
            encode(model, std::slice::from_ref(unheard)).and_then(|encoded| {
                decode::fall_back(model, &encoded, prompt, decoded, others, &unheard.cancel)
            })
        };
        heard.push(decoded.map(|decoded| Heard {
            language,
            split: segments::split(&model.vocabulary, &decoded.tokens, unheard.window),
            decoded,
            alignment: None,
        }));
    }
    align(model, batch, &encoded, &starts, &mut heard)?;
    Ok(heard)
}

fn encode(model: &Model, batch: &[Unheard]) -> Result<StorageView<'static>, EngineError> {
    let mut features: Vec<f32> = batch.iter().flat_map(|unheard| &unheard.features).copied().collect();
    let shape = [batch.len(), model.mel.bins(), WINDOW_FRAMES];
    let input = StorageView::new(&shape, &mut features, Device::CPU).map_err(failed)?;
    model.whisper().encode(&input, false).map_err(failed)
}

/// The language of each window: given, English by the model's nature, or detected.
fn languages(
    model: &Model,
    batch: &[Unheard],
    encoded: &StorageView,
) -> Result<Vec<(Language, f32)>, EngineError> {
    let given =
        |unheard: &Unheard| if model.info.multilingual { unheard.language } else { Some(Language::ENGLISH) };
    if let Some(given) = batch.iter().map(given).collect::<Option<Vec<Language>>>() {
        return Ok(given.into_iter().map(|language| (language, 1.0)).collect());
    }
    let detected = model.whisper().detect_language(encoded).map_err(failed)?;
    let best = |ranking: &Vec<ct2rs::sys::DetectionResult>| {
        let best = ranking.first()?;
        let code = best.language.strip_prefix("<|")?.strip_suffix("|>")?;
        Some((Language::parse(code).ok()?, best.probability))
    };
    let best: Option<Vec<(Language, f32)>> = detected.iter().map(best).collect();
    best.filter(|best| best.len() == batch.len()).ok_or_else(|| failed("CTranslate2 detected no language"))
}

/// Aligns what was said in each window that wants words.
fn align(
    model: &Model,
    batch: &[Unheard],
    encoded: &StorageView,
    starts: &[Vec<TokenId>],
    heard: &mut [Result<Heard, EngineError>],
) -> Result<(), EngineError> {
    let text = |heard: &Result<Heard, EngineError>| match heard {
        Ok(heard) if !heard.decoded.is_silence() => words::text_tokens(model, &heard.split.pieces),
        _ => Vec::new(),
    };
    let texts: Vec<Vec<TokenId>> = heard.iter().map(text).collect();
    if !batch[0].words || texts.iter().all(Vec::is_empty) {
        return Ok(());
    }
    let frames: Vec<usize> = batch.iter().map(|unheard| unheard.window.frames).collect();
    let alignments = if starts.windows(2).all(|pair| pair[0] == pair[1]) {
        words::align(model, encoded, &starts[0], &texts, &frames)?
    } else {
        // Languages differ, and CTranslate2 aligns only one at a time.
        let mut alignments = Vec::with_capacity(batch.len());
        for (index, unheard) in batch.iter().enumerate() {
            let encoded = encode(model, std::slice::from_ref(unheard))?;
            let (texts, frames) = (&texts[index..=index], &frames[index..=index]);
            alignments.extend(words::align(model, &encoded, &starts[index], texts, frames)?);
        }
        alignments
    };
    for (heard, alignment) in heard.iter_mut().zip(alignments) {
        if let Ok(heard) = heard {
            heard.alignment = Some(alignment);
        }
    }
    Ok(())
}
