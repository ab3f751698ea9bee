//! The models on offer, in OpenAI's shape.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;
use verbatim_core::model::ModelInfo;

use crate::error::ApiError;
use crate::problem::OpenAiError;
use crate::state::ApiState;

/// The models on offer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// Always `list`.
    #[schema(example = "list")]
    object: &'static str,
    /// The models, the default first.
    data: Vec<Model>,
}

/// One model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Model {
    /// Its name.
    #[schema(example = "tiny.en")]
    id: String,
    /// Always `model`.
    #[schema(example = "model")]
    object: &'static str,
    /// Since when it is offered here (Unix time, seconds): the start of this process.
    #[schema(example = 1_767_225_600)]
    created: i64,
    /// Always `verbatim`.
    #[schema(example = "verbatim")]
    owned_by: &'static str,
    /// The engine that runs it.
    #[schema(example = "whisper")]
    engine: String,
    /// Whether it hears more than English and can translate.
    multilingual: bool,
}

fn describe(model: &ModelInfo, state: &ApiState) -> Model {
    Model {
        id: model.name.clone(),
        object: "model",
        created: state.started_at().as_millis() / 1000,
        owned_by: "verbatim",
        engine: model.engine.clone(),
        multilingual: model.multilingual,
    }
}

/// List the models
///
/// The first is the default; `whisper-1` means the default as well.
#[utoipa::path(get, path = "/v1/models", tag = "openai", operation_id = "list_models",
    responses((status = 200, description = "The models", body = ModelList)))]
pub(crate) async fn list(State(state): State<ApiState>) -> Json<ModelList> {
    let offered = state.offering.borrow().clone();
    let models = offered.iter().flat_map(|catalog| catalog.models());
    let data = models.map(|model| describe(model, &state)).collect();
    Json(ModelList { object: "list", data })
}

/// Get one model
#[utoipa::path(get, path = "/v1/models/{model}", tag = "openai", operation_id = "get_model",
    params(("model" = String, Path, description = "Its name, or `whisper-1` for the default", example = "tiny.en")),
    responses(
        (status = 200, description = "The model", body = Model),
        (status = 404, description = "`model_not_found`", body = OpenAiError),
        (status = 503, description = "No worker is known yet; see `Retry-After`", body = OpenAiError),
    ))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    // A name that is not UTF-8 is no model's name either.
    let name = name.map_or_else(|_| "?".to_owned(), |Path(name)| name);
    let offered = state.offered()?;
    let model = offered.resolve(Some(&name)).map_err(|error| ApiError::from(error).into_openai())?;
    Ok(Json(describe(model, &state)))
}
