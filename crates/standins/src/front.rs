//! What a test asks of any stand-in: what it saw, and how it is to behave.

use std::sync::{Arc, Mutex};

use crate::desk::{Desk, SeenRequest, lock};
use crate::faults::{Fault, Times};
use crate::hearing::Hearing;
use crate::server::Server;

/// The face of every stand-in. Its server ends when this is dropped.
pub struct Front {
    pub(crate) server: Server,
    pub(crate) desk: Arc<Desk>,
    pub(crate) hearing: Arc<Mutex<Hearing>>,
}

impl Front {
    /// Every request, in the order in which they came; of a form, `definition` holds the fields.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.desk.requests()
    }

    /// Whatever broke the contract.
    pub fn violations(&self) -> Vec<String> {
        self.desk.violations()
    }

    /// Most limited requests that were under way at once.
    pub fn in_flight_peak(&self) -> usize {
        self.desk.in_flight_peak()
    }

    /// How many limited requests were answered well.
    pub fn served(&self) -> usize {
        self.desk.served()
    }

    /// Does this wrong, on every route but those that are spared.
    pub fn misbehave(&self, fault: Fault, times: Times) {
        self.desk.misbehave("", fault, times);
    }

    /// Does this wrong on routes whose path contains `path`: `issueToken`, `:submit`, `/files`…
    pub fn misbehave_at(&self, path: &str, fault: Fault, times: Times) {
        self.desk.misbehave(path, fault, times);
    }

    /// Ends all misbehaviour.
    pub fn heal(&self) {
        self.desk.heal();
    }

    /// Refuses connections from now on, and drops those there are.
    pub async fn go_down(&self) {
        self.server.listen(false).await;
    }

    /// Listens again, on the same port.
    pub async fn come_back(&self) {
        self.server.listen(true).await;
    }

    /// Hears this from now on.
    pub fn hear(&self, hearing: Hearing) {
        *lock(&self.hearing) = hearing;
    }
}
