//! The OpenAI-compatible engine against a stand-in that follows OpenAI's reference and misbehaves on demand.

mod cutting;
mod failures;
mod support;
mod transcripts;
