//! What an OpenAI-compatible provider is configured with.

use std::num::NonZeroUsize;
use std::time::Duration;

use reqwest::Url;
use secrecy::SecretString;
use verbatim_core::audio::{SAMPLE_RATE, SAMPLES_PER_MS};

use crate::speech_file::HEADER_BYTES;

/// What a request holds besides its audio: prompt, options, boundaries.
const FORM_BYTES: u64 = 24 * 1024;
/// Shorter pieces are not worth a request: ten seconds.
pub(super) const SHORTEST_PIECE: u64 = 10 * SAMPLE_RATE as u64;

/// One model of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAiModel {
    /// What our clients call it.
    pub name: String,
    /// What the service calls it.
    pub upstream: String,
    /// Whether it hears more than English.
    pub multilingual: bool,
    /// Whether the service translates with it.
    pub translates: bool,
}

/// One service. `Debug` shows no key.
#[derive(Debug, Clone)]
pub struct OpenAiConfig {
    /// The provider's name, for logs and messages.
    pub provider: String,
    /// Where the API begins: `https://api.openai.com/v1` for example; `/audio/transcriptions` follows it.
    pub base_url: String,
    /// The key; `None` sends none.
    pub key: Option<SecretString>,
    /// The models, the default first.
    pub models: Vec<OpenAiModel>,
    /// Largest request that the service takes, in bytes: 25 MB at OpenAI. Longer audio is cut.
    pub max_file_bytes: u64,
    /// Longest audio that the service takes in one request, where it has such a limit. Longer audio is cut.
    pub max_piece: Option<Duration>,
    /// Longest audio that the provider is given at all.
    pub max_duration: Option<Duration>,
    /// How long a request may take, whatever its audio.
    pub timeout_base: Duration,
    /// And so many seconds for each second of its audio.
    pub timeout_per_audio: f64,
    /// Requests at a time from one worker.
    pub concurrency: NonZeroUsize,
}

/// Why a configuration cannot be used, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The base URL is none.
    #[error("provider `{0}`: `base_url` is no http or https URL, without query, user or password")]
    BaseUrl(String),
    /// There is no model.
    #[error("provider `{0}`: there is no model")]
    NoModel(String),
    /// A limit leaves no room for audio.
    #[error("provider `{0}`: {1} is too little for a piece of ten seconds")]
    TooSmall(String, &'static str),
    /// TLS cannot be set up.
    #[error("the HTTP client cannot be made")]
    Tls(#[source] reqwest::Error),
}

impl OpenAiConfig {
    /// A service at `base_url` with OpenAI's own limits and one model, `whisper-1`.
    pub fn at(base_url: impl Into<String>, key: Option<SecretString>) -> Self {
        let whisper = "whisper-1".to_owned();
        Self {
            provider: super::OPENAI.to_owned(),
            base_url: base_url.into(),
            key,
            models: vec![OpenAiModel {
                name: whisper.clone(),
                upstream: whisper,
                multilingual: true,
                translates: true,
            }],
            max_file_bytes: 25 * 1024 * 1024,
            max_piece: None,
            max_duration: None,
            timeout_base: Duration::from_secs(60),
            timeout_per_audio: 0.5,
            concurrency: NonZeroUsize::MIN.saturating_add(7),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let provider = || self.provider.clone();
        let url = Url::parse(&self.base_url).ok().filter(|url| {
            let no_login = url.username().is_empty() && url.password().is_none();
            let plain = no_login && url.query().is_none() && url.fragment().is_none();
            matches!(url.scheme(), "http" | "https") && url.has_host() && plain
        });
        if url.is_none() {
            return Err(ConfigError::BaseUrl(provider()));
        }
        if self.models.is_empty() {
            return Err(ConfigError::NoModel(provider()));
        }
        if self.samples_by_bytes() < SHORTEST_PIECE {
            return Err(ConfigError::TooSmall(provider(), "`max_file_mb`"));
        }
        if self.piece_samples() < SHORTEST_PIECE {
            return Err(ConfigError::TooSmall(provider(), "`max_piece`"));
        }
        Ok(())
    }

    /// The URL of `audio/{what}`.
    pub(super) fn url(&self, what: &str) -> String {
        format!("{}/audio/{what}", self.base_url.trim_end_matches('/'))
    }

    fn samples_by_bytes(&self) -> u64 {
        self.max_file_bytes.saturating_sub(HEADER_BYTES + FORM_BYTES) / 2
    }

    /// Samples that one request may hold.
    pub(super) fn piece_samples(&self) -> u64 {
        let samples = |length: Duration| {
            u64::try_from(length.as_millis()).unwrap_or(u64::MAX).saturating_mul(SAMPLES_PER_MS)
        };
        self.samples_by_bytes().min(self.max_piece.map_or(u64::MAX, samples))
    }

    /// How long a request with so many samples may take.
    pub(super) fn timeout(&self, samples: u64) -> Duration {
        let audio = Duration::from_millis(samples / SAMPLES_PER_MS).as_secs_f64();
        let more = Duration::try_from_secs_f64(audio * self.timeout_per_audio).unwrap_or_default();
        self.timeout_base.saturating_add(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> OpenAiConfig {
        OpenAiConfig::at("https://api.example.com/v1/", Some("sk-very-secret".into()))
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", config());
        assert!(shown.contains("api.example.com") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert!(config().check().is_ok());
        for url in ["api.example.com", "ftp://x/v1", "https://me:pass@x/v1", "https://x/v1?key=1"] {
            let refused = OpenAiConfig { base_url: url.to_owned(), ..config() }.check();
            assert!(matches!(refused, Err(ConfigError::BaseUrl(_))), "{url}");
        }
        assert!(OpenAiConfig { models: Vec::new(), ..config() }.check().is_err());
        assert!(OpenAiConfig { max_file_bytes: 100_000, ..config() }.check().is_err());
        assert!(OpenAiConfig { max_piece: Some(Duration::from_secs(5)), ..config() }.check().is_err());
    }

    #[test]
    fn a_request_is_within_the_limit_and_gets_time_by_its_audio() {
        let config = OpenAiConfig { max_piece: Some(Duration::from_secs(600)), ..config() };
        assert_eq!(config.piece_samples(), 600 * u64::from(SAMPLE_RATE));
        assert_eq!(config.timeout(600 * u64::from(SAMPLE_RATE)), Duration::from_secs(360));
        let by_bytes = OpenAiConfig { max_piece: None, ..config }.piece_samples();
        assert!(2 * by_bytes + HEADER_BYTES + FORM_BYTES <= 25 * 1024 * 1024);
        assert_eq!(by_bytes / u64::from(SAMPLE_RATE), 818);
    }
}
