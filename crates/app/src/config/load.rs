//! Reading the configuration, source by source.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use config::{Environment, File, FileFormat};

use super::sections::Config;

/// The file that is read when none is named, if it exists.
const DEFAULT_FILE: &str = "verbatim.toml";
/// The keys whose values are lists; in variables they are separated by commas.
const LISTS: [&str; 5] = [
    "server.allowed_hosts",
    "server.cors_allowed_origins",
    "server.trusted_proxies",
    "worker.engines",
    "whisper.additional_models",
];

/// What a process is for, which decides some defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// All in one process, and every command that runs no service.
    #[default]
    Serve,
    /// Takes jobs in.
    Api,
    /// Works on jobs.
    Worker,
}

impl Role {
    /// The command that starts it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }

    /// The defaults that are this role's own.
    fn defaults(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Serve | Self::Api => &[],
            Self::Worker => &[("server.listen", "127.0.0.1:8081"), ("worker.max_jobs_per_worker", "50")],
        }
    }
}

/// What the command line says; flags win over file and environment.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// What the process is for.
    pub role: Role,
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--model`
    pub model: Option<String>,
}

/// Why the configuration cannot be used. The message says which key and where it was set.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Named with `--config`, but not there.
    #[error("configuration file {0} does not exist")]
    MissingFile(PathBuf),
    /// A key is unknown or has a value of the wrong kind.
    #[error(
        "configuration: {0}; `verbatim config check` prints what is in effect, .env.example lists every key"
    )]
    Invalid(String),
}

impl From<config::ConfigError> for ConfigError {
    fn from(error: config::ConfigError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// Reads defaults, the file, the environment and flags.
///
/// # Errors
/// When the file is missing or does not parse, a key is unknown, or a value does not make sense.
pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
    let environment = std::env::vars().filter(|(_, value)| !value.is_empty()).collect();
    load_from(file, environment, overrides)
}

fn load_from(
    file: Option<&Path>,
    environment: HashMap<String, String>,
    overrides: &Overrides,
) -> Result<Config, ConfigError> {
    if let Some(path) = file
        && !path.is_file()
    {
        return Err(ConfigError::MissingFile(path.to_owned()));
    }
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let (lists, texts): (HashMap<_, _>, HashMap<_, _>) =
        environment.into_iter().partition(|(name, _)| LISTS.iter().any(|key| variable(key) == *name));
    let variables = || Environment::with_prefix("VERBATIM").prefix_separator("__").separator("__");
    // Only lists are parsed here: a password of digits must not become a number.
    let lists = variables().try_parsing(true).list_separator(",").source(Some(lists));
    let lists = LISTS.iter().fold(lists, |lists, key| lists.with_list_parse_key(key));
    let texts = variables().source(Some(texts));
    let mut builder = config::Config::builder();
    for (key, value) in overrides.role.defaults() {
        builder = builder.set_default(*key, *value)?;
    }
    let mut builder = builder
        .add_source(File::from(path).format(FileFormat::Toml).required(file.is_some()))
        .add_source(texts)
        .add_source(lists);
    if let Some(listen) = overrides.listen {
        builder = builder.set_override("server.listen", listen.to_string())?;
    }
    if let Some(folder) = &overrides.data_dir {
        builder = builder.set_override("storage.data_dir", folder.display().to_string())?;
    }
    if let Some(model) = &overrides.model {
        builder = builder.set_override("whisper.model", model.as_str())?;
    }
    let config: Config = builder.build()?.try_deserialize()?;
    check(&config)?;
    Ok(config)
}

/// What types cannot say.
fn check(config: &Config) -> Result<(), ConfigError> {
    let rules = [
        (
            config.worker.engines.is_empty(),
            "worker.engines is empty: name at least one, `whisper` for example",
        ),
        (
            config.s3.access_key_id.is_some() != config.s3.secret_access_key.is_some(),
            "s3.access_key_id and s3.secret_access_key come together or not at all",
        ),
        (
            config.redis.prefix.is_empty()
                || !config.redis.prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)),
            "redis.prefix consists of letters, digits and `-_.:`",
        ),
        (config.upkeep.interval_secs == 0, "upkeep.interval_secs must be at least 1"),
        (config.upkeep.sweep_interval_secs == 0, "upkeep.sweep_interval_secs must be at least 1"),
        (config.worker.poll_ms == 0, "worker.poll_ms must be at least 1"),
        (config.worker.renew_secs == 0, "worker.renew_secs must be at least 1"),
        (
            config.worker.time_limit_per_audio.is_nan() || config.worker.time_limit_per_audio < 0.0,
            "worker.time_limit_per_audio must not be negative",
        ),
        (config.worker.lease_secs < 3, "worker.lease_secs must be at least 3"),
        (config.queue.max_attempts == 0, "queue.max_attempts must be at least 1"),
        (config.queue.max_crashes == 0, "queue.max_crashes must be at least 1"),
        (
            config.limits.project_capacity == 0 || config.limits.project_burst == 0,
            "limits.project_capacity and limits.project_burst must be at least 1; limits.project_per_minute = 0 means no limit",
        ),
        (
            config.limits.max_requests_in_flight == 0
                || config.limits.max_watchers == 0
                || config.limits.max_uploads_in_flight == 0,
            "limits.max_requests_in_flight, limits.max_watchers and limits.max_uploads_in_flight must be at least 1",
        ),
        (
            config.limits.max_connections
                <= config.limits.max_requests_in_flight.saturating_add(config.limits.max_watchers),
            "limits.max_connections must be greater than limits.max_requests_in_flight and limits.max_watchers together",
        ),
        (
            config.log.audit_dir.as_ref().is_some_and(|folder| folder.as_os_str().is_empty()),
            "log.audit_dir is empty: name a folder, or leave it out",
        ),
        (config.limits.max_upload_mb == 0, "limits.max_upload_mb must be at least 1"),
        (
            config.limits.per_ip_burst == 0,
            "limits.per_ip_burst must be at least 1; limits.per_ip_per_minute = 0 means no limit",
        ),
        (
            config.fake.real_time_factor.is_nan() || config.fake.real_time_factor < 0.0,
            "fake.real_time_factor must not be negative",
        ),
        (
            !(0.0..=1.0).contains(&config.tracing.sample_ratio),
            "tracing.sample_ratio must be from 0 to 1; an empty tracing.otlp_endpoint turns tracing off",
        ),
        (
            config.queue.result_retention_secs < config.queue.dedupe_ttl_secs,
            "queue.result_retention_secs must not be shorter than queue.dedupe_ttl_secs",
        ),
    ];
    match rules.iter().find(|(broken, _)| *broken) {
        Some((_, rule)) => Err(ConfigError::Invalid((*rule).to_owned())),
        None => config.provider_complaint().map_or(Ok(()), |complaint| Err(ConfigError::Invalid(complaint))),
    }
}

/// `server.listen` as `VERBATIM__SERVER__LISTEN`.
fn variable(key: &str) -> String {
    format!("VERBATIM__{}", key.replace('.', "__").to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::super::sections::EngineKind;
    use super::*;

    fn from_env(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let environment = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        load_from(None, environment, &Overrides::default())
    }

    #[test]
    fn the_environment_wins_over_the_file_and_flags_over_both() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("v.toml");
        std::fs::write(&file, "[server]\nlisten = '127.0.0.1:1'\n[whisper]\nmodel = 'base'\nreplicas = 3\n")
            .unwrap();
        let environment = HashMap::from([
            ("VERBATIM__SERVER__LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
            ("VERBATIM__WHISPER__MODEL".to_owned(), "small".to_owned()),
        ]);
        let overrides = Overrides { model: Some("tiny".into()), ..Overrides::default() };
        let config = load_from(Some(&file), environment, &overrides).unwrap();
        assert_eq!(config.server.listen.port(), 2);
        assert_eq!(config.whisper.model, "tiny");
        assert_eq!(config.whisper.replicas, 3);
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let config = from_env(&[("VERBATIM__WORKER__ENGINES", "whisper,fake")]).unwrap();
        assert_eq!(config.worker.engines, [EngineKind::Whisper, EngineKind::Fake]);
        let config = from_env(&[("VERBATIM__WORKER__ENGINES", "fake")]).unwrap();
        assert_eq!(config.worker.engines, [EngineKind::Fake]);
        let config = from_env(&[
            ("VERBATIM__SERVER__TRUSTED_PROXIES", "10.0.0.0/8,fd00::/8"),
            ("VERBATIM__SERVER__CORS_ALLOWED_ORIGINS", "https://app.example"),
        ]);
        let server = config.unwrap().server;
        assert_eq!(server.trusted_proxies, ["10.0.0.0/8", "fd00::/8"].map(|n| n.parse().unwrap()));
        assert_eq!(server.cors_allowed_origins.len(), 1);
        let refused = from_env(&[("VERBATIM__SERVER__CORS_ALLOWED_ORIGINS", "*")]).unwrap_err().to_string();
        assert!(refused.contains("is not an origin"), "{refused}");
        let refused = from_env(&[("VERBATIM__SERVER__TRUSTED_PROXIES", "nginx")]).unwrap_err().to_string();
        assert!(refused.contains("trusted_proxies"), "{refused}");
    }

    #[test]
    fn unknown_keys_and_bad_values_are_named() {
        let message = |pairs: &[(&str, &str)]| from_env(pairs).unwrap_err().to_string();
        assert!(message(&[("VERBATIM__SERVER__PROT", "1")]).contains("prot"));
        assert!(message(&[("VERBATIM__WORKER__LEASE_SECS", "soon")]).contains("lease_secs"));
        assert!(message(&[("VERBATIM__WORKER__LEASE_SECS", "1")]).contains("at least 3"));
        assert!(message(&[("VERBATIM__WORKER__ENGINES", "azur")]).contains("`azur` is no engine"));
        for ratio in ["-0.1", "1.5", "NaN"] {
            let refused = message(&[("VERBATIM__TRACING__SAMPLE_RATIO", ratio)]);
            assert!(refused.contains("tracing.sample_ratio must be from 0 to 1"), "{refused}");
        }
        let refused = message(&[("VERBATIM__TRACING__OTLP_ENDPOINT", "localhost:4317")]);
        assert!(
            refused.contains("tracing.otlp_endpoint") && refused.contains("http://host:4318"),
            "{refused}"
        );
    }

    #[test]
    fn a_worker_has_defaults_of_its_own() {
        let of = |role, pairs: &[(&str, &str)]| {
            let environment = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            load_from(None, environment.collect(), &Overrides { role, ..Overrides::default() }).unwrap()
        };
        let worker = of(Role::Worker, &[]);
        assert_eq!((worker.server.listen.port(), worker.worker.max_jobs_per_worker), (8081, 50));
        let serve = of(Role::Serve, &[]);
        assert_eq!((serve.server.listen.port(), serve.worker.max_jobs_per_worker), (8080, 0));
        assert_eq!(of(Role::Api, &[]), serve);
        let told = of(Role::Worker, &[("VERBATIM__WORKER__MAX_JOBS_PER_WORKER", "0")]);
        assert_eq!(told.worker.max_jobs_per_worker, 0);
    }

    #[test]
    fn what_a_cluster_shares_is_read_and_its_secrets_are_not_printed() {
        let config = from_env(&[
            ("VERBATIM__REDIS__URL", "redis://user:12345@host:6379/1"),
            ("VERBATIM__REDIS__PREFIX", "v1"),
            ("VERBATIM__S3__BUCKET", "audio"),
            ("VERBATIM__S3__ENDPOINT", "http://127.0.0.1:9000"),
            ("VERBATIM__S3__PATH_STYLE", "true"),
            ("VERBATIM__S3__ACCESS_KEY_ID", "1234567890"),
            ("VERBATIM__S3__SECRET_ACCESS_KEY", "0987654321"),
        ])
        .unwrap();
        assert_eq!(config.redis.url.as_ref().unwrap().expose(), "redis://user:12345@host:6379/1");
        assert_eq!(config.s3.access_key_id.as_ref().unwrap().expose(), "1234567890");
        assert_eq!(config.s3.secret_access_key.as_ref().unwrap().expose(), "0987654321");
        let printed = toml::to_string(&config).unwrap() + &format!("{config:?}");
        assert!(printed.contains("redis://[hidden]@host:6379/1") && printed.contains("audio"), "{printed}");
        assert!(
            !["12345", "1234567890", "0987654321"].iter().any(|secret| printed.contains(secret)),
            "{printed}"
        );
        let half = from_env(&[("VERBATIM__S3__ACCESS_KEY_ID", "a")]).unwrap_err().to_string();
        assert!(half.contains("s3.secret_access_key"), "{half}");
    }

    #[test]
    fn the_example_loads_as_it_stands_and_names_only_defaults() {
        let example = include_str!("../../../../.env.example");
        let lines = example.lines().filter(|line| line.starts_with("VERBATIM__"));
        let pairs: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once('=')).collect();
        assert!(pairs.len() > 20, "the example lists the keys");
        assert_eq!(from_env(&pairs).unwrap(), Config::default());
    }
}
