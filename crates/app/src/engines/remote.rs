//! Providers elsewhere: Azure, and whoever speaks OpenAI's audio API.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use verbatim_core::language::Language;
use verbatim_core::ports::{BlobStore, SpeechEngine};
use verbatim_engines::azure::tokens::TokenService;
use verbatim_engines::azure::{self, AzureConfig, AzureEngine, AzureLimits, AzurePorts, AzureTimeouts};
use verbatim_engines::openai::{OpenAiConfig, OpenAiEngine, OpenAiModel};

use crate::config::{AzureAuth, AzureMode, Profanity, ProviderConfig, Secret};

/// Where OpenAI itself is.
const OPENAI_URL: &str = "https://api.openai.com/v1";
/// Stands for the region where only an endpoint is known: a container on one's own machine.
const NO_REGION: &str = "local";
/// What the pool waits beyond the engine's own patience: the engine knows better what went wrong.
const GRACE: Duration = Duration::from_secs(30);
const MB: u64 = 1_000_000;

pub(super) fn azure(
    provider: &ProviderConfig,
    tokens: Arc<TokenService>,
    blobs: Option<Arc<dyn BlobStore>>,
) -> anyhow::Result<Arc<dyn SpeechEngine>> {
    let config = azure_config(provider)?;
    let engine = AzureEngine::new(config, AzurePorts { tokens, blobs });
    Ok(Arc::new(engine.with_context(|| format!("provider `{}`", provider.name))?))
}

fn azure_config(provider: &ProviderConfig) -> anyhow::Result<AzureConfig> {
    let key = secret_key(provider)?.with_context(|| format!("provider `{}` has no key", provider.name))?;
    let region = provider.region.clone().unwrap_or_else(|| NO_REGION.to_owned());
    let mut config = AzureConfig::new(region, key.expose().into());
    config.endpoint.clone_from(&provider.endpoint);
    config.auth = match provider.auth.unwrap_or_default() {
        AzureAuth::Token => azure::AzureAuth::Token,
        AzureAuth::Key => azure::AzureAuth::Key,
    };
    config.mode = match provider.mode.unwrap_or_default() {
        AzureMode::Fast => azure::AzureMode::Fast,
        AzureMode::Short => azure::AzureMode::Short,
        AzureMode::Batch => azure::AzureMode::Batch,
    };
    config.profanity = provider.profanity.map(|profanity| match profanity {
        Profanity::None => azure::Profanity::None,
        Profanity::Masked => azure::Profanity::Masked,
        Profanity::Removed => azure::Profanity::Removed,
        Profanity::Tags => azure::Profanity::Tags,
    });
    config.candidate_locales = provider.locales.clone().unwrap_or_default();
    for (language, locale) in provider.regional.iter().flatten() {
        let language = Language::parse(language).with_context(|| format!("provider `{}`", provider.name))?;
        config.locales.insert(language, locale.clone());
    }
    config.channels = provider.channels.clone().unwrap_or_default();
    config.max_speakers = provider.max_speakers.unwrap_or(config.max_speakers);
    let limits = AzureLimits::default();
    config.limits = AzureLimits {
        max_bytes: provider.max_file_mb.map_or(limits.max_bytes, |mb| mb.saturating_mul(MB)),
        max_duration: provider.max_audio_secs.map_or(limits.max_duration, Duration::from_secs),
        batch_above: provider.batch_above_secs.map_or(limits.batch_above, Duration::from_secs),
        ..limits
    };
    config.timeouts = azure_timeouts(provider);
    Ok(config)
}

fn azure_timeouts(provider: &ProviderConfig) -> AzureTimeouts {
    let defaults = AzureTimeouts::default();
    AzureTimeouts {
        base: provider.timeout_secs.map_or(defaults.base, Duration::from_secs),
        per_audio: provider.timeout_per_audio.unwrap_or(defaults.per_audio),
        ..defaults
    }
}

pub(super) fn openai(provider: &ProviderConfig) -> anyhow::Result<Arc<dyn SpeechEngine>> {
    let engine = OpenAiEngine::new(openai_config(provider)?);
    Ok(Arc::new(engine.with_context(|| format!("provider `{}`", provider.name))?))
}

fn openai_config(provider: &ProviderConfig) -> anyhow::Result<OpenAiConfig> {
    let url = provider.endpoint.clone().unwrap_or_else(|| OPENAI_URL.to_owned());
    let key = secret_key(provider)?.map(|key| key.expose().into());
    let mut config = OpenAiConfig::at(url, key);
    config.provider.clone_from(&provider.name);
    if let Some(models) = &provider.models {
        config.models = models
            .iter()
            .map(|(name, upstream)| OpenAiModel {
                name: name.clone(),
                upstream: upstream.clone(),
                multilingual: true,
                translates: true,
            })
            .collect();
    }
    if let Some(default) = &provider.default_model {
        let place = config.models.iter().position(|model| model.name == *default);
        let place = place.with_context(|| {
            format!("provider `{}`: default_model `{default}` is none of its models", provider.name)
        })?;
        config.models[..=place].rotate_right(1);
    }
    config.max_file_bytes = provider.max_file_mb.map_or(config.max_file_bytes, |mb| mb.saturating_mul(MB));
    config.max_duration = provider.max_audio_secs.map(Duration::from_secs);
    config.timeout_base = provider.timeout_secs.map_or(config.timeout_base, Duration::from_secs);
    config.timeout_per_audio = provider.timeout_per_audio.unwrap_or(config.timeout_per_audio);
    Ok(config)
}

fn secret_key(provider: &ProviderConfig) -> anyhow::Result<Option<Secret>> {
    provider.secret_key().map_err(anyhow::Error::msg)
}

/// How long the pool waits for a provider: a little longer than the provider's engine itself.
pub(super) fn time_limit(provider: &ProviderConfig) -> (Duration, f64) {
    let timeouts = azure_timeouts(provider);
    match provider.mode {
        Some(AzureMode::Batch) => {
            (timeouts.batch_base.max(timeouts.base) + GRACE, timeouts.batch_per_audio.max(timeouts.per_audio))
        }
        // One piece after the other, each within the engine's limit, and with the limit for each piece again.
        _ => (timeouts.base.saturating_mul(4) + GRACE, timeouts.per_audio * 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EngineKind;

    fn provider(kind: EngineKind) -> ProviderConfig {
        ProviderConfig { key: Some(Secret::from("0123456789abcdef")), ..ProviderConfig::bare(kind) }
    }

    #[test]
    fn what_the_configuration_says_reaches_the_azure_engine() {
        let config = azure_config(&ProviderConfig {
            region: Some("westus".to_owned()),
            mode: Some(AzureMode::Batch),
            auth: Some(AzureAuth::Key),
            profanity: Some(Profanity::Removed),
            regional: Some([("en".to_owned(), "en-GB".to_owned())].into()),
            channels: Some(vec![0, 1]),
            max_file_mb: Some(300),
            batch_above_secs: Some(60),
            timeout_secs: Some(7),
            ..provider(EngineKind::Azure)
        })
        .expect("a configuration");
        assert_eq!((config.mode, config.auth), (azure::AzureMode::Batch, azure::AzureAuth::Key));
        assert_eq!(config.profanity, Some(azure::Profanity::Removed));
        assert_eq!(config.locales.get(&Language::ENGLISH).map(String::as_str), Some("en-GB"));
        assert_eq!((config.channels.as_slice(), config.limits.max_bytes), (&[0, 1][..], 300_000_000));
        assert_eq!(config.limits.batch_above, Duration::from_secs(60));
        assert_eq!(config.timeouts.base, Duration::from_secs(7));
        config.check().expect("it can work");
    }

    #[test]
    fn the_default_model_comes_first() {
        let models = [("a", "model-a"), ("b", "model-b"), ("c", "model-c")];
        let models = models.map(|(name, upstream)| (name.to_owned(), upstream.to_owned()));
        let with = |default: &str| ProviderConfig {
            models: Some(models.clone().into()),
            default_model: Some(default.to_owned()),
            ..provider(EngineKind::OpenAi)
        };
        let config = openai_config(&with("b")).expect("a configuration");
        let names: Vec<&str> = config.models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["b", "a", "c"]);
        assert!(openai_config(&with("d")).unwrap_err().to_string().contains("default_model"));
    }

    #[test]
    fn a_key_that_should_be_in_the_environment_and_is_not_is_named() {
        let missing = ProviderConfig {
            key_env: Some("VERBATIM_TEST_NO_SUCH_KEY".to_owned()),
            region: Some("westus".to_owned()),
            ..ProviderConfig::bare(EngineKind::Azure)
        };
        assert!(azure_config(&missing).unwrap_err().to_string().contains("VERBATIM_TEST_NO_SUCH_KEY"));
    }
}
