//! What is counted of who was not let in, and of the audit.

use prometheus::{IntCounter, IntCounterVec, Registry};

use crate::metrics::{from_zero, opts, register};

/// Why a request was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessRefusal {
    /// It brought no key.
    NoKey,
    /// What it brought is no key, one that nobody made, or one with a wrong secret.
    UnknownKey,
    /// The key is right, and was revoked or has expired.
    ClosedKey,
    /// The key does not have the scope that the route needs.
    ScopeMissing,
}

impl AccessRefusal {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::NoKey, Self::UnknownKey, Self::ClosedKey, Self::ScopeMissing];

    /// As a label.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoKey => "no_key",
            Self::UnknownKey => "unknown_key",
            Self::ClosedKey => "closed_key",
            Self::ScopeMissing => "scope_missing",
        }
    }
}

/// Metrics of keys and of the audit.
#[derive(Debug)]
pub struct AccessMetrics {
    refused: IntCounterVec,
    /// Lines of the audit that could not be written to their file, and are in the log instead.
    pub audit_unwritten: IntCounter,
}

impl AccessMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let refused = register(
            registry,
            IntCounterVec::new(
                opts(
                    "access_refused_total",
                    "Requests that were not let in, by what was wrong with their key.",
                ),
                &["reason"],
            ),
        )?;
        Ok(Self {
            refused: from_zero(refused, &AccessRefusal::ALL.map(AccessRefusal::label)),
            audit_unwritten: register(
                registry,
                IntCounter::with_opts(opts(
                    "audit_lines_unwritten_total",
                    "Lines of the audit that could not be written to their file; they are in the log.",
                )),
            )?,
        })
    }

    /// Counts a request that was not let in.
    pub fn count_refusal(&self, why: AccessRefusal) {
        self.refused.with_label_values(&[why.label()]).inc();
    }
}
