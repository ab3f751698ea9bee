//! What workers offer: one hash, a JSON record for all workers that say the same. `lua/offers.lua` says how.

use std::collections::BTreeMap;

use async_trait::async_trait;
use redis::{FromRedisValue, cmd};
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

/// Where a walk begins and ends.
const FIRST: &str = "0";
/// Entries that one call reads, about.
const PAGE: usize = 256;

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
        let mut by_worker: BTreeMap<WorkerId, EngineOffer> = BTreeMap::new();
        for (digest, offer) in self.offers_of_several().await? {
            let of = |(worker, at): (String, i64)| {
                let worker = WorkerId::from_ulid(&worker).map_err(unreadable)?;
                Ok(EngineOffer { worker, announced_at: Timestamp::from_millis(at), ..offer.clone() })
            };
            let speakers = self.speakers(&digest).await?;
            for offer in readable("who made an offer", speakers.into_iter().map(of)) {
                by_worker.insert(offer.worker.clone(), offer);
            }
        }
        // Those of nodes of an earlier version, each of its own worker.
        for offer in self.offers_by_worker().await? {
            by_worker.entry(offer.worker.clone()).or_insert(offer);
        }
        let mut offers: Vec<EngineOffer> = by_worker.into_values().collect();
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

impl RedisStore {
    /// What several workers may have said, each by its digest.
    async fn offers_of_several(&self) -> Result<Vec<(String, EngineOffer)>, PortError> {
        let (mut found, mut cursor) = (Vec::new(), FIRST.to_owned());
        loop {
            let mut call = self.0.wire.call(&scripts::LIST_OFFERS);
            call.arg(&cursor).arg(PAGE);
            let (next, page): (String, Vec<(String, String)>) = self.0.wire.link.run(&call).await?;
            let read = page.into_iter().map(|(digest, text)| Ok((digest, read(&text)?)));
            found.extend(readable("an offer", read));
            if next == FIRST {
                return Ok(found);
            }
            cursor = next;
        }
    }

    /// Who said this, each with when it did last.
    async fn speakers(&self, digest: &str) -> Result<Vec<(String, i64)>, PortError> {
        self.walk("ZSCAN", &format!("offers:by:{digest}")).await
    }

    /// All records as they are.
    async fn offers_by_worker(&self) -> Result<Vec<EngineOffer>, PortError> {
        let all: Vec<(String, String)> = self.walk("HSCAN", "offers").await?;
        Ok(readable("an offer", all.iter().map(|(_, text)| read(text))).collect())
    }

    /// Reads all of a hash or a sorted set, a page at a time. What changes meanwhile may come twice.
    async fn walk<T: FromRedisValue>(&self, scan: &str, key: &str) -> Result<Vec<(String, T)>, PortError> {
        let (mut found, mut cursor) = (Vec::new(), FIRST.to_owned());
        loop {
            let mut command = cmd(scan);
            command.arg(self.0.wire.key(key)).arg(&cursor).arg("COUNT").arg(PAGE);
            let (next, page): (String, Vec<(String, T)>) = self.0.wire.link.command(&command).await?;
            found.extend(page);
            if next == FIRST {
                return Ok(found);
            }
            cursor = next;
        }
    }
}
