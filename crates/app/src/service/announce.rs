//! Workers of a cluster say what they can do, API nodes listen.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use verbatim_core::ids::WorkerId;
use verbatim_core::model::{ModelCatalog, ModelInfo};
use verbatim_core::ports::EngineRegistry;
use verbatim_core::ports::engine::Capabilities;
use verbatim_core::ports::registry::EngineOffer;
use verbatim_core::time::Clock;
use verbatim_core::{CancellationToken, PortError};
use verbatim_queue::StoreCondition;

use super::{Offered, Parts};

/// How often a worker announces itself.
const ANNOUNCE: Duration = Duration::from_secs(60);
/// How often an API node asks what is on offer.
const ASK: Duration = Duration::from_secs(10);
/// How often while there is nothing yet, or the store does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A worker that has not announced itself for so long may have gone.
const SILENT: Duration = Duration::from_secs(180);
/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long the end of a worker waits for the registry.
const GOODBYE: Duration = Duration::from_secs(5);

/// Who announces something.
pub(super) struct Speaker {
    /// The worker.
    pub(super) id: WorkerId,
    /// The one in whose place it is: the same process before its restart.
    pub(super) before: Option<WorkerId>,
}

/// Announces what the worker's engines can do until `stop` fires.
pub(super) async fn speak(
    registry: Arc<dyn EngineRegistry>,
    clock: Arc<dyn Clock>,
    Speaker { id: worker, mut before }: Speaker,
    capabilities: Capabilities,
    mut condition: watch::Receiver<StoreCondition>,
    stop: CancellationToken,
) {
    let speaking = async {
        loop {
            let offer = EngineOffer {
                worker: worker.clone(),
                version: VERSION.to_owned(),
                models: capabilities.models.clone(),
                announced_at: clock.now(),
            };
            let known = condition.borrow().replaced;
            let announced = async {
                registry.announce(offer).await?;
                // Not sooner, so that the cluster always knows of one of them.
                if let Some(before) = &before {
                    registry.withdraw(before).await?;
                }
                Ok::<(), PortError>(())
            };
            let pause = match announced.await {
                Ok(()) => {
                    before = None;
                    ANNOUNCE
                }
                Err(error) => {
                    tracing::warn!(%error, "the worker could not announce what it can do; trying again");
                    ASK_AGAIN
                }
            };
            // A store that came back empty knows nobody: it is told at once who there is.
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = is_replaced(&mut condition, known) => {}
            }
        }
    };
    tokio::select! {
        () = speaking => {}
        () = stop.cancelled() => {}
    }
}

/// Tells the cluster that a worker has ended. What it offered stands: another one is on its way, as a rule.
pub(super) async fn leave(registry: &dyn EngineRegistry, worker: &WorkerId) {
    match tokio::time::timeout(GOODBYE, registry.leave(worker)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "a worker that has ended is counted until its lease is over")
        }
        Err(_) => tracing::warn!("a worker that has ended is counted until its lease is over: no answer"),
    }
}

/// Waits until the store has been replaced more often than that.
async fn is_replaced(condition: &mut watch::Receiver<StoreCondition>, known: u64) {
    if condition.wait_for(|condition| condition.replaced > known).await.is_err() {
        // The store is gone with the process.
        std::future::pending().await
    }
}

/// What is on offer, asked once and then kept up to date until `stop` fires.
pub(super) async fn listen(
    registry: Arc<dyn EngineRegistry>,
    stop: CancellationToken,
    parts: &mut Parts,
) -> Offered {
    let (known, offered) = watch::channel(None);
    let mut pause = ask(registry.as_ref(), &known).await;
    parts.spawn(async move {
        let listening = async {
            loop {
                tokio::time::sleep(pause).await;
                pause = ask(registry.as_ref(), &known).await;
            }
        };
        tokio::select! {
            () = listening => {}
            () = stop.cancelled() => {}
        }
        Ok(())
    });
    offered
}

/// Asks once; returns when to ask again. What was known stands while the store does not answer.
async fn ask(registry: &dyn EngineRegistry, known: &watch::Sender<Option<Arc<ModelCatalog>>>) -> Duration {
    match registry.distinct_offers().await {
        Ok(offers) => match offering(&offers) {
            Some(offering) => {
                known.send_replace(Some(Arc::new(offering)));
                ASK
            }
            None => ASK_AGAIN,
        },
        Err(error) => {
            tracing::warn!(%error, "what the workers offer is not known; trying again");
            ASK_AGAIN
        }
    }
}

/// All that the workers offer together. The order, of which the first model is the default, depends on what is offered and not
/// on whose announcement is the newest: workers with different models announce themselves in turn, and the default would
/// change with each. Workers that were heard of lately come first, among those the ones whose own default hears more than
/// English, then by the names of their models; of one model that is offered in several revisions, that of the newest version
/// counts.
fn offering(offers: &[EngineOffer]) -> Option<ModelCatalog> {
    let newest = offers.iter().map(|offer| offer.announced_at).max()?;
    let mut offers: Vec<&EngineOffer> = offers.iter().collect();
    offers.sort_by_cached_key(|offer| {
        let silent = newest.since(offer.announced_at) > SILENT;
        let english = offer.models.first().is_none_or(|model| !model.multilingual);
        let names: Vec<String> = offer.models.iter().map(|model| model.name.clone()).collect();
        let revisions: Vec<String> = offer.models.iter().map(|model| model.revision.clone()).collect();
        (silent, english, names, Reverse(offer.version.clone()), Reverse(revisions))
    });
    let mut models: Vec<ModelInfo> = Vec::new();
    for model in offers.iter().flat_map(|offer| &offer.models) {
        if models.iter().all(|known| known.name != model.name) {
            models.push(model.clone());
        }
    }
    for offer in offers.iter().filter(|offer| offer.version != VERSION) {
        tracing::debug!(worker.id = %offer.worker, version = offer.version, "a worker runs another version");
    }
    ModelCatalog::new(models)
}

#[cfg(test)]
mod tests {
    use verbatim_core::time::Timestamp;

    use super::*;

    fn offer(worker: u8, models: &[(&str, &str)]) -> EngineOffer {
        let model = |(name, revision): &(&str, &str)| ModelInfo {
            name: (*name).to_owned(),
            engine: "whisper".to_owned(),
            multilingual: false,
            translates: false,
            diarizes: false,
            revision: (*revision).to_owned(),
        };
        EngineOffer {
            worker: WorkerId::from_ulid(&format!("{worker:026}")).unwrap(),
            version: VERSION.to_owned(),
            models: models.iter().map(model).collect(),
            announced_at: Timestamp::from_millis(0),
        }
    }

    fn names(offers: &[EngineOffer]) -> Vec<(String, String)> {
        let models = offering(offers).unwrap();
        models.models().iter().map(|model| (model.name.clone(), model.revision.clone())).collect()
    }

    #[test]
    fn the_default_does_not_depend_on_who_spoke_last() {
        let (tiny, base) = (offer(1, &[("tiny.en", "r")]), offer(2, &[("base", "r")]));
        let base = EngineOffer {
            models: base
                .models
                .iter()
                .map(|model| ModelInfo { multilingual: true, ..model.clone() })
                .collect(),
            ..base
        };
        let later = |offer: &EngineOffer, secs| {
            let announced_at = offer.announced_at.plus(Duration::from_secs(secs));
            EngineOffer { announced_at, ..offer.clone() }
        };
        for (of_tiny, of_base) in [(0, 0), (30, 0), (0, 30), (59, 1)] {
            for offers in [
                [later(&tiny, of_tiny), later(&base, of_base)],
                [later(&base, of_base), later(&tiny, of_tiny)],
            ] {
                assert_eq!(offering(&offers).unwrap().default_model().name, "base", "{of_tiny} {of_base}");
            }
        }
        let gone = [later(&tiny, 600), later(&base, 0)];
        assert_eq!(
            offering(&gone).unwrap().default_model().name,
            "tiny.en",
            "the worker with base is silent"
        );
    }

    #[test]
    fn workers_offer_together_and_the_newest_version_counts() {
        let old = EngineOffer { version: "0.0.1".to_owned(), ..offer(2, &[("base", "old")]) };
        let offers = [old, offer(1, &[("base", "new")]), offer(3, &[("tiny.en", "r"), ("base", "old")])];
        let told = [("base", "new"), ("tiny.en", "r")];
        assert_eq!(names(&offers), told.map(|(name, revision)| (name.to_owned(), revision.to_owned())));
        assert!(offering(&[]).is_none());
    }
}
