//! Job stores behind the ports of [`verbatim_core::ports::jobs`], and the suite of checks that each must pass.

pub mod conformance;
pub mod sqlite;

pub use sqlite::{SqliteConfig, SqliteStore};
