//! What one client wanted, and what it saw, in order.

/// A status as the API names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// Waits.
    Queued,
    /// A worker is on it.
    Processing,
    /// The transcript is there.
    Completed,
    /// It failed for good.
    Failed,
    /// Nobody wanted it any more.
    Cancelled,
}

impl Status {
    /// From its name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "queued" => Self::Queued,
            "processing" => Self::Processing,
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            "cancelled" => Self::Cancelled,
            _ => return None,
        })
    }

    /// Whether nothing may follow it.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// What the service must make of a sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// This text, after at most so many attempts.
    Text {
        /// The known answer.
        text: String,
        /// One more than the times that the sound makes the engine fail.
        attempts: u32,
    },
    /// A failure with this code.
    Failure(&'static str),
}

/// What the client does with its submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Manner {
    /// Waits for the end by long polling.
    Poll,
    /// Follows the events.
    Watch,
    /// Submits once more under the same key after it was accepted, then waits.
    Repeat,
    /// Cancels at once.
    Cancel,
    /// Waits for the end, fetches the transcript, and removes the job.
    Remove,
}

/// One thing that the client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The submission was accepted under this id.
    Accepted {
        /// The job's id.
        id: String,
        /// Whether it joined other work or was answered from its result.
        shared: bool,
    },
    /// The job is in this state.
    Job {
        /// Its status.
        status: Status,
        /// Attempts so far.
        attempt: u32,
        /// Why it failed.
        code: Option<String>,
    },
    /// An event arrived.
    Event {
        /// Its number.
        number: u64,
        /// The end that it tells of, if it does.
        end: Option<Status>,
    },
    /// The transcript.
    Text(String),
    /// The cancellation was accepted.
    CancelAccepted,
    /// The job was removed on request.
    Removed,
    /// There is no such job.
    Gone,
    /// An answer that the contract does not know in this place.
    Unexpected(String),
    /// The client waited for so long that it counts as never.
    GaveUp(&'static str),
}

/// One client's story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Which submission this is.
    pub number: u64,
    /// What the client did.
    pub manner: Manner,
    /// What must come of it.
    pub expected: Expected,
    /// What came of it.
    pub seen: Vec<Seen>,
}

impl History {
    /// The first id under which it was accepted.
    pub fn id(&self) -> Option<&str> {
        self.seen.iter().find_map(|seen| match seen {
            Seen::Accepted { id, .. } => Some(id.as_str()),
            _ => None,
        })
    }

    /// Whether it was removed on request.
    pub fn was_removed(&self) -> bool {
        self.seen.contains(&Seen::Removed)
    }

    /// The first end that was seen, by state or by event.
    pub fn end(&self) -> Option<Status> {
        self.seen.iter().find_map(|seen| match seen {
            Seen::Job { status, .. } if status.is_end() => Some(*status),
            Seen::Event { end, .. } => *end,
            _ => None,
        })
    }
}
