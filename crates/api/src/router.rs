//! Every route on one screen.

use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::{Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::observe::{observe, panicked};
use crate::openapi::TitlePage;
use crate::routes::{audio, events, fallback, jobs, models, ops, transcript};
use crate::state::ApiState;

fn documented() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(TitlePage::openapi())
        .routes(routes!(jobs::create, jobs::list))
        .routes(routes!(jobs::get, jobs::delete))
        .routes(routes!(transcript::get))
        .routes(routes!(events::watch))
        .routes(routes!(audio::transcribe))
        .routes(routes!(audio::translate))
        .routes(routes!(models::list))
        .routes(routes!(models::get))
        .routes(routes!(ops::healthz))
        .routes(routes!(ops::readyz))
        .routes(routes!(ops::metrics))
}

/// The OpenAPI document of exactly the routes that [`router`] serves.
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().into_openapi()
}

/// The whole API over `state`.
pub fn router(state: ApiState) -> Router {
    let (routes, openapi) = documented().split_for_parts();
    let nosniff = SetResponseHeaderLayer::if_not_present(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    routes
        .merge(SwaggerUi::new("/docs").url("/openapi.json", openapi))
        .fallback(fallback::not_found)
        .method_not_allowed_fallback(fallback::method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(nosniff)
        // `observe` bounds every body; axum's own limit of 2 MB would cut uploads.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(state.clone(), observe))
        .with_state(state)
}
