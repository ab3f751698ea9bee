//! What an Azure provider is configured with, and the addresses that follow from it.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use verbatim_core::language::Language;

use super::locales::is_locale;

/// Which of Azure's interfaces is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AzureMode {
    /// Fast transcription: the answer comes with the request.
    #[default]
    Fast,
    /// Short audio for clips of at most 60 s whose language is known, where neither speakers nor channels are told apart and
    /// no prompt is to be minded; fast transcription for the rest.
    Short,
    /// Batch transcription for audio longer than [`AzureLimits::batch_above`], if the blob store gives out URLs; fast
    /// transcription for the rest.
    Batch,
}

/// How requests are authorised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AzureAuth {
    /// By short-lived tokens that the key is exchanged for.
    #[default]
    Token,
    /// By the key itself.
    Key,
}

/// What happens to swear words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profanity {
    /// They stay.
    None,
    /// Asterisks take their place.
    Masked,
    /// They are left out.
    Removed,
    /// They are marked.
    Tags,
}

impl Profanity {
    /// As fast and batch transcription spell it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Masked => "Masked",
            Self::Removed => "Removed",
            Self::Tags => "Tags",
        }
    }

    /// As short audio spells it. It has no tags.
    pub(super) fn as_short(self) -> &'static str {
        match self {
            Self::None | Self::Tags => "raw",
            Self::Masked => "masked",
            Self::Removed => "removed",
        }
    }
}

/// What Azure takes. Its own pages disagree, so these are the lowest figures found there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AzureLimits {
    /// Largest file for fast transcription.
    pub max_bytes: u64,
    /// Longest audio for fast transcription.
    pub max_duration: Duration,
    /// In batch mode: longer audio goes to batch transcription.
    pub batch_above: Duration,
    /// Requests that are usefully under way at once.
    pub concurrency: usize,
}

impl Default for AzureLimits {
    fn default() -> Self {
        Self {
            max_bytes: 250_000_000,
            max_duration: Duration::from_secs(2 * 3600),
            batch_above: Duration::from_secs(30 * 60),
            concurrency: 32,
        }
    }
}

/// How long answers are waited for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AzureTimeouts {
    /// For a request with audio, however short that is.
    pub base: Duration,
    /// For a request with audio: so much more per second of audio, in seconds.
    pub per_audio: f64,
    /// For requests without audio.
    pub control: Duration,
    /// For a whole batch transcription, however short the audio is. Azure starts them when it has room.
    pub batch_base: Duration,
    /// For a whole batch transcription: so much more per second of audio, in seconds.
    pub batch_per_audio: f64,
}

impl Default for AzureTimeouts {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(60),
            per_audio: 0.5,
            control: Duration::from_secs(30),
            batch_base: Duration::from_secs(2 * 3600),
            batch_per_audio: 2.0,
        }
    }
}

impl AzureTimeouts {
    pub(super) fn request(&self, audio: Duration) -> Duration {
        self.base + audio.mul_f64(self.per_audio)
    }

    pub(super) fn batch(&self, audio: Duration) -> Duration {
        self.batch_base + audio.mul_f64(self.batch_per_audio)
    }
}

/// How batch transcriptions are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AzureBatch {
    /// Time between polls where the service does not say.
    pub poll_every: Duration,
    /// The service is not polled more often, whatever it says.
    pub poll_floor: Duration,
    /// How long Azure keeps what it heard: 6 to 744 hours.
    pub time_to_live_hours: u32,
    /// How long Azure may take until it has fetched the audio.
    pub url_ttl: Duration,
}

impl Default for AzureBatch {
    fn default() -> Self {
        Self {
            poll_every: Duration::from_secs(10),
            poll_floor: Duration::from_secs(1),
            time_to_live_hours: 48,
            url_ttl: Duration::from_secs(24 * 3600),
        }
    }
}

/// One Azure Speech resource.
#[derive(Debug, Clone)]
pub struct AzureConfig {
    /// Region of the resource, `westus` for example.
    pub region: String,
    /// Its key.
    pub key: SecretString,
    /// How requests are authorised.
    pub auth: AzureAuth,
    /// Replaces scheme and host of every address of Azure's.
    pub endpoint: Option<String>,
    /// Which interface is used.
    pub mode: AzureMode,
    /// Version of the interface.
    pub api_version: String,
    /// Locales to choose among when the client names no language. None: fast transcription finds out by itself.
    pub candidate_locales: Vec<String>,
    /// Locales that differ from the built-in table, by language.
    pub locales: HashMap<Language, String>,
    /// What happens to swear words; Azure's default is to mask them.
    pub profanity: Option<Profanity>,
    /// Channels that are heard separately; the upload is then sent as it came. Empty: all mixed into one.
    pub channels: Vec<u8>,
    /// Most speakers that are told apart: 2 to 35.
    pub max_speakers: u8,
    /// What Azure takes.
    pub limits: AzureLimits,
    /// How long answers are waited for.
    pub timeouts: AzureTimeouts,
    /// How batch transcriptions are watched.
    pub batch: AzureBatch,
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AzureConfigError {
    /// The region is none.
    #[error("`{0}` is no Azure region; use its short name, for example `westus`")]
    Region(String),
    /// There is no key, or it has characters that no key has.
    #[error("the Azure key is empty or has characters that no key has")]
    Key,
    /// The endpoint is no address.
    #[error("the endpoint has to be `http://host:port` or `https://host`, without a path")]
    Endpoint,
    /// A locale is none.
    #[error("`{0}` is no locale; use for example `de-DE`")]
    Locale(String),
    /// A number is out of its range.
    #[error("{0}")]
    Range(&'static str),
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
}

impl AzureConfig {
    /// The defaults for a resource.
    pub fn new(region: impl Into<String>, key: SecretString) -> Self {
        Self {
            region: region.into(),
            key,
            auth: AzureAuth::default(),
            endpoint: None,
            mode: AzureMode::default(),
            api_version: "2024-11-15".to_owned(),
            candidate_locales: Vec::new(),
            locales: HashMap::new(),
            profanity: None,
            channels: Vec::new(),
            max_speakers: 10,
            limits: AzureLimits::default(),
            timeouts: AzureTimeouts::default(),
            batch: AzureBatch::default(),
        }
    }

    /// Checks what can be checked without asking Azure.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), AzureConfigError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if self.region.is_empty() || !self.region.bytes().all(plain) {
            return Err(AzureConfigError::Region(self.region.clone()));
        }
        let key = self.key.expose_secret();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AzureConfigError::Key);
        }
        if let Some(locale) =
            self.candidate_locales.iter().chain(self.locales.values()).find(|locale| !is_locale(locale))
        {
            return Err(AzureConfigError::Locale(locale.clone()));
        }
        if !(2..=35).contains(&self.max_speakers) {
            return Err(AzureConfigError::Range("Azure tells 2 to 35 speakers apart"));
        }
        if !(6..=744).contains(&self.batch.time_to_live_hours) {
            return Err(AzureConfigError::Range("Azure keeps batch transcriptions for 6 to 744 hours"));
        }
        if [self.timeouts.per_audio, self.timeouts.batch_per_audio]
            .iter()
            .any(|factor| !(0.0..=1000.0).contains(factor))
        {
            return Err(AzureConfigError::Range("a timeout per second of audio is 0 to 1000 seconds"));
        }
        Addresses::new(self).map(|_| ())
    }
}

/// Where requests go.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    pub(super) issuer: Url,
    pub(super) fast: Url,
    pub(super) short: Url,
    pub(super) submit: Url,
}

impl Addresses {
    pub(super) fn new(config: &AzureConfig) -> Result<Self, AzureConfigError> {
        let region = &config.region;
        let host = |host: String| match &config.endpoint {
            None => Url::parse(&host).map_err(|_| AzureConfigError::Region(region.clone())),
            Some(endpoint) => parse_endpoint(endpoint),
        };
        let api = host(format!("https://{region}.api.cognitive.microsoft.com"))?;
        let speech = host(format!("https://{region}.stt.speech.microsoft.com"))?;
        let at = |base: &Url, path: &str| {
            let mut url = base.clone();
            url.set_path(path);
            url
        };
        let versioned = |path: &str| {
            let mut url = at(&api, path);
            url.query_pairs_mut().append_pair("api-version", &config.api_version);
            url
        };
        Ok(Self {
            issuer: at(&api, "/sts/v1.0/issueToken"),
            fast: versioned("/speechtotext/transcriptions:transcribe"),
            short: at(&speech, "/speech/recognition/conversation/cognitiveservices/v1"),
            submit: versioned("/speechtotext/transcriptions:submit"),
        })
    }

    /// An address that Azure gave us, on the host that we talk to: our key goes nowhere else. `None` when it is no address
    /// of the interface.
    pub(super) fn ours(&self, given: &str) -> Option<Url> {
        let given = self.submit.join(given).ok()?;
        if !given.path().starts_with("/speechtotext/") {
            return None;
        }
        let mut url = self.submit.clone();
        url.set_path(given.path());
        url.set_query(given.query().or(self.submit.query()));
        Some(url)
    }
}

fn parse_endpoint(endpoint: &str) -> Result<Url, AzureConfigError> {
    let url = Url::parse(endpoint).map_err(|_| AzureConfigError::Endpoint)?;
    let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    let anonymous = url.username().is_empty() && url.password().is_none();
    if bare && anonymous && url.has_host() && matches!(url.scheme(), "http" | "https") {
        Ok(url)
    } else {
        Err(AzureConfigError::Endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> AzureConfig {
        AzureConfig::new("westus", "0123456789abcdef".into())
    }

    #[test]
    fn addresses_are_those_of_the_contract_and_an_endpoint_replaces_only_scheme_and_host() {
        let urls = Addresses::new(&config()).expect("addresses");
        assert_eq!(urls.issuer.as_str(), "https://westus.api.cognitive.microsoft.com/sts/v1.0/issueToken");
        assert_eq!(
            urls.fast.as_str(),
            "https://westus.api.cognitive.microsoft.com/speechtotext/transcriptions:transcribe?api-version=2024-11-15"
        );
        assert_eq!(
            urls.short.as_str(),
            "https://westus.stt.speech.microsoft.com/speech/recognition/conversation/cognitiveservices/v1"
        );
        let elsewhere = AzureConfig { endpoint: Some("http://127.0.0.1:99".to_owned()), ..config() };
        let urls = Addresses::new(&elsewhere).expect("addresses");
        assert_eq!(
            urls.submit.as_str(),
            "http://127.0.0.1:99/speechtotext/transcriptions:submit?api-version=2024-11-15"
        );
        assert_eq!(urls.short.host_str(), Some("127.0.0.1"));
    }

    #[test]
    fn an_address_from_outside_never_leads_to_another_host() {
        let urls = Addresses::new(&config()).expect("addresses");
        let ours = |given: &str| urls.ours(given).map(String::from);
        assert_eq!(
            ours("https://evil.example/speechtotext/transcriptions/1?api-version=2025-10-15").as_deref(),
            Some(
                "https://westus.api.cognitive.microsoft.com/speechtotext/transcriptions/1?api-version=2025-10-15"
            )
        );
        assert_eq!(
            ours("/speechtotext/transcriptions/1").as_deref(),
            Some(
                "https://westus.api.cognitive.microsoft.com/speechtotext/transcriptions/1?api-version=2024-11-15"
            )
        );
        assert_eq!(ours("https://evil.example/else"), None);
    }

    #[test]
    fn what_cannot_work_is_refused_and_the_key_is_not_shown() {
        assert_eq!(config().check(), Ok(()));
        let wrong = |config: AzureConfig| config.check().expect_err("refused");
        assert!(matches!(wrong(AzureConfig::new("west us", "k".into())), AzureConfigError::Region(_)));
        assert_eq!(wrong(AzureConfig::new("westus", "".into())), AzureConfigError::Key);
        for endpoint in ["host", "ftp://host", "http://host/path", "http://user:secret@host"] {
            let config = AzureConfig { endpoint: Some(endpoint.to_owned()), ..config() };
            assert_eq!(wrong(config), AzureConfigError::Endpoint, "{endpoint}");
        }
        let config = AzureConfig { candidate_locales: vec!["german".to_owned()], ..config() };
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
        assert_eq!(wrong(config), AzureConfigError::Locale("german".to_owned()));
    }
}
