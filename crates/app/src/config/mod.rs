//! Configuration: compiled-in defaults < `verbatim.toml` < environment `VERBATIM__SECTION__KEY` < flags. Unknown keys are
//! errors; units are in the names.

mod load;
mod sections;

pub use load::{ConfigError, Overrides, load};
pub use sections::{
    Config, EngineKind, FakeConfig, LimitsConfig, LogConfig, LogFormat, ModelSource, ModelsConfig,
    QueueConfig, ServerConfig, StorageConfig, UpkeepConfig, WhisperConfig, WorkerConfig,
};
