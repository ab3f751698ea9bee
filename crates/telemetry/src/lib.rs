//! What the house tells its operators: every metric, how logs and the audit are written, and the spans of traces, in one place.

pub mod access;
pub mod audit;
pub mod caps;
pub mod figures;
mod labels;
pub mod limits;
pub mod link;
pub mod logs;
pub mod metrics;
mod outages;
pub mod providers;
pub mod traces;

pub use metrics::Metrics;
