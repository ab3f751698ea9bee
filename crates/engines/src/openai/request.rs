//! The form of a request.

use std::sync::Arc;

use reqwest::multipart::{Form, Part};
use reqwest::{Body, Client, RequestBuilder};
use secrecy::ExposeSecret;
use verbatim_core::audio::SpeechSpan;
use verbatim_core::failure::FailureKind;
use verbatim_core::options::Task;
use verbatim_core::ports::engine::EngineError;

use super::Ask;
use super::config::OpenAiConfig;
use crate::speech_file::{wav_bytes, wav_stream};

/// What the answer is to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Segments, and words when they were asked for.
    VerboseJson,
    /// The text alone.
    Json,
}

/// The request for one piece; its audio is read while it is sent.
///
/// # Errors
/// When it cannot be built, which is a bug.
pub(super) fn build(
    config: &OpenAiConfig,
    http: &Client,
    ask: Ask<'_>,
    piece: SpeechSpan,
    format: Format,
) -> Result<RequestBuilder, EngineError> {
    let options = &ask.request.options;
    let audio = Body::wrap_stream(wav_stream(Arc::clone(&ask.request.audio), piece));
    let file = Part::stream_with_length(audio, wav_bytes(piece.samples()))
        .file_name("audio.wav")
        .mime_str("audio/wav")
        .map_err(|error| {
            EngineError::new(FailureKind::Internal, "the request cannot be built").with_source(error)
        })?;
    let mut form = Form::new().text("model", ask.model.config.upstream.clone());
    form = match format {
        Format::VerboseJson => form.text("response_format", "verbose_json"),
        Format::Json => form.text("response_format", "json"),
    };
    if let (Task::Transcribe, Some(language)) = (options.task, options.language) {
        form = form.text("language", language.code());
    }
    if let Some(prompt) = options.prompt.as_deref().filter(|prompt| !prompt.trim().is_empty()) {
        form = form.text("prompt", prompt.to_owned());
    }
    // 0 means automatic, and so does the field's absence.
    if options.temperature > 0.0 {
        form = form.text("temperature", options.temperature.to_string());
    }
    if options.words && format == Format::VerboseJson {
        // Asked for words alone, OpenAI leaves out the segments.
        form = form.text("timestamp_granularities[]", "word").text("timestamp_granularities[]", "segment");
    }
    // The file last: whoever reads the form knows what to do with it by then.
    form = form.part("file", file);
    let what = match options.task {
        Task::Transcribe => "transcriptions",
        Task::Translate => "translations",
    };
    let request = http.post(config.url(what)).multipart(form);
    Ok(match &config.key {
        Some(key) => request.bearer_auth(key.expose_secret()),
        None => request,
    })
}
