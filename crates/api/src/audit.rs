//! What operators did, a log line per act.

use std::fmt::Display;

use crate::error::ApiError;
use crate::extract::Caller;

/// Where these lines go: the log's filter can keep them apart from all others.
const TARGET: &str = "audit";

/// Writes down who did what on what, and what came of it; passes the outcome on.
pub(crate) fn record<T>(
    caller: &Caller,
    action: &'static str,
    subject: impl Display,
    outcome: Result<T, ApiError>,
) -> Result<T, ApiError> {
    let done = match &outcome {
        Ok(_) => "done",
        Err(error) => error.code,
    };
    tracing::info!(
        target: TARGET,
        action,
        key.id = caller.name(),
        tenant = %caller.principal.tenant,
        %subject,
        outcome = done,
        "an operator acted"
    );
    outcome
}
