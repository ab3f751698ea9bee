//! The ports: what the house needs from storage, engines, time and policy, without saying who provides it.
//! Every method documents its errors; [`crate::ErrorKind::Unavailable`] can come from any of them and means that the
//! outcome is unknown and the call may be repeated.

pub mod blobs;
pub mod directory;
pub mod disk;
pub mod engine;
pub mod jobs;
pub mod ledger;
pub mod limiter;
pub mod local_engine;
pub mod ownership;
pub mod registry;
pub mod shared_state;

pub use blobs::{BlobKey, BlobMeta, BlobStore, BlobWriter};
pub use directory::Directory;
pub use disk::{Disk, Room};
pub use engine::{EngineError, EngineObserver, EngineRequest, SpeechEngine};
pub use jobs::{JobAdmin, JobClient, JobLeases, JobUpkeep};
pub use ledger::Ledger;
pub use limiter::Limiter;
pub use ownership::{BlobMarker, BlobOwner};
pub use registry::EngineRegistry;
pub use shared_state::SharedState;
