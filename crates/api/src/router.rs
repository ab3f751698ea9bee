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
use verbatim_core::api_key::Scope;

use crate::auth::guard;
use crate::observe::{observe, panicked};
use crate::openapi::{TitlePage, asks_for_key};
use crate::routes::{audio, dead_letters, events, fallback, jobs, models, ops, transcript};
use crate::state::ApiState;

/// Every route, in groups by the scope that a key needs for them; `guarded` puts the group behind it.
fn documented(
    guarded: impl Fn(Scope, OpenApiRouter<ApiState>) -> OpenApiRouter<ApiState>,
) -> OpenApiRouter<ApiState> {
    let open = OpenApiRouter::with_openapi(TitlePage::openapi())
        .routes(routes!(ops::healthz))
        .routes(routes!(ops::readyz))
        .routes(routes!(ops::metrics));
    let jobs = OpenApiRouter::new()
        .routes(routes!(jobs::create))
        .routes(routes!(jobs::delete))
        .routes(routes!(audio::transcribe))
        .routes(routes!(audio::translate));
    let read = OpenApiRouter::new()
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get))
        .routes(routes!(transcript::get))
        .routes(routes!(events::watch))
        .routes(routes!(models::list))
        .routes(routes!(models::get));
    let admin = OpenApiRouter::new()
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(dead_letters::discard));
    let groups = [(Scope::Jobs, jobs), (Scope::Read, read), (Scope::Admin, admin)];
    groups.into_iter().fold(open, |all, (scope, mut group)| {
        asks_for_key(group.get_openapi_mut(), scope);
        all.merge(guarded(scope, group))
    })
}

/// The OpenAPI document of exactly the routes that [`router`] serves.
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented(|_, group| group).into_openapi()
}

/// The whole API over `state`.
pub fn router(state: ApiState) -> Router {
    let guarded = |scope, group: OpenApiRouter<ApiState>| {
        group.route_layer(middleware::from_fn_with_state((state.clone(), scope), guard))
    };
    let (routes, openapi) = documented(guarded).split_for_parts();
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
