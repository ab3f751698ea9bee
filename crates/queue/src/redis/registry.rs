//! What workers offer: one hash, a JSON record per worker.

use std::time::Duration;

use async_trait::async_trait;
use redis::cmd;
use verbatim_core::ids::WorkerId;
use verbatim_core::ports::registry::{EngineOffer, EngineRegistry};
use verbatim_core::time::Timestamp;
use verbatim_core::{BadJson, PortError};

use super::{RedisStore, error, json, scripts};

/// How long the offer of a worker that has gone stands.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a worker may be silent before it counts as gone.
const SILENCE: Duration = Duration::from_secs(300);

#[async_trait]
impl EngineRegistry for RedisStore {
    async fn announce(&self, offer: EngineOffer) -> Result<(), PortError> {
        let now = offer.announced_at;
        let mut call = self.0.wire.call(&scripts::ANNOUNCE);
        call.arg(offer.worker.ulid()).arg(json(&offer)?);
        for old in self.stored_offers().await? {
            if is_superseded(&old, &offer, now) {
                call.arg(old.worker.ulid());
            }
        }
        let _: redis::Value = self.0.wire.link.run(&call).await?;
        Ok(())
    }

    async fn leave(&self, worker: &WorkerId) -> Result<(), PortError> {
        let (wire, worker) = (&self.0.wire, worker.ulid());
        // Its last claim, which nobody repeats any more: before the worker, with which upkeep would find it if this ends between
        // the two.
        let mut command = cmd("DEL");
        command.arg(wire.key(&format!("k:{worker}")));
        let _: redis::Value = wire.link.command(&command).await?;
        let mut command = cmd("ZREM");
        command.arg(wire.key("workers")).arg(worker);
        let _: redis::Value = wire.link.command(&command).await?;
        Ok(())
    }

    async fn withdraw(&self, worker: &WorkerId) -> Result<(), PortError> {
        let mut command = cmd("HDEL");
        command.arg(self.0.wire.key("offers")).arg(worker.ulid());
        let _: redis::Value = self.0.wire.link.command(&command).await?;
        Ok(())
    }

    async fn offers(&self) -> Result<Vec<EngineOffer>, PortError> {
        let mut offers = self.stored_offers().await?;
        offers.sort_by(|a, b| (b.announced_at, &b.worker).cmp(&(a.announced_at, &a.worker)));
        Ok(offers)
    }
}

/// Whether an offer needs to be kept no longer: it is old, or a worker that was started afresh says the same now.
fn is_superseded(old: &EngineOffer, new: &EngineOffer, now: Timestamp) -> bool {
    let age = now.since(old.announced_at);
    let same = (&old.version, &old.models) == (&new.version, &new.models);
    old.worker != new.worker && (age > DAY || same && age > SILENCE)
}

impl RedisStore {
    async fn stored_offers(&self) -> Result<Vec<EngineOffer>, PortError> {
        let mut command = cmd("HVALS");
        command.arg(self.0.wire.key("offers"));
        let all: Vec<String> = self.0.wire.link.command(&command).await?;
        let read = |text: &String| {
            serde_json::from_str(text)
                .map_err(|error| error::corrupt("an offer").with_source(BadJson::from(error)))
        };
        all.iter().map(read).collect()
    }
}
