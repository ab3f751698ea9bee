//! Files over the service's limit: the stand-in hears words that are tones, so that a word that is lost, doubled or cut in
//! two shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use verbatim_core::audio::{PcmSource, SAMPLES_PER_MS, SpeechSpan};
use verbatim_core::failure::FailureKind;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::{EngineRequest, SpeechEngine};
use verbatim_core::{CancellationToken, PortError};
use verbatim_engines::openai::{OpenAiConfig, OpenAiEngine};
use verbatim_standins::tones::{WORD_MS, WORDS, speak, spelling};
use verbatim_standins::{Hearing, OpenAiSettings, OpenAiStandIn};

use crate::support::{Counted, Recorder, config, failure, locked, options, tone, transcribe};

/// A request with twelve seconds of audio, and room for the form.
const LIMIT: u64 = 44 + 24 * 1024 + 12 * 32_000;

/// Words at irregular distances, from a seed: mostly 150 to 600 ms apart, sometimes seconds.
fn sentences(seed: u64, count: u16) -> (Vec<(u64, u16)>, u64) {
    let mut state = seed;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut words, mut at) = (Vec::new(), draw(2_000));
    for index in 0..count {
        let word = (u64::from(index) + seed * 1_000) % u64::from(WORDS);
        words.push((at, u16::try_from(word).unwrap_or(0)));
        at += WORD_MS + 150 + draw(450) + if draw(20) == 0 { 2_500 } else { 0 };
    }
    (words, at)
}

/// Where the words are, as voice activity would find it: those that are close are one span.
fn speech(words: &[(u64, u16)]) -> Vec<SpeechSpan> {
    let mut spans: Vec<SpeechSpan> = Vec::new();
    for (at, _) in words {
        let (start, end) = (at.saturating_sub(30) * SAMPLES_PER_MS, (at + WORD_MS + 30) * SAMPLES_PER_MS);
        match spans.last_mut() {
            Some(last) if start < last.end + 300 * SAMPLES_PER_MS => last.end = end,
            _ => spans.push(SpeechSpan { start, end }),
        }
    }
    spans
}

async fn hearing_tones() -> OpenAiStandIn {
    let max_bytes = usize::try_from(LIMIT).unwrap_or(0);
    let settings = OpenAiSettings { hearing: Hearing::Tones, max_bytes, ..OpenAiSettings::default() };
    OpenAiStandIn::start(settings).await
}

fn cutting(stand_in: &OpenAiStandIn) -> Result<OpenAiEngine> {
    Ok(OpenAiEngine::new(OpenAiConfig { max_file_bytes: LIMIT, ..config(stand_in) })?)
}

/// Every word was heard once, in order, when it was said.
fn assert_heard(transcript: &verbatim_core::transcript::Transcript, said: &[(u64, u16)]) {
    let heard: Vec<String> = transcript.words().map(|word| word.text.trim().to_owned()).collect();
    let expected: Vec<String> = said.iter().map(|(_, word)| spelling(*word)).collect();
    assert_eq!(heard, expected);
    assert_eq!(transcript.text(), expected.join(" "));
    for (word, (at, _)) in transcript.words().zip(said) {
        assert!(
            word.start_ms.abs_diff(*at) <= 3 && word.end_ms.abs_diff(at + WORD_MS) <= 3,
            "{word:?} at {at}"
        );
    }
    let indexes: Vec<u32> = transcript.segments.iter().map(|segment| segment.index).collect();
    assert_eq!(indexes, (0..u32::try_from(indexes.len()).unwrap_or(0)).collect::<Vec<_>>());
    assert!(transcript.segments.windows(2).all(|pair| pair[0].end_ms <= pair[1].start_ms));
}

fn with_words() -> TranscribeOptions {
    TranscribeOptions { words: true, ..options() }
}

#[tokio::test]
async fn no_word_is_lost_or_doubled_where_audio_is_cut() -> Result<()> {
    for seed in 1..=6 {
        let stand_in = hearing_tones().await;
        let engine = cutting(&stand_in)?;
        let (said, length) = sentences(seed, 100);
        let spans = (seed % 2 == 0).then(|| speech(&said));
        let pace = Arc::new(Counted::default());
        let request = EngineRequest {
            speech: spans,
            pace: Some(pace.clone()),
            ..EngineRequest::new(Arc::new(speak(&said, length)), with_words())
        };
        let recorder = Arc::new(Recorder::default());
        let transcript = engine.transcribe(request, recorder.clone(), CancellationToken::new()).await?;
        assert_heard(&transcript, &said);
        assert_eq!(stand_in.violations(), Vec::<String>::new());

        let requests = stand_in.requests();
        assert!(requests.len() >= 4, "{} pieces", requests.len());
        // The first one has its place already.
        assert_eq!(pace.0.load(Ordering::Relaxed), requests.len() - 1);
        let sent = requests.iter().filter_map(|seen| seen.audio_ms).sum();
        assert_eq!(*locked(&recorder.billed), Duration::from_millis(sent));
        assert!(requests.iter().all(|seen| seen.bytes as u64 <= LIMIT && seen.status == Some(200)));
        // What was reported on the way is the transcript, and there is a checkpoint after each piece but the last.
        let windows = locked(&recorder.windows);
        let reported: Vec<_> = windows.iter().flat_map(|(_, segments)| segments.clone()).collect();
        assert_eq!(reported, transcript.segments);
        assert!(windows.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(windows.last().map(|window| window.0), Some(transcript.duration_ms));
        assert_eq!(locked(&recorder.checkpoints).len(), windows.len() - 1);
    }
    Ok(())
}

#[tokio::test]
async fn another_worker_goes_on_where_the_first_one_stopped() -> Result<()> {
    let stand_in = hearing_tones().await;
    let (said, length) = sentences(7, 120);
    let request = EngineRequest::new(Arc::new(speak(&said, length)), with_words());
    let cancel = CancellationToken::new();
    let recorder = Arc::new(Recorder { stop: Some((2, cancel.clone())), ..Recorder::default() });
    let stopped = cutting(&stand_in)?.transcribe(request.clone(), recorder.clone(), cancel).await;
    assert_eq!(stopped.map_err(|error| error.kind), Err(FailureKind::Cancelled));
    let checkpoint = locked(&recorder.checkpoints).pop().context("a checkpoint")?;
    let before = stand_in.requests().len();
    assert_eq!(before, 2);

    let resumed = EngineRequest { resume: Some(checkpoint.clone()), ..request.clone() };
    let second = Arc::new(Recorder::default());
    let transcript =
        cutting(&stand_in)?.transcribe(resumed, second.clone(), CancellationToken::new()).await?;
    assert_heard(&transcript, &said);
    let sent: u64 = stand_in.requests()[before..].iter().filter_map(|seen| seen.audio_ms).sum();
    assert_eq!(sent, length - checkpoint.position_ms, "what was heard before was not sent again");

    // The notes of another engine, or of another model, are not used.
    let foreign = verbatim_core::ports::engine::Checkpoint { revision: "whisper:x".to_owned(), ..checkpoint };
    let anew = EngineRequest { resume: Some(foreign), ..request };
    assert_heard(&transcribe(&cutting(&stand_in)?, anew).await?, &said);
    Ok(())
}

#[tokio::test]
async fn a_service_that_takes_less_than_it_was_said_to_is_given_less() -> Result<()> {
    let stand_in = hearing_tones().await;
    let (said, length) = sentences(8, 60);
    // As if it took three times as much.
    let engine = OpenAiEngine::new(OpenAiConfig { max_file_bytes: 3 * LIMIT, ..config(&stand_in) })?;
    let request = EngineRequest::new(Arc::new(speak(&said, length)), with_words());
    assert_heard(&transcribe(&engine, request).await?, &said);
    let refused = stand_in.requests().iter().filter(|seen| seen.status == Some(413)).count();
    assert!(refused >= 1);

    let takes_nothing = OpenAiSettings { max_bytes: 1_000, ..OpenAiSettings::default() };
    let stand_in = OpenAiStandIn::start(takes_nothing).await;
    let engine = OpenAiEngine::new(config(&stand_in))?;
    let error = failure(&engine, EngineRequest::new(tone(60_000), options())).await;
    assert_eq!(error.kind, FailureKind::UnsupportedMedia);
    Ok(())
}

#[tokio::test]
async fn pieces_in_which_nobody_speaks_are_not_sent() -> Result<()> {
    let stand_in = hearing_tones().await;
    // Words at both ends of two minutes.
    let said = [(1_000, 11), (1_500, 12), (118_000, 13)];
    let request = EngineRequest {
        speech: Some(speech(&said)),
        ..EngineRequest::new(Arc::new(speak(&said, 120_000)), with_words())
    };
    assert_heard(&transcribe(&cutting(&stand_in)?, request).await?, &said);
    assert_eq!(stand_in.requests().len(), 2);
    Ok(())
}

/// Twenty minutes of audio that are made when they are read.
struct Endless {
    longest_read: AtomicU64,
}

impl PcmSource for Endless {
    fn len(&self) -> u64 {
        20 * 60 * 16_000
    }

    fn read(&self, start: u64, out: &mut [f32]) -> Result<usize, PortError> {
        self.longest_read.fetch_max(out.len() as u64, Ordering::Relaxed);
        let count = out.len().min(usize::try_from(self.len().saturating_sub(start)).unwrap_or(0));
        for (index, sample) in out[..count].iter_mut().enumerate() {
            *sample = if (start + index as u64).is_multiple_of(2) { 0.2 } else { -0.2 };
        }
        Ok(count)
    }
}

#[tokio::test]
async fn a_long_file_is_never_whole_in_memory() -> Result<()> {
    let stand_in = OpenAiStandIn::start(OpenAiSettings::default()).await;
    let audio = Arc::new(Endless { longest_read: AtomicU64::new(0) });
    let engine = OpenAiEngine::new(config(&stand_in))?;
    let transcript = transcribe(&engine, EngineRequest::new(audio.clone(), options())).await?;
    assert_eq!(transcript.duration_ms, 1_200_000);
    assert_eq!(stand_in.requests().len(), 2, "two requests of ten minutes each");
    assert!(audio.longest_read.load(Ordering::Relaxed) <= 60 * 16_000);
    assert_eq!(stand_in.violations(), Vec::<String>::new());
    Ok(())
}
