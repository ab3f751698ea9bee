//! Logs by `tracing`: one line per event, readable or JSON.

use std::io::IsTerminal;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::audit;
use crate::traces::{self, Traces};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people: coloured on a terminal.
    #[default]
    Pretty,
    /// For machines: one JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error(
        "log filter `{filter}` is not valid: {reason}; use for example `info` or `verbatim_queue=debug,info`"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What the parser says.
        reason: String,
    },
    /// Logging was set up before.
    #[error("logging was already set up")]
    AlreadySet,
}

/// Sends logs at `filter` (the syntax of `RUST_LOG`) to standard error, so that standard output stays free for results,
/// and the spans of traces to their collector, where there is one. Lines of the audit pass whatever the filter says.
///
/// # Errors
/// When the filter does not parse or logging was set up before.
pub fn init(filter: &str, format: LogFormat, traces: Option<&Traces>) -> Result<(), LogError> {
    let refused = |reason: String| LogError::Filter { filter: filter.to_owned(), reason };
    let directive = |text: String| text.parse().map_err(|error: ParseError| refused(error.to_string()));
    let of_traces = directive(format!("{}=off", traces::TARGET))?;
    let of_audit = directive(format!("{}=info", audit::TARGET))?;
    let parsed = EnvFilter::try_new(filter).map_err(|error| refused(error.to_string()))?;
    // Spans of traces have no business in the log, and are not made at all where they are not exported.
    let filter = parsed.add_directive(of_traces).add_directive(of_audit);
    let registry = tracing_subscriber::registry();
    match traces {
        Some(traces) => registry.with(traces.layer()).with(lines(format).with_filter(filter)).try_init(),
        // For all at once: then nothing else is even made.
        None => registry.with(lines(format)).with(filter).try_init(),
    }
    .map_err(|_| LogError::AlreadySet)
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Pretty => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}
