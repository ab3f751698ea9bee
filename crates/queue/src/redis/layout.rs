//! How the queue is laid out in Redis, and which versions can work on it together.
//!
//! The key `layout` holds a number, and behind a blank, where it is another one, the oldest layout whose nodes can work on this
//! queue: `3 2` is a queue of layout 3 on which nodes that write layout 2 may go on. So a version that adds to a layout
//! takes its cluster along node by node, and one that changes what is there is told apart at the start.

use std::str::FromStr;

use verbatim_core::{ErrorKind, PortError};

/// The layout that this version writes.
const WRITES: u32 = 1;
/// The oldest layout on which this version can work.
const READS_FROM: u32 = 1;

/// A layout as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    number: u32,
    /// The oldest layout whose nodes can work on it.
    suits: u32,
}

impl FromStr for Layout {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, suits) = text.split_once(' ').unwrap_or((text, text));
        Ok(Self { number: number.parse()?, suits: suits.parse()? })
    }
}

/// What a new queue gets.
pub(super) fn ours() -> String {
    WRITES.to_string()
}

/// Whether this version can work on a queue of this layout.
///
/// # Errors
/// `Invalid` with what it can work on, and what to do.
pub(super) fn check(text: &str) -> Result<(), PortError> {
    let knows = if READS_FROM == WRITES {
        format!("layout {WRITES}")
    } else {
        format!("layouts {READS_FROM} to {WRITES}")
    };
    let refused = |written: String, instead: &str| {
        let why = format!(
            "the jobs in this Redis were written by another version of Verbatim ({written}; this one works on {knows}); \
             {instead}. Another redis.prefix begins afresh beside them; audio and results of both can lie in one place"
        );
        Err(PortError::new(ErrorKind::Invalid, why))
    };
    match text.parse::<Layout>() {
        Ok(Layout { number, .. }) if number < READS_FROM => {
            refused(format!("layout {number}"), "let that version finish them before this one starts")
        }
        Ok(Layout { number, suits }) if suits > WRITES => {
            refused(format!("layout {number}, for nodes of layout {suits} and newer"), "run that version")
        }
        Ok(_) => Ok(()),
        Err(_) => refused(format!("layout `{text}`"), "run that version"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_suits_us_may_be_newer() {
        for text in ["1", "1 1", "2 1", "7 1"] {
            assert!(check(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn another_layout_is_refused_with_what_we_can_work_on() {
        for text in ["2", "99", "3 2", "0", "", "one"] {
            let refusal = check(text).expect_err(text);
            assert_eq!(refusal.kind(), ErrorKind::Invalid);
            assert!(refusal.to_string().contains("works on layout 1)"), "{text}: {refusal}");
        }
    }
}
