//! The Whisper models that can be had: where they come from, where they lie, whether they are intact.
//!
//! A model is a folder with CTranslate2's `config.json`, `model.bin` and `vocabulary.*`. The well-known ones are in
//! [`CATALOG`]; [`pull`](pull()) fetches one into `<models folder>/<name>`, [`resolve`] finds one by name or path,
//! [`verify`] compares one with what was fetched. Nothing here loads a model: that is the engine's work.

mod catalog;
mod checksum;
mod error;
mod folder;
mod hub;
mod manifest;
mod packages;
mod pull;

pub use catalog::{CATALOG, KnownModel, Package, Piece, find};
pub use error::ModelError;
pub use folder::{ModelStatus, list, resolve};
pub use manifest::{FileRecord, Manifest, verify};
pub use pull::{HubTimeouts, Listener, PullEvent, PullOptions, Source, SourceChoice, pull, pull_model};
