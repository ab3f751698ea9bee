//! What the workers of a cluster can do: they announce it, and nodes that take requests in learn it from there.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::PortError;
use crate::ids::WorkerId;
use crate::model::ModelInfo;
use crate::time::Timestamp;

/// What one worker can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineOffer {
    /// Who.
    pub worker: WorkerId,
    /// The version of the program that it runs.
    pub version: String,
    /// The models of all its engines, the default first.
    pub models: Vec<ModelInfo>,
    /// When it was announced last.
    pub announced_at: Timestamp,
}

/// Where workers announce themselves.
#[async_trait]
pub trait EngineRegistry: Send + Sync {
    /// Replaces what this worker announced before. Repeated every minute, so that offers tell who is there.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn announce(&self, offer: EngineOffer) -> Result<(), PortError>;

    /// The worker has ended and holds nothing: it counts no longer among those that are there. Its offer stands.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn leave(&self, worker: &WorkerId) -> Result<(), PortError>;

    /// Takes the offer of a worker back, because another one has announced itself in its place.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn withdraw(&self, worker: &WorkerId) -> Result<(), PortError>;

    /// The offers of the last day, the newest first: also of workers that have gone, so that a cluster whose workers are
    /// all starting afresh goes on taking work in.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn offers(&self) -> Result<Vec<EngineOffer>, PortError>;

    /// What is on offer: of workers that say the same, what one of them announced last. The newest first. As large as the
    /// cluster is varied, however many workers there are.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn distinct_offers(&self) -> Result<Vec<EngineOffer>, PortError>;
}
