//! The handlers, one file per resource. [`crate::router`] says which path leads where.

pub(crate) mod audio;
mod audio_stream;
pub(crate) mod dead_letters;
pub(crate) mod events;
pub(crate) mod fallback;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod models;
pub(crate) mod ops;
pub(crate) mod providers;
pub(crate) mod stats;
pub(crate) mod tenants;
pub(crate) mod transcript;
