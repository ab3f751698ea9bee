//! What a newer version of the service wrote, as this one takes it: words that it does not know stand for something that it
//! does, and a record that it cannot read at all is left to nodes of that version.

use std::time::Duration;

use verbatim_core::event::Stage;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::transcript::Segment;
use verbatim_core::{BadJson, ErrorKind, PortError, Refusal};

use crate::checkpoints::Head;

/// How long a job that this version cannot read is left to others.
pub(crate) const LEFT_TO_OTHERS: Duration = Duration::from_secs(30);
/// When to ask again: another node may know better, or this one is replaced soon.
const AGAIN: Duration = Duration::from_secs(10);

/// A record that no version wrote like this: what must be there is missing, or is no number. Nobody reads it, now or later.
pub(crate) fn corrupt(what: impl std::fmt::Display) -> PortError {
    PortError::new(ErrorKind::Internal, format!("the job store holds something unreadable: {what}"))
}

/// JSON that cannot be read. A newer version writes other words in it; what is no JSON at all, no version wrote.
pub(crate) fn bad_json(what: &str, error: serde_json::Error) -> PortError {
    let broken = if error.is_data() { unreadable(what) } else { corrupt(what) };
    broken.with_source(BadJson::from(error))
}

/// A record in words that this version does not know: a newer one writes them, and its nodes can read them. Never "something
/// went wrong", for nothing did.
pub(crate) fn unreadable(what: impl std::fmt::Display) -> PortError {
    PortError::new(
        ErrorKind::Unavailable,
        format!("another version of the service wrote what cannot be read: {what}"),
    )
    .because(Refusal::OtherVersion)
    .with_retry_after(AGAIN)
}

/// Where another worker may go on, of its head and the segments that are kept beside it; nowhere, where a newer version left
/// off: then the work begins again.
pub(crate) fn checkpoint(head: &str, beside: &[String]) -> Option<Checkpoint> {
    let segments: Result<Vec<Segment>, _> =
        beside.iter().map(|segment| serde_json::from_str(segment)).collect();
    match segments.and_then(|segments| Ok(serde_json::from_str::<Head>(head)?.with(segments))) {
        Ok(checkpoint) => Some(checkpoint),
        Err(error) => {
            tracing::warn!(error = %BadJson::from(error), "a checkpoint cannot be read: the job begins again");
            None
        }
    }
}

/// Why a job failed. A kind that a newer version knows is none that this one can act on.
pub(crate) fn failure(text: &str) -> JobFailure {
    serde_json::from_str(text).unwrap_or_else(|_| {
        JobFailure::new(FailureKind::Internal, "The job failed for a reason that this node does not know.")
    })
}

/// What is done with a job. One that a newer version knows is some part of the work.
pub(crate) fn stage(name: &str) -> Stage {
    let known = serde_json::from_value(serde_json::Value::String(name.to_owned()));
    known.unwrap_or(Stage::Transcribing)
}

/// Those that can be read. What a newer version wrote, or nobody can read, must not hide all else from this one. Only for records
/// that were fetched: an error of the store is one of the whole list.
pub(crate) fn readable<T>(
    what: &str,
    found: impl Iterator<Item = Result<T, PortError>>,
) -> impl Iterator<Item = T> {
    found.filter_map(move |one| {
        one.inspect_err(|error| {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "{what} cannot be read and is left out; did a newer version write it?"
            );
        })
        .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_newer_version_are_shown_as_something_known() {
        assert_eq!((stage("aligning"), stage("decoding")), (Stage::Transcribing, Stage::Decoding));
        let broken = |text| bad_json("it", serde_json::from_str::<Stage>(text).unwrap_err()).refusal();
        assert_eq!((broken("\"aligning\""), broken("{")), (Some(Refusal::OtherVersion), None));
        let unknown = failure(r#"{"kind":"moon_phase","message":"x"}"#);
        assert_eq!(unknown.kind, FailureKind::Internal);
    }
}
