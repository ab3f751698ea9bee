//! The audit of the API: every act of a known caller on an object that has a name leaves a line. [`crate::router`] names the
//! acts, [`crate::auth::guard`] begins and ends them; handlers only say what a path does not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::RequestExt;
use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::http::Method;
use axum::http::request::Parts;
use axum::response::Response;
use utoipa::openapi::OpenApi;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa_axum::router::UtoipaMethodRouter;
use verbatim_core::api_key::{NewKey, Principal, Scope};
use verbatim_core::ids::{SubmissionId, TenantId};
use verbatim_telemetry::audit::{AuditLine, AuditLog};

use crate::edge::ClientAddress;
use crate::error::ApiError;
use crate::extract::Caller;
use crate::observe::{RequestId, holds_key};
use crate::state::ApiState;

/// Where the OpenAPI document says by which name the audit knows what an operation does.
const ACTION: &str = "x-audit-action";
/// The object of lists, and of what is refused before it has a name.
const NO_NAME: &str = "*";
/// The longest object that is written down, in characters.
const MAX_OBJECT: usize = 128;

/// These routes, whose use is written down under this name.
pub(crate) fn audited(
    action: &'static str,
    mut routes: UtoipaMethodRouter<ApiState>,
) -> UtoipaMethodRouter<ApiState> {
    for item in routes.1.paths.values_mut() {
        let PathItem { get, put, post, delete, patch, .. } = item;
        for operation in [get, put, post, delete, patch].into_iter().flatten() {
            let named = Extensions::from_iter([(ACTION, action)]);
            operation.extensions.get_or_insert_default().merge(named);
        }
    }
    routes
}

/// The names of acts by method and route.
pub(crate) struct Actions(HashMap<(Method, String), Arc<str>>);

impl Actions {
    /// Those that the document has.
    pub(crate) fn of(document: &OpenApi) -> Self {
        let mut actions = HashMap::new();
        for (path, item) in &document.paths.paths {
            let PathItem { get, put, post, delete, patch, .. } = item;
            let operations = [
                (Method::GET, get),
                (Method::PUT, put),
                (Method::POST, post),
                (Method::DELETE, delete),
                (Method::PATCH, patch),
            ];
            for (method, operation) in operations {
                if let Some(action) = operation.as_ref().and_then(action) {
                    actions.insert((method, path.clone()), action);
                }
            }
        }
        Self(actions)
    }

    /// The name of what this request does, if it has one.
    pub(crate) fn find(&self, method: &Method, route: &str) -> Option<Arc<str>> {
        // Whoever asks for a head asks for what it is the head of.
        let method = if method == Method::HEAD { Method::GET } else { method.clone() };
        self.0.get(&(method, route.to_owned())).cloned()
    }
}

fn action(operation: &Operation) -> Option<Arc<str>> {
    Some(operation.extensions.as_ref()?.get(ACTION)?.as_str()?.into())
}

/// What an act is on, as far as the path does not say it.
#[derive(Debug, Default)]
struct Details {
    object: Option<String>,
    tenant: Option<TenantId>,
    scopes: Option<String>,
}

/// What an act is on, for handlers that know more of it than the path says. Having one proves that the act leaves a line:
/// whatever hands out a transcript's words asks for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subject(Arc<Mutex<Details>>);

impl Subject {
    /// The key that is made or revoked, with whose it is and what it allows: an admin's looks different.
    pub(crate) fn set_key(&self, key: &NewKey) {
        let Principal { tenant, scopes, .. } = &key.principal;
        self.change(Details {
            object: Some(key.id.to_string()),
            tenant: Some(tenant.clone()),
            scopes: Some(listed(scopes)),
        });
    }

    /// The job whose words are handed out, or that was made.
    pub(crate) fn set_job(&self, id: &SubmissionId) {
        self.change(Details { object: Some(id.to_string()), ..Details::default() });
    }

    /// What one tenant has.
    pub(crate) fn set_tenant(&self, tenant: &TenantId) {
        self.change(Details { tenant: Some(tenant.clone()), ..Details::default() });
    }

    fn change(&self, details: Details) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = details;
    }
}

impl FromRequestParts<ApiState> for Subject {
    type Rejection = ApiError;

    /// A route without a name in the audit has no subject: it fails rather than act unseen.
    async fn from_request_parts(parts: &mut Parts, _state: &ApiState) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!("a route that tells the audit what it acts on has no name there");
            ApiError::internal()
        })
    }
}

/// An act under way. It leaves its line also when nobody waits for its end.
pub(crate) struct Act {
    log: Arc<AuditLog>,
    action: Arc<str>,
    object: String,
    subject: Subject,
    caller: Caller,
    client: Option<ClientAddress>,
    request: Option<RequestId>,
    is_written: bool,
}

impl Act {
    /// What `caller` begins to do with this request.
    pub(crate) async fn begin(
        log: &Arc<AuditLog>,
        action: Arc<str>,
        caller: &Caller,
        request: &mut Request,
    ) -> Self {
        let named = request.extract_parts::<RawPathParams>().await;
        let object = named.map_or_else(
            // No UTF-8.
            |_| "?".to_owned(),
            |parameters| parameters.iter().map(|(_, value)| shown(value)).collect::<Vec<_>>().join("/"),
        );
        let subject = Subject::default();
        let extensions = request.extensions_mut();
        extensions.insert(subject.clone());
        Self {
            log: Arc::clone(log),
            action,
            object: if object.is_empty() { NO_NAME.to_owned() } else { object },
            subject,
            caller: caller.clone(),
            client: extensions.get::<ClientAddress>().copied(),
            request: extensions.get::<RequestId>().cloned(),
            is_written: false,
        }
    }

    /// The act came to this answer.
    pub(crate) fn answered(self, answer: &Response) {
        let error = answer.extensions().get::<Arc<ApiError>>().map(|error| error.code);
        let done = if answer.status().is_success() { "done" } else { "failed" };
        self.ended(error.unwrap_or(done));
    }

    /// The act came to this end: `done`, or the code of an error.
    pub(crate) fn ended(mut self, outcome: &'static str) {
        self.write(outcome);
    }

    fn write(&mut self, outcome: &'static str) {
        self.is_written = true;
        let Self { log, action, object, subject, caller, client, request, is_written: _ } = self;
        let details = subject.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.record(&AuditLine {
            action,
            object: details.object.as_deref().unwrap_or(object),
            object_tenant: details.tenant.as_ref().map(TenantId::as_str),
            object_scopes: details.scopes.as_deref(),
            outcome,
            via: "api",
            actor: None,
            tenant: Some(caller.principal.tenant.as_str()),
            key: Some(caller.name()),
            scopes: Some(&listed(&caller.principal.scopes)),
            client: client.map(|ClientAddress(address)| address.to_string()).as_deref(),
            request: request.as_ref().map(RequestId::as_str),
        });
    }
}

impl Drop for Act {
    fn drop(&mut self) {
        if !self.is_written {
            // Its client has gone, and nobody knows how far it came.
            self.write(if std::thread::panicking() { "internal" } else { "unanswered" });
        }
    }
}

fn listed(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(",")
}

/// What a client calls an object: it must not be able to forge a line, and must not have put a secret into one.
fn shown(name: &str) -> String {
    if holds_key(name) {
        return "[hidden]".to_owned();
    }
    name.chars().take(MAX_OBJECT).flat_map(char::escape_debug).collect()
}
