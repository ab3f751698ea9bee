//! The token service: one short-lived Azure token per region and key, shared by all nodes, renewed ahead of its expiry by
//! one of them for all.
//!
//! A copy in memory stands in front, so that a request costs no call of the store. When the copy is due for renewal, one
//! task of this process looks into the shared cell: it finds a newer token there, or takes the cell's lock and has one
//! issued, or learns that another node is at it. Whoever has a token that is still good never waits for any of this.
//!
//! While the store is down a node goes on with its copy as long as that is good, then has tokens issued for itself alone:
//! a few tokens too many are better than jobs that fail.

mod cell;
mod failure;
mod issuer;
mod secret;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue, InvalidHeaderValue};
use secrecy::{ExposeSecret, SecretString};
use sha2::Digest as _;
use verbatim_core::PortError;
use verbatim_core::ids::IdSource;
use verbatim_core::ports::SharedState;
use verbatim_core::ports::engine::EngineError;
use verbatim_core::ports::shared_state::update;
use verbatim_core::time::{Clock, Timestamp};
use verbatim_telemetry::Metrics;
use verbatim_telemetry::providers::TokenOutcome;

use self::cell::{Ask, CELL_TTL, Claim, LARGEST_JITTER, Share, TokenCell};
use self::issuer::HttpIssuer;
use self::secret::Digest;

use super::config::AzureConfigError;

pub use self::failure::TokenFailure;
pub use self::issuer::TokenIssuer;
pub use self::secret::AccessToken;

/// The header that carries a key.
pub(super) const KEY_HEADER: HeaderName = HeaderName::from_static("ocp-apim-subscription-key");
/// Before the names of the cells.
const PREFIX: &str = "azure-token:";
/// How long the issuer is waited for.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a request without a token waits for one: another node's lock has to lapse in that time, and an issue of our
/// own has to fit.
const PATIENCE: Duration = Duration::from_secs(25);
/// Time between looks at the cell while another node renews and there is no token.
const POLL: Duration = Duration::from_millis(200);
/// When a renewal was due and did not happen, the old token serves so much longer before the next look.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What the service needs.
#[derive(Clone)]
pub struct TokenPorts {
    /// Where nodes share the tokens.
    pub shared: Arc<dyn SharedState>,
    /// How old this node's copy is.
    pub clock: Arc<dyn Clock>,
    /// Names of lock holders, and jitter.
    pub ids: Arc<dyn IdSource>,
    /// Where tokens are counted.
    pub metrics: Arc<Metrics>,
}

/// For what a token is good: one key in one region.
#[derive(Clone)]
pub struct SpeechAccount {
    region: String,
    key: SecretString,
    issuer: Url,
    cell: String,
}

impl SpeechAccount {
    /// The account of `key` in `region`, whose tokens come from `issuer`.
    pub fn new(region: &str, key: SecretString, issuer: Url) -> Self {
        // The issuer is hashed too: two endpoints that are given the same key do not share tokens.
        let mut hash = sha2::Sha256::new();
        hash.update(issuer.as_str());
        hash.update([0]);
        hash.update(key.expose_secret());
        let cell = format!("{PREFIX}{region}:{}", hex::encode(hash.finalize()));
        Self { region: region.to_owned(), key, issuer, cell }
    }

    /// The region.
    pub fn region(&self) -> &str {
        &self.region
    }
}

impl fmt::Debug for SpeechAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpeechAccount").field("region", &self.region).finish_non_exhaustive()
    }
}

/// A key as the value of a header, marked as sensitive.
pub(super) fn key_header(key: &SecretString) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(key.expose_secret())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Keeps the tokens. Make one per process and share it among the engines.
pub struct TokenService {
    ports: TokenPorts,
    issuer: Arc<dyn TokenIssuer>,
    accounts: Mutex<HashMap<String, Arc<Account>>>,
}

/// What this process knows of one account.
struct Account {
    memory: Mutex<Memory>,
    /// Held by the one task that looks for a newer token.
    gate: tokio::sync::Mutex<()>,
    jitter: Duration,
}

#[derive(Default)]
struct Memory {
    copy: Option<Copied>,
    /// The latest token that the service refused.
    refused: Option<Digest>,
    quiet: Option<(TokenFailure, Timestamp)>,
}

struct Copied {
    token: AccessToken,
    look_at: Timestamp,
    good_until: Timestamp,
}

/// What a look at the memory finds.
enum Found {
    /// A token that is not due.
    Fresh(AccessToken),
    /// One that is good but due for renewal.
    Due(AccessToken),
    /// Nothing, and there is no point in asking yet.
    Quiet(TokenFailure),
    Nothing,
}

impl Account {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, now: Timestamp) -> Found {
        let memory = self.memory();
        match &memory.copy {
            Some(copy) if now < copy.look_at.min(copy.good_until) => Found::Fresh(copy.token.clone()),
            Some(copy) if now < copy.good_until => Found::Due(copy.token.clone()),
            _ => match &memory.quiet {
                Some((failure, until)) if now < *until => {
                    Found::Quiet(failure.clone().with_time_left(until.since(now)))
                }
                _ => Found::Nothing,
            },
        }
    }

    /// Keeps a copy of what was true at `at`; a copy that is due is not looked at again for a moment.
    fn keep(&self, share: Share, at: Timestamp) -> AccessToken {
        let look_in = if share.renew_in.is_zero() { LOOK_AGAIN } else { share.renew_in };
        let token = share.token.clone();
        let mut memory = self.memory();
        memory.quiet = None;
        memory.copy = Some(Copied {
            token: share.token,
            look_at: at.plus(look_in),
            good_until: at.plus(share.good_for),
        });
        token
    }
}

type Answer = Result<(AccessToken, TokenOutcome), TokenFailure>;

impl TokenService {
    /// A service whose tokens are issued over HTTP.
    ///
    /// # Errors
    /// When there can be no HTTP client.
    pub fn new(ports: TokenPorts) -> Result<Self, AzureConfigError> {
        let client = crate::http::client().map_err(|error| AzureConfigError::Client(error.to_string()))?;
        Ok(Self::with_issuer(ports, Arc::new(HttpIssuer::new(client))))
    }

    /// A service with another issuer.
    pub fn with_issuer(ports: TokenPorts, issuer: Arc<dyn TokenIssuer>) -> Self {
        Self { ports, issuer, accounts: Mutex::default() }
    }

    /// A token that is good for the next request.
    ///
    /// # Errors
    /// `EngineUnavailable` when the key is refused or none can be had now, `Throttled` when the issuer says so.
    pub async fn token(&self, account: &SpeechAccount) -> Result<AccessToken, EngineError> {
        let answer = match tokio::time::timeout(PATIENCE, self.obtain(account)).await {
            Ok(answer) => answer,
            Err(_) => Err(TokenFailure::unavailable(None)),
        };
        let outcome = answer.as_ref().map_or(TokenOutcome::Failed, |(_, outcome)| *outcome);
        self.ports.metrics.providers.count_token(outcome);
        answer.map(|(token, _)| token).map_err(EngineError::from)
    }

    /// Says that the service refused this very token. The next call of [`Self::token`] forgets it everywhere and gives
    /// another; saying it many times of one token causes one renewal.
    pub fn refused(&self, account: &SpeechAccount, token: &AccessToken) {
        let state = self.account(account);
        let mut memory = state.memory();
        memory.refused = Some(token.digest());
        memory.copy.take_if(|copy| copy.token == *token);
    }

    fn account(&self, account: &SpeechAccount) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let state = accounts.entry(account.cell.clone()).or_insert_with(|| {
            Arc::new(Account {
                memory: Mutex::default(),
                gate: tokio::sync::Mutex::new(()),
                jitter: LARGEST_JITTER.mul_f64(self.ports.ids.fraction()),
            })
        });
        Arc::clone(state)
    }

    async fn obtain(&self, account: &SpeechAccount) -> Answer {
        let state = self.account(account);
        let _gate = match state.find(self.ports.clock.now()) {
            Found::Fresh(token) => return Ok((token, TokenOutcome::Reused)),
            Found::Quiet(failure) => return Err(failure),
            Found::Nothing => state.gate.lock().await,
            Found::Due(token) => match state.gate.try_lock() {
                Ok(gate) => gate,
                // Somebody is at it.
                Err(_) => return Ok((token, TokenOutcome::Reused)),
            },
        };
        // Whoever had the gate before may have found what is needed.
        match state.find(self.ports.clock.now()) {
            Found::Fresh(token) => return Ok((token, TokenOutcome::Reused)),
            Found::Quiet(failure) => return Err(failure),
            Found::Due(_) | Found::Nothing => {}
        }
        self.look(account, &state).await
    }

    /// Looks into the cell until there is a token, or a reason why there is none.
    async fn look(&self, account: &SpeechAccount, state: &Account) -> Answer {
        let ask =
            Ask { holder: self.ports.ids.ulid(), jitter: state.jitter, refused: state.memory().refused };
        loop {
            let now = self.ports.clock.now();
            let old = match self.claim(account, &ask).await {
                Err(error) => return self.alone(account, state, &error).await,
                Ok(Claim::Use(share)) => Some(share),
                Ok(Claim::Renew { fence, old }) => match self.renew(account, state, &ask, fence).await {
                    Ok(Some(token)) => return Ok((token, TokenOutcome::Issued)),
                    // Somebody took over; the cell has another one.
                    Ok(None) => continue,
                    Err(failure) if old.is_none() => return Err(failure),
                    Err(_) => old,
                },
                Ok(Claim::Quiet { failure, left, old: None }) => {
                    state.memory().quiet = Some((failure.clone(), now.plus(left)));
                    return Err(failure.with_time_left(left));
                }
                Ok(Claim::Wait { left, old: None }) => {
                    // A little longer than the lock, so that it is found lapsed.
                    tokio::time::sleep(POLL.min(left + Duration::from_millis(1))).await;
                    continue;
                }
                Ok(Claim::Quiet { old, .. } | Claim::Wait { old, .. }) => old,
            };
            let Some(share) = old else { return Err(TokenFailure::unavailable(None)) };
            return Ok((state.keep(share, now), TokenOutcome::Reused));
        }
    }

    async fn claim(&self, account: &SpeechAccount, ask: &Ask) -> Result<Claim, PortError> {
        let change = |cell: &mut TokenCell, now| cell.claim(now, ask);
        update(self.ports.shared.as_ref(), &account.cell, CELL_TTL, change).await
    }

    /// Has a token issued under the lock. `None` when the lock had lapsed and another node took over.
    async fn renew(
        &self,
        account: &SpeechAccount,
        state: &Account,
        ask: &Ask,
        fence: u64,
    ) -> Result<Option<AccessToken>, TokenFailure> {
        let (shared, holder) = (self.ports.shared.as_ref(), ask.holder.as_str());
        let begun = self.ports.clock.now();
        let token = match self.issue(account).await {
            Ok(token) => token,
            Err(failure) => {
                let quiet_until = self.ports.clock.now().plus(failure.quiet_for());
                state.memory().quiet = Some((failure.clone(), quiet_until));
                let change = |cell: &mut TokenCell, now| cell.give_up(holder, fence, &failure, now);
                if let Err(error) = update(shared, &account.cell, CELL_TTL, change).await {
                    tracing::warn!(%error, "the other nodes cannot be told that no token was issued");
                }
                return Err(failure);
            }
        };
        let age = self.ports.clock.now().since(begun);
        let change = |cell: &mut TokenCell, now| cell.store(holder, fence, &token, age, now);
        match update(shared, &account.cell, CELL_TTL, change).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(region = %account.region, "a token came after its lock had lapsed; it is dropped");
                return Ok(None);
            }
            // The others find out by themselves; this node has its token.
            Err(error) => {
                tracing::warn!(%error, "an Azure token could not be shared; it serves this node alone")
            }
        }
        Ok(Some(state.keep(Share::new(token, Duration::ZERO, state.jitter), begun)))
    }

    /// What to do without the store.
    async fn alone(&self, account: &SpeechAccount, state: &Account, error: &PortError) -> Answer {
        let now = self.ports.clock.now();
        if let Found::Due(token) = state.find(now) {
            tracing::warn!(%error, "the shared state is out of reach; the Azure token at hand is used on");
            if let Some(copy) = &mut state.memory().copy {
                copy.look_at = now.plus(LOOK_AGAIN);
            }
            return Ok((token, TokenOutcome::Reused));
        }
        tracing::warn!(%error, "the shared state is out of reach; an Azure token is issued for this node alone");
        match self.issue(account).await {
            Ok(token) => {
                let share = Share::new(token, Duration::ZERO, state.jitter);
                Ok((state.keep(share, now), TokenOutcome::Issued))
            }
            Err(failure) => {
                state.memory().quiet = Some((failure.clone(), now.plus(failure.quiet_for())));
                Err(failure)
            }
        }
    }

    async fn issue(&self, account: &SpeechAccount) -> Result<AccessToken, TokenFailure> {
        match tokio::time::timeout(ISSUE_TIMEOUT, self.issuer.issue(account)).await {
            Ok(issued) => {
                let token = AccessToken::from(issued?);
                tracing::debug!(region = %account.region, "an Azure token was issued");
                Ok(token)
            }
            Err(_) => {
                tracing::warn!(region = %account.region, "the issuer of Azure tokens does not answer");
                Err(TokenFailure::unavailable(None))
            }
        }
    }
}
