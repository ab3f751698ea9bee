//! What a stand-in does wrong when a test asks for it.

use std::time::Duration;

/// One kind of misbehaviour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// 429, with `Retry-After` in whole seconds or without.
    Throttle {
        /// What the header says.
        retry_after: Option<Duration>,
    },
    /// This status, with this code in the error's body.
    Status(u16, &'static str),
    /// [`Self::Status`] with a `Retry-After` header, whatever it says.
    StatusRetry(u16, &'static str, &'static str),
    /// Takes the request and never answers.
    Hang,
    /// Resets the connection once the request was read.
    Reset,
    /// The right answer, one byte at a time with a pause after each.
    SlowDrip,
    /// The first half of the right answer, as if it were all.
    TruncatedJson,
    /// The first half of the right answer; then the connection breaks.
    BrokenOff,
    /// 401 as for a token that has expired.
    ExpiredToken,
    /// 200 with a page of HTML.
    WrongContentType,
    /// Short audio of Azure: 200 with this `RecognitionStatus`.
    Recognition(&'static str),
}

/// How often a fault occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// For so many requests from now on.
    Next(usize),
    /// For each request until the stand-in is healed.
    UntilHealed,
}

/// A fault that waits for its request.
#[derive(Debug)]
struct Armed {
    /// A part of the path; empty for any.
    path: String,
    fault: Fault,
    times: Times,
}

/// The faults to come, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Armed>);

impl Faults {
    pub(crate) fn arm(&mut self, path: &str, fault: Fault, times: Times) {
        self.0.push(Armed { path: path.to_owned(), fault, times });
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault for a request, used up. Faults for any path spare `spared` paths.
    pub(crate) fn take(&mut self, path: &str, spared: bool) -> Option<Fault> {
        self.0.retain(|armed| armed.times != Times::Next(0));
        let fits =
            |armed: &&mut Armed| if armed.path.is_empty() { !spared } else { path.contains(&armed.path) };
        let armed = self.0.iter_mut().find(fits)?;
        if let Times::Next(left) = &mut armed.times {
            *left -= 1;
        }
        Some(armed.fault.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_occurs_as_often_as_it_was_asked_for_and_where() {
        let mut faults = Faults::default();
        faults.arm("", Fault::Hang, Times::Next(1));
        faults.arm("poll", Fault::Reset, Times::UntilHealed);
        assert_eq!(faults.take("/token", true), None);
        assert_eq!(faults.take("/poll/1", true), Some(Fault::Reset));
        assert_eq!(faults.take("/poll/1", false), Some(Fault::Hang));
        assert_eq!(faults.take("/poll/1", false), Some(Fault::Reset));
        assert_eq!(faults.take("/other", false), None);
        faults.clear();
        assert_eq!(faults.take("/poll/1", false), None);
    }
}
