//! Where in a distributed trace a piece of work belongs, as it travels with requests and jobs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The flag of a trace that is being recorded.
const SAMPLED: u8 = 1;
/// Length of version 00, the only one so far.
const LENGTH: usize = 55;

/// The span that caused a piece of work: the `traceparent` of W3C Trace Context, section 3.2. A job keeps that of the
/// submission that made it, so that its attempts belong to the same trace, whichever process makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceParent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

/// What a text that names no span is met with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent of W3C Trace Context")]
pub struct TraceParentError;

impl TraceParent {
    /// A span by its ids. `None` when one of them is all zeros, which names nothing.
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], sampled: bool) -> Option<Self> {
        let flags = if sampled { SAMPLED } else { 0 };
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self { trace_id, span_id, flags })
    }

    /// The trace.
    pub fn trace_id(self) -> [u8; 16] {
        self.trace_id
    }

    /// The span in it.
    pub fn span_id(self) -> [u8; 8] {
        self.span_id
    }

    /// Whether whoever began the trace records it.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    /// Reads version 00, and of later versions what they have in common with it.
    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        let mut fields = text.splitn(5, '-');
        let mut field = || fields.next().ok_or(TraceParentError);
        let ([version], trace_id, span_id, [flags]) =
            (bytes::<1>(field()?)?, bytes::<16>(field()?)?, bytes::<8>(field()?)?, bytes::<1>(field()?)?);
        let whole = if version == 0 { text.len() == LENGTH } else { version != u8::MAX };
        let parent = Self::new(trace_id, span_id, flags & SAMPLED != 0).filter(|_| whole);
        parent.ok_or(TraceParentError)
    }
}

/// Lower-case hexadecimal digits, as the specification has them.
fn bytes<const N: usize>(digits: &str) -> Result<[u8; N], TraceParentError> {
    let mut bytes = [0; N];
    let lower_case = !digits.bytes().any(|digit| digit.is_ascii_uppercase());
    match hex::decode_to_slice(digits, &mut bytes) {
        Ok(()) if lower_case => Ok(bytes),
        _ => Err(TraceParentError),
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, span_id, flags } = self;
        write!(f, "00-{}-{}-{flags:02x}", hex::encode(trace_id), hex::encode(span_id))
    }
}

impl TryFrom<String> for TraceParent {
    type Error = TraceParentError;

    fn try_from(text: String) -> Result<Self, TraceParentError> {
        text.parse()
    }
}

impl From<TraceParent> for String {
    fn from(parent: TraceParent) -> Self {
        parent.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn what_is_written_is_read_again() {
        for flags in ["00", "01"] {
            let text = format!("00-{TRACE}-{SPAN}-{flags}");
            let parent: TraceParent = text.parse().unwrap();
            assert_eq!(parent.is_sampled(), flags == "01");
            assert_eq!(
                (hex::encode(parent.trace_id()), hex::encode(parent.span_id())),
                (TRACE.into(), SPAN.into())
            );
            assert_eq!(parent.to_string(), text);
        }
    }

    #[test]
    fn later_versions_are_read_as_far_as_they_are_known() {
        let parent: TraceParent = format!("cc-{TRACE}-{SPAN}-03-more-of-it").parse().unwrap();
        assert_eq!(parent.to_string(), format!("00-{TRACE}-{SPAN}-01"));
    }

    #[test]
    fn what_names_no_span_is_refused() {
        let zeros = "0".repeat(32);
        for text in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0x"),
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(TraceParentError), "{text}");
        }
    }
}
