//! Workers of a cluster say what they can do, API nodes listen.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use verbatim_core::CancellationToken;
use verbatim_core::ids::WorkerId;
use verbatim_core::model::{ModelCatalog, ModelInfo};
use verbatim_core::ports::EngineRegistry;
use verbatim_core::ports::engine::Capabilities;
use verbatim_core::ports::registry::EngineOffer;
use verbatim_core::time::Clock;

use super::{Offered, Parts};

/// How often a worker announces itself.
const ANNOUNCE: Duration = Duration::from_secs(60);
/// How often an API node asks what is on offer.
const ASK: Duration = Duration::from_secs(10);
/// How often while there is nothing yet, or the store does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Announces what the worker's engines can do until `stop` fires.
pub(super) async fn speak(
    registry: Arc<dyn EngineRegistry>,
    clock: Arc<dyn Clock>,
    worker: WorkerId,
    capabilities: Capabilities,
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
            let pause = match registry.announce(offer).await {
                Ok(()) => ANNOUNCE,
                Err(error) => {
                    tracing::warn!(%error, "the worker could not announce what it can do; trying again");
                    ASK_AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = speaking => {}
        () = stop.cancelled() => {}
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
    match registry.offers().await {
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

/// All that the workers offer together. The newest speaks first, and its first model is the default.
fn offering(offers: &[EngineOffer]) -> Option<ModelCatalog> {
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

    #[test]
    fn workers_offer_together_and_the_newest_speaks_first() {
        let offers = [offer(1, &[("base", "new")]), offer(2, &[("tiny.en", "r"), ("base", "old")])];
        let models = offering(&offers).unwrap();
        let names: Vec<_> = models.models().iter().map(|model| (&*model.name, &*model.revision)).collect();
        assert_eq!(names, [("base", "new"), ("tiny.en", "r")]);
        assert!(offering(&[]).is_none());
    }
}
