//! What a batch transcription is asked for.

use serde_json::{Map, Value, json};
use verbatim_core::ports::engine::{EngineError, EngineRequest};

use super::super::AzureEngine;
use super::super::fast::locales_of;
use super::super::locales::BATCH_CANDIDATES;

/// Most locales that one transcription can choose among.
const MOST_CANDIDATES: usize = 10;

/// The body of `:submit` for the audio at `source`. It names no tenant: whoever reads the subscription's list of
/// transcriptions sees only our job's id. Batch transcription takes no phrases: a prompt has no effect.
pub(super) fn body(
    engine: &AzureEngine,
    request: &EngineRequest,
    source: &str,
) -> Result<Value, EngineError> {
    let (config, options) = (&engine.config, &request.options);
    let mut properties = Map::new();
    let mut set = |name: &str, value: Value| properties.insert(name.to_owned(), value);
    set("timeToLiveHours", json!(config.batch.time_to_live_hours));
    set("wordLevelTimestampsEnabled", json!(true));
    if let Some(profanity) = config.profanity {
        set("profanityFilterMode", json!(profanity.as_str()));
    }
    if options.diarize {
        set("diarization", json!({ "enabled": true, "maxSpeakers": config.max_speakers }));
    }
    if hears_channels(engine, request) {
        set("channels", json!(config.channels));
    }
    let mut locales = locales_of(config, options)?;
    if locales.is_empty() {
        locales = BATCH_CANDIDATES.map(str::to_owned).to_vec();
    }
    locales.truncate(MOST_CANDIDATES);
    if locales.len() > 1 {
        set("languageIdentification", json!({ "candidateLocales": locales }));
    }
    let job = request.job.as_ref().map_or("-", |job| job.id.as_str());
    Ok(json!({
        "contentUrls": [source],
        "locale": locales[0],
        "displayName": format!("verbatim {job}"),
        "properties": properties,
    }))
}

/// Azure tells speakers apart only in one channel.
pub(super) fn hears_channels(engine: &AzureEngine, request: &EngineRequest) -> bool {
    !engine.config.channels.is_empty() && !request.options.diarize
}
