//! One file per command.

pub mod config;
pub mod documents;
pub mod healthcheck;
pub mod jobs;
pub mod models;
pub mod serve;
pub mod submit;
pub mod transcribe;
