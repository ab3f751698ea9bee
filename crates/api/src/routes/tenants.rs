//! For operators: tenants and what they may take up. Look at all, at one, and cap one.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use verbatim_core::PortError;
use verbatim_core::api_key::KeyRecord;
use verbatim_core::caps::{Cap, CapSource, CapsInForce, TenantUse};
use verbatim_core::ids::TenantId;
use verbatim_core::job::TenantCaps;
use verbatim_core::ports::Directory;
use verbatim_core::time::Timestamp;

use super::keys::{at_least_one, directory};
use crate::audit::Subject;
use crate::dto::rfc3339;
use crate::error::ApiError;
use crate::extract::{JsonBody, Params, params};
use crate::problem::Problem;
use crate::state::ApiState;

/// Which tenants to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TenantsQuery {
    /// Where to go on: `next_cursor` of the page before.
    cursor: Option<String>,
    /// Tenants per page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<usize>,
}

/// The caps to give a tenant, in the place of those that it has of its own.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CapsOrder {
    /// Jobs of the tenant that may run at once; no cap of its own when absent or null.
    #[schema(minimum = 1)]
    max_running: Option<u64>,
    /// Jobs of the tenant that may wait at once; no cap of its own when absent or null.
    #[schema(minimum = 1)]
    max_queued: Option<u64>,
}

/// A tenant: what it may take up, and does.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tenant)]
pub(crate) struct TenantView {
    /// Its name.
    #[schema(example = "acme")]
    id: String,
    /// Always `tenant`.
    #[schema(example = "tenant")]
    object: &'static str,
    /// Jobs that may run at once: the tenant's own cap.
    #[schema(example = 2)]
    max_running: Option<u64>,
    /// Jobs that may wait at once: the tenant's own cap.
    max_queued: Option<u64>,
    /// What holds: of its own caps and those of its open keys the strictest.
    in_force: InForce,
    /// Its keys that open anything, the oldest first, with the caps that each has.
    keys: Vec<CappedKey>,
    /// Jobs being worked on.
    #[schema(example = 2)]
    running: u64,
    /// Jobs that wait, for a worker or for their time.
    #[schema(example = 40)]
    queued: u64,
    /// Submissions that are remembered.
    #[schema(example = 340)]
    submissions: u64,
}

/// The caps that hold for a tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InForce {
    /// Of running jobs.
    max_running: CapView,
    /// Of waiting jobs.
    max_queued: CapView,
}

/// A cap that holds.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Cap)]
pub(crate) struct CapView {
    /// How many; null for no cap.
    #[schema(example = 2)]
    limit: Option<u64>,
    /// Who says so: `tenant` for its own cap, and ids of keys. Each of them holds without the others.
    #[schema(example = json!(["tenant", "key_01JD8N3W0S5Y6T7E8Z9QK4M2VX"]))]
    set_by: Vec<String>,
}

/// A key, as far as it caps its tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CappedKey {
    /// Its public half.
    #[schema(example = "key_01JD8N3W0S5Y6T7E8Z9QK4M2VX")]
    id: String,
    /// What people call it.
    #[schema(example = "build server")]
    name: String,
    /// When it stops to open anything, and its caps stop to hold; null for never.
    expires_at: Option<String>,
    /// Jobs of the tenant that may run at once.
    max_running: Option<u64>,
    /// Jobs of the tenant that may wait at once.
    max_queued: Option<u64>,
}

impl From<Cap> for CapView {
    fn from(Cap { most, set_by }: Cap) -> Self {
        let named = |source| match source {
            CapSource::Tenant => "tenant".to_owned(),
            CapSource::Key(id) => id.into(),
        };
        Self { limit: most, set_by: set_by.into_iter().map(named).collect() }
    }
}

/// A page of tenants.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TenantList {
    /// Always `list`.
    #[schema(example = "list")]
    object: &'static str,
    /// The tenants, in order of their names.
    data: Vec<TenantView>,
    /// Whether there are more.
    has_more: bool,
    /// What to ask for as `cursor`; null on the last page.
    next_cursor: Option<String>,
}

/// What the directory knows of a tenant.
#[derive(Debug, Default)]
struct Known {
    own: TenantCaps,
    keys: Vec<KeyRecord>,
}

impl Known {
    fn shown(self, takes_up: TenantUse, now: Timestamp) -> TenantView {
        let CapsInForce { max_running, max_queued } = CapsInForce::of(self.own, &self.keys, now);
        let TenantUse { tenant, running, waiting, submissions, caps: _ } = takes_up;
        let open = self.keys.into_iter().filter(|record| record.is_open(now));
        let capped = |KeyRecord { key, .. }: KeyRecord| CappedKey {
            id: key.id.into(),
            name: key.name.into(),
            expires_at: key.expires_at.map(rfc3339),
            max_running: key.principal.caps.max_running,
            max_queued: key.principal.caps.max_queued,
        };
        TenantView {
            id: tenant.into(),
            object: "tenant",
            max_running: self.own.max_running,
            max_queued: self.own.max_queued,
            in_force: InForce { max_running: max_running.into(), max_queued: max_queued.into() },
            keys: open.map(capped).collect(),
            running,
            queued: waiting,
            submissions,
        }
    }
}

/// List tenants
///
/// Those that have or had a key, or caps of their own, in order of their names.
#[utoipa::path(get, path = "/v1/admin/tenants", tag = "admin", operation_id = "list_tenants", params(TenantsQuery),
    responses(
        (status = 200, description = "A page of tenants", body = TenantList),
        (status = 400, description = "A parameter is wrong: `param` says which", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`keys_off`: this service has one tenant and asks nobody for a key", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    Params(query): Params<TenantsQuery>,
) -> Result<Json<TenantList>, ApiError> {
    let limit = params::limit(query.limit)?;
    let after = query.cursor.filter(|cursor| !cursor.is_empty());
    let after = after.map(|cursor| TenantId::parse(&cursor)).transpose().map_err(|_| {
        ApiError::invalid("invalid_parameter", "cursor", "`cursor` is the `next_cursor` of a page")
    })?;
    let all = known(directory(&state)?).await?;
    let later = |(tenant, _): &(TenantId, Known)| after.as_ref().is_none_or(|after| tenant > after);
    let mut page: Vec<(TenantId, Known)> = all.into_iter().filter(later).take(limit + 1).collect();
    let has_more = page.len() > limit;
    page.truncate(limit);
    let names: Vec<TenantId> = page.iter().map(|(tenant, _)| tenant.clone()).collect();
    let next_cursor = names.last().filter(|_| has_more).map(TenantId::to_string);
    let (figures, now) = (state.admin.tenants(&names).await?, state.clock.now());
    let data = page.into_iter().zip(figures).map(|((_, known), use_)| known.shown(use_, now)).collect();
    Ok(Json(TenantList { object: "list", data, has_more, next_cursor }))
}

/// Show a tenant
///
/// Its own caps, those of its keys, those that hold and who sets them, and what it takes up now.
#[utoipa::path(get, path = "/v1/admin/tenants/{tenant}", tag = "admin", operation_id = "get_tenant",
    params(("tenant" = String, Path, description = "The tenant's name", example = "acme")),
    responses(
        (status = 200, description = "The tenant", body = TenantView),
        (status = 404, description = "Nobody ever had a key of this tenant, and it has no jobs", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`keys_off`", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    subject: Subject,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<TenantView>, ApiError> {
    let tenant = named(path)?;
    subject.set_tenant(&tenant);
    Ok(Json(look_up(&state, directory(&state)?, &tenant).await?))
}

/// Cap a tenant
///
/// Its own caps, in the place of those that it had; they hold whichever of its keys is used, and from now on: jobs that run
/// go on, jobs that wait do not begin beyond them. A stricter cap of a key holds beside them.
#[utoipa::path(put, path = "/v1/admin/tenants/{tenant}", tag = "admin", operation_id = "cap_tenant",
    params(("tenant" = String, Path, description = "The tenant's name", example = "acme")),
    request_body(content = CapsOrder, content_type = "application/json"),
    responses(
        (status = 200, description = "The tenant as it is now", body = TenantView),
        (status = 400, description = "A field is wrong: `param` says which", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Nobody ever had a key of this tenant, and it has no jobs", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`keys_off`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`too_large`", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "`json_expected`", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "`out_of_space`: nothing was changed", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn cap(
    State(state): State<ApiState>,
    subject: Subject,
    path: Result<Path<String>, PathRejection>,
    JsonBody(order): JsonBody<CapsOrder>,
) -> Result<Json<TenantView>, ApiError> {
    let tenant = named(path)?;
    subject.set_tenant(&tenant);
    let directory = directory(&state)?;
    let CapsOrder { max_running, max_queued } = order;
    let caps = TenantCaps {
        max_running: at_least_one("max_running", max_running)?,
        max_queued: at_least_one("max_queued", max_queued)?,
    };
    look_up(&state, directory, &tenant).await?;
    directory.cap(&tenant, caps).await?;
    // Who is told that it failed asks again, which is harmless; meanwhile the keeper tries, too.
    state.caps().apply(&state).await?;
    Ok(Json(look_up(&state, directory, &tenant).await?))
}

/// The tenant, if there ever was anything of it.
async fn look_up(
    state: &ApiState,
    directory: &dyn Directory,
    tenant: &TenantId,
) -> Result<TenantView, ApiError> {
    let own = directory.caps().await?.into_iter().find(|(name, _)| name == tenant);
    let keys = directory.list(Some(tenant)).await?;
    let figures = state.admin.tenants(std::slice::from_ref(tenant)).await?.pop();
    let takes_up = figures.ok_or_else(no_such_tenant)?;
    let has_jobs = takes_up.running + takes_up.waiting + takes_up.submissions > 0;
    if own.is_none() && keys.is_empty() && !has_jobs {
        return Err(no_such_tenant());
    }
    let known = Known { own: own.map(|(_, caps)| caps).unwrap_or_default(), keys };
    Ok(known.shown(takes_up, state.clock.now()))
}

/// Every tenant that the directory knows.
async fn known(directory: &dyn Directory) -> Result<BTreeMap<TenantId, Known>, PortError> {
    let mut tenants: BTreeMap<TenantId, Known> = BTreeMap::new();
    for (tenant, own) in directory.caps().await? {
        tenants.entry(tenant).or_default().own = own;
    }
    for record in directory.list(None).await? {
        tenants.entry(record.key.principal.tenant.clone()).or_default().keys.push(record);
    }
    Ok(tenants)
}

/// The tenant of the path. What is no name names nobody: 404.
fn named(path: Result<Path<String>, PathRejection>) -> Result<TenantId, ApiError> {
    path.ok().and_then(|Path(name)| TenantId::parse(&name).ok()).ok_or_else(no_such_tenant)
}

fn no_such_tenant() -> ApiError {
    let detail = "there is no such tenant: nobody ever had a key of it, and it has no jobs";
    ApiError::new(StatusCode::NOT_FOUND, "not_found", detail)
}
