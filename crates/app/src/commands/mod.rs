//! One file per command.

pub mod backup;
pub mod blobs;
pub mod config;
pub mod cost;
pub mod dead_letters;
pub mod documents;
pub mod healthcheck;
pub mod jobs;
pub mod keys;
pub mod models;
pub mod submit;
pub mod tenants;
pub mod transcribe;
