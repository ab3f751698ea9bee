//! Calls with credentials: one renewal when a token is refused, answers of bounded size, refusals as failures.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, RequestBuilder, Url};
use serde::de::DeserializeOwned;
use verbatim_core::ports::engine::EngineError;
use verbatim_core::{BadJson, CancellationToken};

use super::config::AzureAuth;
use super::failures::{ServiceError, nonsense, refusal};
use super::tokens::{AccessToken, KEY_HEADER, SpeechAccount, TokenService};
use crate::http::{Answer, Bounds, call};

/// A transcript of many hours with every word is a few megabytes.
const LARGEST_ANSWER: usize = 128 << 20;

/// A call that did not go well.
pub(super) struct Failed {
    /// The status, when there was an answer.
    pub(super) status: Option<u16>,
    pub(super) error: EngineError,
}

impl From<Failed> for EngineError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl From<EngineError> for Failed {
    fn from(error: EngineError) -> Self {
        Self { status: None, error }
    }
}

/// Makes calls for one account.
pub(super) struct Caller {
    pub(super) client: Client,
    pub(super) auth: AzureAuth,
    pub(super) key: HeaderValue,
    pub(super) account: SpeechAccount,
    pub(super) tokens: Arc<TokenService>,
}

/// The time that a call may take, and the token that ends it early.
#[derive(Clone, Copy)]
pub(super) struct CallTimeout<'a> {
    pub(super) timeout: Duration,
    pub(super) cancel: &'a CancellationToken,
}

impl<'a> From<CallTimeout<'a>> for Bounds<'a> {
    fn from(CallTimeout { timeout, cancel }: CallTimeout<'a>) -> Self {
        Self { timeout, answer_bytes: LARGEST_ANSWER, cancel }
    }
}

impl Caller {
    /// Sends what `make` builds, and once more with a new token when the first was refused. The answer is JSON.
    pub(super) async fn call(
        &self,
        timeout: CallTimeout<'_>,
        make: impl Fn(&Client) -> Result<RequestBuilder, EngineError>,
    ) -> Result<Answer, Failed> {
        let answer = self.send(timeout, make).await?;
        if answer.is_success() && !answer.is_json() {
            return Err(nonsense("the answer is no JSON; something else than Azure may be in between").into());
        }
        Ok(answer)
    }

    /// Removes what is at `url`, if it still is.
    pub(super) async fn delete(&self, timeout: CallTimeout<'_>, url: &Url) -> Result<(), EngineError> {
        match self.send(timeout, |client| Ok(client.delete(url.clone()))).await {
            Ok(_) | Err(Failed { status: Some(404), .. }) => Ok(()),
            Err(failed) => Err(failed.error),
        }
    }

    /// Fetches from a storage, whose address is its own credential.
    pub(super) async fn fetch(&self, timeout: CallTimeout<'_>, url: Url) -> Result<Answer, Failed> {
        let answer = call(self.client.get(url), timeout.into()).await?;
        if answer.is_success() {
            return Ok(answer);
        }
        let error = nonsense(&format!("the storage of results answered {}", answer.status));
        Err(Failed { status: Some(answer.status), error })
    }

    async fn send(
        &self,
        timeout: CallTimeout<'_>,
        make: impl Fn(&Client) -> Result<RequestBuilder, EngineError>,
    ) -> Result<Answer, Failed> {
        let mut may_renew = true;
        loop {
            let (request, token) = self.authorise(timeout, make(&self.client)?).await?;
            let answer = call(request, timeout.into()).await?;
            match token {
                Some(token) if answer.status == 401 && may_renew => {
                    tracing::info!(region = self.account.region(), "Azure refused a token; it is renewed");
                    self.tokens.refused(&self.account, &token);
                    may_renew = false;
                }
                _ if answer.is_success() => return Ok(answer),
                _ => {
                    self.explain(answer.status);
                    let error = ServiceError::parse(&answer.body);
                    let error = refusal(answer.status, &error, answer.retry_after());
                    return Err(Failed { status: Some(answer.status), error });
                }
            }
        }
    }

    async fn authorise(
        &self,
        timeout: CallTimeout<'_>,
        request: RequestBuilder,
    ) -> Result<(RequestBuilder, Option<AccessToken>), EngineError> {
        if self.auth == AzureAuth::Key {
            return Ok((request.header(KEY_HEADER, self.key.clone()), None));
        }
        let token = unless_cancelled(timeout.cancel, self.tokens.token(&self.account)).await??;
        let bearer = token.bearer().map_err(|_| nonsense("the token cannot be sent in a header"))?;
        Ok((request.header(AUTHORIZATION, bearer), Some(token)))
    }

    /// Tells the operator what only the operator can mend.
    fn explain(&self, status: u16) {
        let region = self.account.region();
        match status {
            401 | 403 => tracing::error!(
                region,
                status,
                "Azure refuses this server's credentials: check that `key` of this provider is a Speech key of its \
                 region, and that the resource lets this network in"
            ),
            300..=399 | 404 => tracing::warn!(
                region,
                status,
                "Azure has nothing at this address: unless a batch transcription has expired, check `region` and \
                 `endpoint` of this provider"
            ),
            _ => {}
        }
    }
}

/// What the JSON of an answer says.
pub(super) fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, EngineError> {
    serde_json::from_slice(&answer.body)
        .map_err(|error| nonsense(&format!("the answer is not as documented: {}", BadJson::from(error))))
}

/// Waits for `work`, unless told to stop before.
pub(super) async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = T>,
) -> Result<T, EngineError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(super::failures::cancelled()),
        done = work => Ok(done),
    }
}
