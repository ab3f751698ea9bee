//! Configuration: compiled-in defaults < `verbatim.toml` < environment `VERBATIM__SECTION__KEY` < flags. Unknown keys are
//! errors; units are in the names.

mod cluster;
mod load;
mod origin;
mod providers;
mod secret;
mod sections;
mod traces;

pub use cluster::{RedisConfig, S3Config};
pub use load::{ConfigError, Overrides, Role, load};
pub use origin::Origin;
pub use providers::{AzureAuth, AzureMode, CostsConfig, PoolConfig, Profanity, ProviderConfig};
pub use secret::{Secret, SecretUrl};
pub use sections::{
    AuthConfig, Config, EngineKind, FakeConfig, LimitsConfig, LogConfig, LogFormat, ModelSource,
    ModelsConfig, QueueConfig, ServerConfig, StorageConfig, UpkeepConfig, WhisperConfig, WorkerConfig,
};
pub use traces::{OtlpEndpoint, TracingConfig};
