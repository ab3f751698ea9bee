//! Who does the work: providers, what they may cost, and how the choice between them goes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::secret::Secret;
use super::sections::{Config, EngineKind};

/// Where a bare `azure` among `worker.engines` finds its key and region, as Microsoft's own samples name them.
const AZURE_KEY: &str = "AZURE_SPEECH_KEY";
const AZURE_REGION: &str = "AZURE_SPEECH_REGION";
/// Where a bare `openai` finds its key and address, as OpenAI's SDKs name them.
const OPENAI_KEY: &str = "OPENAI_API_KEY";
const OPENAI_URL: &str = "OPENAI_BASE_URL";

/// How Azure is let know who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AzureAuth {
    /// By tokens of ten minutes that all nodes share.
    #[default]
    Token,
    /// By the key itself, with every call.
    Key,
}

/// Which of Azure's services is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AzureMode {
    /// Fast transcription.
    #[default]
    Fast,
    /// Short audio for clips up to a minute, fast transcription for the rest.
    Short,
    /// Batch transcription for audio longer than `batch_above_secs`, fast transcription for the rest.
    Batch,
}

/// What Azure does with swear words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profanity {
    /// Nothing.
    #[default]
    None,
    /// Stars.
    Masked,
    /// Leaves them out.
    Removed,
    /// Marks them.
    Tags,
}

/// One provider. Keys of one kind are errors at another.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// Its name in metrics, costs and admin routes.
    pub name: String,
    /// What it is.
    pub kind: EngineKind,
    /// Lower is asked first.
    #[serde(default = "one")]
    pub priority: u32,
    /// Its share among providers of the same priority that are equally good.
    #[serde(default = "one")]
    pub weight: u32,
    /// The most calls that all nodes together have under way; fewer, where it refuses more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// The most calls that all nodes together make within a minute; no limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// What an hour of audio costs, in `costs.currency`. Unknown when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<f64>,
    /// What may be spent on it in a day (UTC). No limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily_budget: Option<f64>,
    /// How long a call may take whatever the audio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<u64>,
    /// Times the length of the audio that a call may take on top of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_per_audio: Option<f64>,
    /// azure, openai: the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// azure, openai: the environment variable that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// azure: replaces scheme and host of every URL. openai: base URL, up to `/v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// azure: the region of the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// azure: how calls are authorised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AzureAuth>,
    /// azure: which service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AzureMode>,
    /// azure: with mode `batch`, the length above which audio goes that way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_above_secs: Option<u64>,
    /// azure: what becomes of swear words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profanity: Option<Profanity>,
    /// azure: the most speakers told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_speakers: Option<u8>,
    /// azure: channels that are heard separately; the upload is sent as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<u8>>,
    /// azure: the locales among which it looks for the language when none is given; its own choice when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locales: Option<Vec<String>>,
    /// azure: the locale that a language stands for, where ours is not the right one: `en = "en-GB"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regional: Option<BTreeMap<String, String>>,
    /// azure, openai: the largest file it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_file_mb: Option<u64>,
    /// azure, openai: the longest audio it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_audio_secs: Option<u64>,
    /// openai: our names of its models and its own, the default named by `default_model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<BTreeMap<String, String>>,
    /// openai: which of `models` answers when none is named; the first by name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_model: Option<String>,
}

fn one() -> u32 {
    1
}

impl ProviderConfig {
    /// A provider of this kind with nothing but defaults.
    pub fn bare(kind: EngineKind) -> Self {
        Self {
            name: kind.as_str().to_owned(),
            kind,
            priority: 1,
            weight: 1,
            max_concurrency: None,
            requests_per_minute: None,
            price_per_hour: None,
            daily_budget: None,
            timeout_secs: None,
            timeout_per_audio: None,
            key: None,
            key_env: None,
            endpoint: None,
            region: None,
            auth: None,
            mode: None,
            batch_above_secs: None,
            profanity: None,
            max_speakers: None,
            channels: None,
            locales: None,
            regional: None,
            max_file_mb: None,
            max_audio_secs: None,
            models: None,
            default_model: None,
        }
    }

    /// The key, from where the configuration says.
    ///
    /// # Errors
    /// The sentence to print when the variable that should hold it is not set.
    pub fn secret_key(&self) -> Result<Option<Secret>, String> {
        match (&self.key, &self.key_env) {
            (Some(key), _) => Ok(Some(key.clone())),
            (None, Some(variable)) => match std::env::var(variable) {
                Ok(key) if !key.is_empty() => Ok(Some(Secret::from(key.as_str()))),
                _ => Err(format!(
                    "provider `{}`: its key should be in {variable}, which is not set",
                    self.name
                )),
            },
            (None, None) => Ok(None),
        }
    }

    /// Keys that are set and mean nothing to this kind.
    fn misplaced(&self) -> Vec<&'static str> {
        let azure = [
            ("region", self.region.is_some()),
            ("auth", self.auth.is_some()),
            ("mode", self.mode.is_some()),
            ("batch_above_secs", self.batch_above_secs.is_some()),
            ("profanity", self.profanity.is_some()),
            ("max_speakers", self.max_speakers.is_some()),
            ("channels", self.channels.is_some()),
            ("locales", self.locales.is_some()),
            ("regional", self.regional.is_some()),
        ];
        let openai = [("models", self.models.is_some()), ("default_model", self.default_model.is_some())];
        let remote = [
            ("key", self.key.is_some()),
            ("key_env", self.key_env.is_some()),
            ("endpoint", self.endpoint.is_some()),
            ("max_file_mb", self.max_file_mb.is_some()),
            ("max_audio_secs", self.max_audio_secs.is_some()),
            ("max_concurrency", self.max_concurrency.is_some()),
            ("requests_per_minute", self.requests_per_minute.is_some()),
        ];
        let foreign: &[&[(&'static str, bool)]] = match self.kind {
            EngineKind::Azure => &[&openai],
            EngineKind::OpenAi => &[&azure],
            EngineKind::Whisper | EngineKind::Fake => &[&azure, &openai, &remote],
        };
        foreign.iter().flat_map(|keys| keys.iter()).filter(|(_, set)| *set).map(|(key, _)| *key).collect()
    }

    /// What is wrong with it, for the operator.
    fn complaint(&self) -> Option<String> {
        let named = !self.name.is_empty()
            && self.name.len() <= 64
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let amount = |value: Option<f64>| value.is_some_and(|value| !value.is_finite() || value < 0.0);
        let problem = if !named {
            "its name consists of 1 to 64 letters, digits and `-_.`".to_owned()
        } else if let Some(key) = self.misplaced().first() {
            format!("`{key}` means nothing to a provider of kind `{}`", self.kind.as_str())
        } else if self.weight == 0 {
            "weight must be at least 1".to_owned()
        } else if self.max_concurrency == Some(0) || self.requests_per_minute == Some(0) {
            "max_concurrency and requests_per_minute must be at least 1; leave them out for no limit"
                .to_owned()
        } else if amount(self.price_per_hour) || amount(self.daily_budget) || amount(self.timeout_per_audio) {
            "price_per_hour, daily_budget and timeout_per_audio must not be negative".to_owned()
        } else if self.daily_budget.is_some() && self.price_per_hour.is_none() {
            "daily_budget needs price_per_hour: without a price nothing can be counted against it".to_owned()
        } else if self.kind == EngineKind::Azure && self.region.is_none() && self.endpoint.is_none() {
            "an azure provider needs its region, `westus` for example (or an endpoint)".to_owned()
        } else if self.kind == EngineKind::Azure && self.key.is_none() && self.key_env.is_none() {
            "an azure provider needs key or key_env".to_owned()
        } else {
            return None;
        };
        Some(format!("provider `{}`: {problem}", self.name))
    }
}

/// The choice between providers.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    /// How long a job waits within its worker for room at a provider before it goes back to the queue.
    pub patience_secs: u64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { patience_secs: 30 }
    }
}

/// What work may cost.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CostsConfig {
    /// The currency of all prices and budgets, `USD` for example; has to be given as soon as there is a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// What may be spent for each tenant in a day (UTC), on all providers. No limit when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_daily_budget: Option<f64>,
}

impl Config {
    /// The providers in effect: those of the configuration, or one with defaults for each of `worker.engines`.
    pub fn providers_in_effect(&self) -> Vec<ProviderConfig> {
        if !self.providers.is_empty() {
            return self.providers.clone();
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        // Their order is their priority.
        let ranked = self.worker.engines.iter().zip(1..);
        ranked
            .map(|(kind, priority)| {
                let bare = ProviderConfig { priority, ..ProviderConfig::bare(*kind) };
                match kind {
                    EngineKind::Whisper | EngineKind::Fake => bare,
                    EngineKind::Azure => ProviderConfig {
                        key_env: Some(AZURE_KEY.to_owned()),
                        region: variable(AZURE_REGION),
                        ..bare
                    },
                    EngineKind::OpenAi => ProviderConfig {
                        key_env: Some(OPENAI_KEY.to_owned()),
                        endpoint: variable(OPENAI_URL),
                        ..bare
                    },
                }
            })
            .collect()
    }

    /// What is wrong with providers and prices, for the operator.
    pub(super) fn provider_complaint(&self) -> Option<String> {
        if let Some(complaint) = self.providers.iter().find_map(ProviderConfig::complaint) {
            return Some(complaint);
        }
        let mut names: Vec<&str> = self.providers.iter().map(|provider| provider.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some(format!("there are two providers called `{}`", twice[0]));
        }
        let budget = self.costs.tenant_daily_budget;
        if budget.is_some_and(|budget| !budget.is_finite() || budget < 0.0) {
            return Some("costs.tenant_daily_budget must not be negative".to_owned());
        }
        let unpriced = |provider: &&ProviderConfig| {
            matches!(provider.kind, EngineKind::Azure | EngineKind::OpenAi)
                && provider.price_per_hour.is_none()
        };
        if let Some(provider) = self.providers_in_effect().iter().find(unpriced).filter(|_| budget.is_some())
        {
            return Some(format!(
                "costs.tenant_daily_budget needs the price_per_hour of provider `{}`: without it nothing can be counted",
                provider.name
            ));
        }
        let priced =
            budget.is_some() || self.providers.iter().any(|provider| provider.price_per_hour.is_some());
        if priced && self.costs.currency.is_none() {
            return Some("costs.currency says what prices and budgets are in, `USD` for example".to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<String>, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        Ok(config.provider_complaint())
    }

    #[test]
    fn the_provider_of_the_design_is_read() {
        let text = r#"
            [costs]
            currency = "USD"
            [[providers]]
            name = "azure-west"
            kind = "azure"
            region = "westus"
            key = "k"
            auth = "token"
            mode = "fast"
            priority = 1
            weight = 1
            max_concurrency = 100
            requests_per_minute = 600
            price_per_hour = 0.36
            daily_budget = 5.0
            [[providers]]
            name = "here"
            kind = "whisper"
            priority = 2
        "#;
        assert_eq!(read(text), Ok(None));
        let config: Config = toml::from_str(text).unwrap();
        let names: Vec<_> = config.providers_in_effect().into_iter().map(|provider| provider.name).collect();
        assert_eq!(names, ["azure-west", "here"]);
        assert!(
            !format!("{config:?}{}", toml::to_string(&config).unwrap()).contains("\"k\""),
            "the key is hidden"
        );
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let provider = |more: &str| format!("[[providers]]\nname = 'p'\n{more}");
        let complaint = |text: String| read(&text).unwrap().unwrap();
        assert!(complaint(provider("kind = 'azure'\nkey = 'k'")).contains("region"));
        assert!(complaint(provider("kind = 'azure'\nregion = 'westus'")).contains("key_env"));
        assert!(complaint(provider("kind = 'whisper'\nkey = 'k'")).contains("`key` means nothing"));
        assert!(complaint(provider("kind = 'openai'\nmode = 'fast'")).contains("`mode` means nothing"));
        assert!(complaint(provider("kind = 'openai'\ndaily_budget = 1.0")).contains("price_per_hour"));
        assert!(complaint(provider("kind = 'openai'\nprice_per_hour = 1.0")).contains("currency"));
        assert!(
            complaint(provider("kind = 'fake'") + "\n" + &provider("kind = 'fake'"))
                .contains("two providers")
        );
        assert!(
            read(&provider("kind = 'azur'")).is_err() && read(&provider("kind = 'fake'\nprize = 1")).is_err()
        );
    }

    #[test]
    fn a_bare_engine_stands_for_one_provider_with_defaults() {
        let config: Config = toml::from_str("[worker]\nengines = ['whisper', 'azure']").unwrap();
        let providers = config.providers_in_effect();
        assert_eq!(providers[0], ProviderConfig::bare(EngineKind::Whisper));
        assert_eq!((providers[1].priority, providers[1].key_env.as_deref()), (2, Some("AZURE_SPEECH_KEY")));
    }
}
