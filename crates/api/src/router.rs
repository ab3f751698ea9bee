//! Every route on one screen. One with an object in its path is `audited`, as a test of the OpenAPI document demands; so is
//! one that answers with a transcript, which takes a [`crate::audit::Subject`].

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};
use verbatim_core::api_key::Scope;

use crate::audit::{Actions, audited};
use crate::auth::{Guard, guard};
use crate::edge::{cross_origin, only_chunked, only_own_pages, pages_policy, security};
use crate::limits::count;
use crate::observe::{observe, panicked};
use crate::openapi::{Document, TitlePage, asks_for_key, tells_limits};
use crate::routes::{
    audio, dead_letters, events, fallback, jobs, keys, models, ops, providers, stats, tenants, transcript,
};
use crate::stages::enter;
use crate::state::ApiState;

/// A group of routes: which scope a key needs for them, and whether they make work, which is counted.
#[derive(Debug, Clone, Copy)]
struct Group {
    scope: Scope,
    makes_work: bool,
}

/// Every route, in groups; `guarded` puts a group behind what guards it. Routes of no group need no key.
fn documented(
    guarded: impl Fn(Option<Group>, OpenApiRouter<ApiState>) -> OpenApiRouter<ApiState>,
) -> OpenApiRouter<ApiState> {
    let open = OpenApiRouter::with_openapi(TitlePage::openapi())
        .routes(routes!(ops::healthz))
        .routes(routes!(ops::readyz))
        .merge(guarded(None, OpenApiRouter::new().routes(routes!(ops::metrics))));
    let work = OpenApiRouter::new()
        .routes(audited("job.create", routes!(jobs::create)))
        .routes(audited("transcript.create", routes!(audio::transcribe)))
        .routes(audited("transcript.create", routes!(audio::translate)));
    let jobs = OpenApiRouter::new().routes(audited("job.delete", routes!(jobs::delete)));
    let read = OpenApiRouter::new()
        .routes(routes!(jobs::list))
        .routes(audited("job.read", routes!(jobs::get)))
        .routes(audited("transcript.read", routes!(transcript::get)))
        .routes(audited("job.watch", routes!(events::watch)))
        .routes(routes!(models::list))
        .routes(audited("model.read", routes!(models::get)))
        .routes(routes!(stats::get));
    let admin = OpenApiRouter::new()
        .routes(audited("dead_letter.list", routes!(dead_letters::list)))
        .routes(audited("dead_letter.redrive", routes!(dead_letters::redrive)))
        .routes(audited("dead_letter.discard", routes!(dead_letters::discard)))
        .routes(routes!(providers::list))
        .routes(audited("provider.pause", routes!(providers::pause)))
        .routes(audited("provider.resume", routes!(providers::resume)))
        .routes(audited("tenant.list", routes!(tenants::list)))
        .routes(audited("tenant.read", routes!(tenants::get)))
        .routes(audited("tenant.cap", routes!(tenants::cap)))
        .routes(audited("key.list", routes!(keys::list)))
        .routes(audited("key.create", routes!(keys::create)))
        .routes(audited("key.revoke", routes!(keys::revoke)));
    let groups = [
        (Scope::Jobs, true, work),
        (Scope::Jobs, false, jobs),
        (Scope::Read, false, read),
        (Scope::Admin, false, admin),
    ];
    groups.into_iter().fold(open, |all, (scope, makes_work, mut routes)| {
        asks_for_key(routes.get_openapi_mut(), scope);
        if makes_work {
            tells_limits(routes.get_openapi_mut());
        }
        all.merge(guarded(Some(Group { scope, makes_work }), routes))
    })
}

/// The OpenAPI document of exactly the routes that [`router`] serves.
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented(|_, routes| routes).into_openapi()
}

/// The whole API over `state`.
pub fn router(state: ApiState) -> Router {
    let guarded = |group: Option<Group>, mut routes: OpenApiRouter<ApiState>| {
        if let Some(Group { scope, makes_work }) = group {
            if makes_work {
                routes = routes.route_layer(middleware::from_fn_with_state(state.clone(), count));
            }
            // Outside of it, so that a request is counted for whom it is.
            let actions = Arc::new(Actions::of(routes.get_openapi()));
            let guarded_by = Guard { state: state.clone(), needed: scope, actions };
            routes = routes.route_layer(middleware::from_fn_with_state(guarded_by, guard));
        }
        // Outside of that, so that guessing keys counts.
        match state.address_rate() {
            Some(rate) => routes.route_layer(rate.layer()),
            None => routes,
        }
    };
    let (routes, openapi) = documented(guarded).split_for_parts();
    let document = Document::of(&openapi);
    let described = Router::new().route("/openapi.json", get(async move |headers| document.answer(&headers)));
    let pages = Router::from(SwaggerUi::new("/docs").config(Config::from("/openapi.json"))).merge(described);
    let pages = match state.address_rate() {
        Some(rate) => pages.route_layer(rate.layer()),
        None => pages,
    };
    let router = routes
        .merge(pages_policy(pages))
        .fallback(fallback::not_found)
        .method_not_allowed_fallback(fallback::method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(state.clone(), enter))
        .layer(cross_origin(&state.edge.allowed_origins))
        // Outside of that: what a foreign page asks before it sends a request is refused as well.
        .layer(middleware::from_fn_with_state(state.clone(), only_own_pages))
        .layer(middleware::from_fn(only_chunked));
    security(router)
        // `observe` bounds every body; axum's own limit of 2 MB would cut uploads.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(state.clone(), observe))
        .with_state(state)
}
