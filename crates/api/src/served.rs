//! Live workers and unpaused providers, as those routes need them whose clients wait for the answer.

use std::collections::{HashMap, HashSet};

use verbatim_core::job::{Submission, SubmissionStatus};
use verbatim_core::model::ModelCatalog;
use verbatim_core::options::{ENGINE_AUTO, TranscribeOptions};
use verbatim_core::{ErrorKind, PortError, provider};

use crate::state::ApiState;

/// The reason why no worker can begin a queued submission now, for its client; `None` when one can, or it is queued no longer.
///
/// # Errors
/// Those of the shared state.
pub(crate) async fn hindrance(
    state: &ApiState,
    models: &ModelCatalog,
    submission: &Submission,
) -> Result<Option<String>, PortError> {
    if submission.status != SubmissionStatus::Queued {
        return Ok(None);
    }
    if let Some(needed) = &submission.waiting_for {
        return Ok(Some(format!("this takes {needed}, and there is none now; try again later")));
    }
    // Workers leave out what is paused, but look only now and then, and not while they are busy.
    let paused = paused(state).await?;
    let mut engines = able(models, &submission.options).peekable();
    let all = engines.peek().is_some() && engines.all(|engine| paused.contains(engine));
    Ok(all.then(|| "every provider that could do this is paused; try again later".to_owned()))
}

/// The engine check of `/readyz`: at least one engine on offer has a provider that is not paused. Workers that are restarting or
/// absent do not make a node unready, since it goes on taking jobs in and handing results out.
///
/// # Errors
/// `Unavailable` with the reason when not; those of the stores.
pub(crate) async fn anything(state: &ApiState) -> Result<(), PortError> {
    let missing = |why| Err(PortError::new(ErrorKind::Unavailable, why));
    let Some(models) = state.offering.borrow().clone() else {
        return missing("no worker has joined the service yet");
    };
    let paused = paused(state).await?;
    if models.models().iter().any(|model| !paused.contains(&model.engine)) {
        return Ok(());
    }
    missing("every provider that workers have is paused")
}

/// The engines of which each provider is paused.
async fn paused(state: &ApiState) -> Result<HashSet<String>, PortError> {
    let Some(parts) = &state.providers else { return Ok(HashSet::new()) };
    let mut engines: HashMap<String, bool> = HashMap::new();
    for view in provider::list(parts.shared.as_ref()).await? {
        let all = engines.entry(view.facts.kind).or_insert(true);
        *all &= view.paused;
    }
    Ok(engines.into_iter().filter(|(_, paused)| *paused).map(|(engine, _)| engine).collect())
}

/// The engines that can do what the options ask for.
fn able<'m>(models: &'m ModelCatalog, options: &'m TranscribeOptions) -> impl Iterator<Item = &'m String> {
    let asked = |engine: &str| options.engine == ENGINE_AUTO || options.engine == engine;
    let models = models.models().iter().filter(move |model| {
        (options.any_model || model.name == options.model)
            && asked(&model.engine)
            && model.check(options).is_ok()
    });
    models.map(|model| &model.engine)
}
