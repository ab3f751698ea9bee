//! What the house tells its operators: every metric, and how logs are written, in one place.

pub mod figures;
pub mod limits;
pub mod logs;
pub mod metrics;
pub mod providers;

pub use metrics::Metrics;
