//! What workers offer: one hash, a JSON record for all workers that say the same. `lua/offers.lua` says how.

use async_trait::async_trait;
use redis::cmd;
use serde::Serialize;
use verbatim_core::ids::WorkerId;
use verbatim_core::model::ModelInfo;
use verbatim_core::ports::registry::{EngineOffer, EngineRegistry};
use verbatim_core::time::Timestamp;
use verbatim_core::{BadJson, PortError};

use super::{RedisStore, json, scripts};
use crate::newer::{readable, unreadable};

/// What any worker of the same kind says.
#[derive(Serialize)]
struct Said<'a> {
    version: &'a str,
    models: &'a [ModelInfo],
}

/// The workers behind a record, each followed by when it announced it last. Empty for one of a node of an earlier version,
/// which made one for each worker.
type Speakers = Vec<(String, i64)>;

#[async_trait]
impl EngineRegistry for RedisStore {
    async fn announce(&self, offer: EngineOffer) -> Result<(), PortError> {
        let EngineOffer { worker, version, models, announced_at: _ } = &offer;
        let mut call = self.0.wire.call(&scripts::ANNOUNCE);
        call.arg(worker.ulid()).arg(json(&offer)?).arg(json(&Said { version, models })?);
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
        let mut call = self.0.wire.call(&scripts::WITHDRAW);
        call.arg(worker.ulid());
        let _: redis::Value = self.0.wire.link.run(&call).await?;
        Ok(())
    }

    async fn offers(&self) -> Result<Vec<EngineOffer>, PortError> {
        let call = self.0.wire.call(&scripts::LIST_OFFERS);
        let (records, speakers): (Vec<(String, String)>, Vec<Speakers>) = self.0.wire.link.run(&call).await?;
        let read = records.iter().zip(&speakers).map(|((_, text), speakers)| of_each(text, speakers));
        let mut offers: Vec<EngineOffer> = readable("an offer", read).flatten().collect();
        offers.sort_by(|a, b| (b.announced_at, &b.worker).cmp(&(a.announced_at, &a.worker)));
        Ok(offers)
    }

    async fn distinct_offers(&self) -> Result<Vec<EngineOffer>, PortError> {
        let mut command = cmd("HVALS");
        command.arg(self.0.wire.key("offers"));
        let all: Vec<String> = self.0.wire.link.command(&command).await?;
        let mut offers: Vec<EngineOffer> = readable("an offer", all.iter().map(|text| read(text))).collect();
        offers.sort_by(|a, b| (b.announced_at, &b.worker).cmp(&(a.announced_at, &a.worker)));
        Ok(offers)
    }
}

fn read(text: &str) -> Result<EngineOffer, PortError> {
    serde_json::from_str(text).map_err(|error| unreadable("an offer").with_source(BadJson::from(error)))
}

/// The offer of each worker that says this.
fn of_each(text: &str, speakers: &Speakers) -> Result<Vec<EngineOffer>, PortError> {
    let said = read(text)?;
    if speakers.is_empty() {
        return Ok(vec![said]);
    }
    let of = |(worker, at): &(String, i64)| {
        Ok(EngineOffer {
            worker: WorkerId::from_ulid(worker).map_err(unreadable)?,
            announced_at: Timestamp::from_millis(*at),
            ..said.clone()
        })
    };
    speakers.iter().map(of).collect()
}
