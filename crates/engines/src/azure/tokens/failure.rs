//! Why there is no token, and how long it makes no sense to ask again.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use verbatim_core::failure::FailureKind;
use verbatim_core::ports::engine::EngineError;

/// A key that was refused does not become right by asking; only an operator can change it.
const REFUSED_QUIET: Duration = Duration::from_secs(60);
/// For an issuer that throttles and does not say for how long.
const THROTTLED_QUIET: Duration = Duration::from_secs(5);
/// For one that is down.
const DOWN_QUIET: Duration = Duration::from_secs(1);
/// No issuer's wish keeps us away for longer.
const LONGEST_QUIET: Duration = Duration::from_secs(120);

/// A failure to get a token. Nodes tell each other, so that not each of them has to find out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenFailure {
    kind: Kind,
    retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    KeyRefused,
    Throttled,
    Unavailable,
}

impl TokenFailure {
    /// The issuer does not know the key, or not in this region.
    pub fn key_refused() -> Self {
        Self { kind: Kind::KeyRefused, retry_after: None }
    }

    /// Too many tokens were asked for.
    pub fn throttled(retry_after: Option<Duration>) -> Self {
        Self { kind: Kind::Throttled, retry_after }
    }

    /// The issuer cannot be reached, or answers nonsense.
    pub fn unavailable(retry_after: Option<Duration>) -> Self {
        Self { kind: Kind::Unavailable, retry_after }
    }

    /// How long nobody needs to ask again.
    pub(super) fn quiet_for(&self) -> Duration {
        let usual = match self.kind {
            Kind::KeyRefused => REFUSED_QUIET,
            Kind::Throttled => THROTTLED_QUIET,
            Kind::Unavailable => DOWN_QUIET,
        };
        self.retry_after.unwrap_or(usual).min(LONGEST_QUIET)
    }

    /// The same failure, when some of the quiet time is over.
    pub(super) fn with_time_left(self, left: Duration) -> Self {
        Self { retry_after: Some(left), ..self }
    }
}

impl From<TokenFailure> for EngineError {
    fn from(failure: TokenFailure) -> Self {
        let (kind, message) = match failure.kind {
            Kind::KeyRefused => (
                FailureKind::EngineUnavailable,
                "the speech service does not accept this server's key; the operator has to renew it",
            ),
            Kind::Throttled => (FailureKind::Throttled, "the speech service asks to slow down"),
            Kind::Unavailable => {
                (FailureKind::EngineUnavailable, "the speech service gives no access at the moment")
            }
        };
        Self { retry_after: failure.retry_after, ..Self::new(kind, message) }
    }
}
