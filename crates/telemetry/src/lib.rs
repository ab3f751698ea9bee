//! What the house tells its operators: every metric, and how logs are written, in one place.

pub mod logs;
pub mod metrics;

pub use metrics::Metrics;
