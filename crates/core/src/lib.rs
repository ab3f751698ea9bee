//! The domain of Verbatim: what a job, a transcript and an engine are, and the ports through which the rest of
//! the house reaches storage, engines and time. Nothing here does I/O or needs a runtime.

pub mod api_key;
pub mod audio;
pub mod caps;
pub mod class;
pub mod costs;
pub mod dedupe;
pub mod error;
pub mod event;
pub mod failure;
pub mod ids;
pub mod job;
pub mod language;
pub mod model;
pub mod money;
pub mod options;
pub mod policy;
pub mod ports;
pub mod provider;
pub mod render;
pub mod retry;
pub mod time;
pub mod trace;
pub mod transcript;

pub use error::{BadJson, ErrorKind, PortError, Refusal};
pub use tokio_util::sync::CancellationToken;
