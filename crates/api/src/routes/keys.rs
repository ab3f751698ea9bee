//! For operators: API keys. Make one, look at all, revoke one.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use verbatim_core::api_key::{KeyName, KeyRecord, NewKey, Principal, Scope};
use verbatim_core::ids::{KeyId, TenantId};
use verbatim_core::job::TenantCaps;
use verbatim_core::options::Priority;
use verbatim_core::ports::Directory;
use verbatim_core::time::Timestamp;

use crate::audit::Subject;
use crate::dto::rfc3339;
use crate::error::{ApiError, chain};
use crate::extract::{Caller, JsonBody, Params, params};
use crate::problem::Problem;
use crate::state::ApiState;

/// The longest lifetime of a key that ends at all, in days: a hundred years.
const MAX_DAYS: u32 = 36_500;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Which keys to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct KeysQuery {
    /// Only those of this tenant.
    tenant: Option<String>,
}

/// The key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyOrder {
    /// Whose jobs its holder sees.
    #[schema(example = "acme")]
    tenant: String,
    /// What to call it.
    #[serde(default)]
    #[schema(example = "build server", max_length = 100)]
    name: String,
    /// What it allows: `jobs` (submit, cancel, read), `read` or `admin` (everything). `jobs` when absent.
    #[schema(example = json!(["jobs"]))]
    scopes: Option<Vec<String>>,
    /// The strongest priority its holder gets: `high` (default), `normal` or `low`.
    #[schema(example = "high")]
    max_priority: Option<String>,
    /// Jobs of the tenant that may run at once, by whichever of its keys, as long as this one is open; no cap when absent.
    #[schema(minimum = 1)]
    max_running: Option<u64>,
    /// Jobs of the tenant that may wait at once; the same holds.
    #[schema(minimum = 1)]
    max_queued: Option<u64>,
    /// Days after which it opens nothing any more; never when absent.
    #[schema(minimum = 1, maximum = 36_500)]
    expires_in_days: Option<u32>,
}

/// A key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Key)]
pub(crate) struct KeyView {
    /// Its public half.
    #[schema(example = "key_01JD8N3W0S5Y6T7E8Z9QK4M2VX")]
    id: String,
    /// Always `key`.
    #[schema(example = "key")]
    object: &'static str,
    /// What people call it.
    #[schema(example = "build server")]
    name: String,
    /// Whose jobs its holder sees.
    #[schema(example = "acme")]
    tenant: String,
    /// What it allows.
    #[schema(example = json!(["jobs"]))]
    scopes: Vec<&'static str>,
    /// The strongest priority its holder gets.
    #[schema(example = "high")]
    max_priority: &'static str,
    /// Jobs of the tenant that may run at once.
    max_running: Option<u64>,
    /// Jobs of the tenant that may wait at once.
    max_queued: Option<u64>,
    /// `open`, `expired` or `revoked`.
    #[schema(example = "open")]
    status: &'static str,
    /// When it was made (RFC 3339, UTC, milliseconds).
    #[schema(example = "2026-01-31T12:00:00.000Z")]
    created_at: String,
    /// When it stops to open anything; null for never.
    expires_at: Option<String>,
    /// When it was revoked.
    revoked_at: Option<String>,
}

impl KeyView {
    fn new(record: KeyRecord, now: Timestamp) -> Self {
        let status = match record.revoked_at {
            Some(_) => "revoked",
            None if record.is_open(now) => "open",
            None => "expired",
        };
        let KeyRecord { key, revoked_at } = record;
        let Principal { tenant, scopes, max_priority, caps } = key.principal;
        Self {
            id: key.id.into(),
            object: "key",
            name: key.name.into(),
            tenant: tenant.into(),
            scopes: scopes.into_iter().map(Scope::as_str).collect(),
            max_priority: max_priority.as_str(),
            max_running: caps.max_running,
            max_queued: caps.max_queued,
            status,
            created_at: rfc3339(key.created_at),
            expires_at: key.expires_at.map(rfc3339),
            revoked_at: revoked_at.map(rfc3339),
        }
    }
}

/// Every key, or every key of one tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyList {
    /// Always `list`.
    #[schema(example = "list")]
    object: &'static str,
    /// The keys, the oldest first; revoked ones too.
    data: Vec<KeyView>,
}

/// A key that was just made.
#[derive(Serialize, ToSchema)]
pub(crate) struct IssuedKey {
    /// The key as lists show it.
    #[serde(flatten)]
    view: KeyView,
    /// The whole key, for its holder. It is shown this once.
    #[schema(example = "vbk_01JD8N3W0S5Y6T7E8Z9QK4M2VX_…")]
    key: String,
}

/// List keys
///
/// Without their secrets, which nobody knows any more.
#[utoipa::path(get, path = "/v1/admin/keys", tag = "admin", operation_id = "list_keys", params(KeysQuery),
    responses(
        (status = 200, description = "The keys", body = KeyList),
        (status = 400, description = "`tenant` is no tenant's name", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`keys_off`: this service asks nobody for a key", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    subject: Subject,
    Params(query): Params<KeysQuery>,
) -> Result<Json<KeyList>, ApiError> {
    let tenant = query.tenant.filter(|tenant| !tenant.is_empty());
    let tenant = tenant.map(|tenant| params::tenant(&tenant)).transpose()?;
    if let Some(tenant) = &tenant {
        subject.set_tenant(tenant);
    }
    let records = directory(&state)?.list(tenant.as_ref()).await?;
    let now = state.clock.now();
    let data = records.into_iter().map(|record| KeyView::new(record, now)).collect();
    Ok(Json(KeyList { object: "list", data }))
}

/// Make a key
///
/// The answer is the only place where the whole key is ever shown.
#[utoipa::path(post, path = "/v1/admin/keys", tag = "admin", operation_id = "create_key",
    request_body(content = KeyOrder, content_type = "application/json"),
    responses(
        (status = 201, description = "The key", body = IssuedKey),
        (status = 400, description = "A field is wrong: `param` says which", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`keys_off`: this service asks nobody for a key", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`too_large`", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "`json_expected`", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "`out_of_space`: no key was made", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn create(
    State(state): State<ApiState>,
    subject: Subject,
    JsonBody(order): JsonBody<KeyOrder>,
) -> Result<(StatusCode, [(HeaderName, HeaderValue); 1], Json<IssuedKey>), ApiError> {
    let directory = directory(&state)?;
    let lifetime = order.lifetime()?;
    let name = KeyName::parse(&order.name).map_err(|error| refused("name", error))?;
    let (key, new) = NewKey::issue(name, order.principal()?, lifetime, state.clock.now(), state.ids.as_ref());
    subject.set_key(&new);
    directory.add(new.clone()).await?;
    applied(&state).await;
    let view = KeyView::new(KeyRecord { key: new, revoked_at: None }, state.clock.now());
    let unseen = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok((StatusCode::CREATED, [unseen], Json(IssuedKey { view, key: key.expose() })))
}

/// Revoke a key
///
/// From now on it opens nothing. Revoking again changes nothing. The key that asks cannot revoke itself: somebody has to
/// be left who can make keys.
#[utoipa::path(delete, path = "/v1/admin/keys/{id}", tag = "admin", operation_id = "revoke_key",
    params(("id" = String, Path, description = "The key's id", example = "key_01JD8N3W0S5Y6T7E8Z9QK4M2VX")),
    responses(
        (status = 204, description = "Revoked"),
        (status = 404, description = "No such key", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`keys_off`, or it is the key that asks (`own_key`)", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn revoke(
    State(state): State<ApiState>,
    caller: Caller,
    subject: Subject,
    path: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let directory = directory(&state)?;
    let id = path.ok().and_then(|Path(id)| KeyId::parse(&id).ok()).ok_or_else(no_such_key)?;
    let record = directory.find(&id).await?.ok_or_else(no_such_key)?;
    subject.set_key(&record.key);
    if caller.key.as_ref() == Some(&id) {
        let detail = "a key cannot revoke itself; make another one and revoke this one with it";
        return Err(ApiError::new(StatusCode::CONFLICT, "own_key", detail));
    }
    if !directory.revoke(&id).await? {
        return Err(no_such_key());
    }
    applied(&state).await;
    Ok(StatusCode::NO_CONTENT)
}

impl KeyOrder {
    fn principal(&self) -> Result<Principal, ApiError> {
        let scopes = self.scopes.as_ref().map_or_else(
            || Ok(vec![Scope::Jobs]),
            |names| {
                let parse = |name: &String| {
                    Scope::parse(name).ok_or_else(|| refused("scopes", "a scope is jobs, read or admin"))
                };
                names.iter().map(parse).collect()
            },
        )?;
        if scopes.is_empty() {
            return Err(refused("scopes", "a key without a scope would open nothing"));
        }
        let max_priority = match &self.max_priority {
            None => Priority::High,
            Some(name) => Priority::ALL
                .into_iter()
                .find(|priority| priority.as_str() == name)
                .ok_or_else(|| refused("max_priority", "a priority is high, normal or low"))?,
        };
        Ok(Principal {
            tenant: TenantId::parse(&self.tenant).map_err(|error| refused("tenant", error))?,
            scopes,
            max_priority,
            caps: TenantCaps {
                max_running: at_least_one("max_running", self.max_running)?,
                max_queued: at_least_one("max_queued", self.max_queued)?,
            },
        })
    }

    fn lifetime(&self) -> Result<Option<Duration>, ApiError> {
        match self.expires_in_days {
            None => Ok(None),
            Some(days) if (1..=MAX_DAYS).contains(&days) => Ok(Some(DAY * days)),
            Some(_) => Err(refused("expires_in_days", format!("it is from 1 to {MAX_DAYS}"))),
        }
    }
}

/// Puts in force what the tenant's keys say now. The key is made or revoked whether or not this succeeds at once.
async fn applied(state: &ApiState) {
    if let Err(error) = state.caps().apply(state).await {
        tracing::warn!(error = %chain(&error), "a key's caps are not in force yet; trying on");
    }
}

pub(crate) fn at_least_one(field: &'static str, cap: Option<u64>) -> Result<Option<u64>, ApiError> {
    match cap {
        Some(0) => Err(refused(field, "it is at least 1; leave it out for no cap")),
        cap => Ok(cap),
    }
}

pub(crate) fn refused(field: &'static str, why: impl std::fmt::Display) -> ApiError {
    ApiError::invalid("invalid_option", field, format!("`{field}`: {why}"))
}

fn no_such_key() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such key")
}

pub(crate) fn directory(state: &ApiState) -> Result<&dyn Directory, ApiError> {
    state.auth.as_deref().ok_or_else(|| {
        let detail = "this service asks nobody for a key, so there are none to look after";
        ApiError::new(StatusCode::CONFLICT, "keys_off", detail)
    })
}
