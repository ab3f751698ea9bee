//! What all nodes share of one token: the token itself, and the lock under which one of them renews it. Pure: times come
//! from the store, and every change bears being made twice.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use verbatim_core::time::Timestamp;

use super::failure::TokenFailure;
use super::secret::{AccessToken, Digest};

/// How old a token gets before it is renewed: nine of its ten minutes.
const REUSED_FOR: Duration = Duration::from_secs(9 * 60);
/// How old it may be when it is used: the rest is for clocks that differ and for uploads under way.
const GOOD_FOR: Duration = Duration::from_secs(9 * 60 + 30);
/// How much earlier than its reuse ends a node may renew it. Wider, and an hour would need more than seven tokens.
pub(super) const LARGEST_JITTER: Duration = Duration::from_secs(20);
/// How long one node may take to renew it; longer than the issuer is waited for.
const LOCKED_FOR: Duration = Duration::from_secs(10);
/// How long the cell outlives its last change: longer than any token and any lock.
pub(super) const CELL_TTL: Duration = Duration::from_secs(20 * 60);

/// The shared value.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct TokenCell {
    token: Option<Issued>,
    /// Number of the latest lock.
    fence: u64,
    lock: Option<Lock>,
    quiet: Option<Quiet>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Issued {
    #[serde(with = "super::secret::exposed")]
    token: AccessToken,
    /// When it was asked for, so that its age is never underestimated.
    at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lock {
    holder: String,
    fence: u64,
    expires_at: Timestamp,
}

/// After a failure nobody asks the issuer for a while.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Quiet {
    failure: TokenFailure,
    until: Timestamp,
}

/// Who asks for a token.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    /// Names this very claim, so that it can be repeated.
    pub(super) holder: String,
    /// How much earlier than needed this node renews.
    pub(super) jitter: Duration,
    /// The token that the service has refused, if it did.
    pub(super) refused: Option<Digest>,
}

/// A token and what is left of it.
#[derive(Debug, Clone)]
pub(super) struct Share {
    pub(super) token: AccessToken,
    /// Time until it is to be renewed.
    pub(super) renew_in: Duration,
    /// Time until it must not be used any more.
    pub(super) good_for: Duration,
}

impl Share {
    /// A token of this age.
    pub(super) fn new(token: AccessToken, age: Duration, jitter: Duration) -> Self {
        Self {
            token,
            renew_in: REUSED_FOR.saturating_sub(jitter).saturating_sub(age),
            good_for: GOOD_FOR.saturating_sub(age),
        }
    }
}

/// What somebody who asks is to do.
#[derive(Debug)]
pub(super) enum Claim {
    /// Use this token.
    Use(Share),
    /// Have one issued, and store it under this fence.
    Renew {
        /// The number of the lock.
        fence: u64,
        /// The present one, while it is good.
        old: Option<Share>,
    },
    /// Another one is at it.
    Wait {
        /// Time until its lock lapses.
        left: Duration,
        /// The present one, while it is good.
        old: Option<Share>,
    },
    /// The issuer is left alone, for the reason given.
    Quiet {
        /// Why.
        failure: TokenFailure,
        /// For how long.
        left: Duration,
        /// The present one, while it is good.
        old: Option<Share>,
    },
}

impl TokenCell {
    /// Forgets what is refused or too old, and says what to do. The first part of the answer says whether anything
    /// changed.
    pub(super) fn claim(&mut self, now: Timestamp, ask: &Ask) -> (bool, Claim) {
        let unfit =
            |issued: &Issued| ask.refused == Some(issued.token.digest()) || now.since(issued.at) >= GOOD_FOR;
        let forgotten = self.token.take_if(|issued| unfit(issued)).is_some();
        let old = self
            .token
            .as_ref()
            .map(|issued| Share::new(issued.token.clone(), now.since(issued.at), ask.jitter));
        match old {
            Some(share) if !share.renew_in.is_zero() => (forgotten, Claim::Use(share)),
            old => self.lock(now, ask, old, forgotten),
        }
    }

    fn lock(&mut self, now: Timestamp, ask: &Ask, old: Option<Share>, forgotten: bool) -> (bool, Claim) {
        if let Some(Quiet { failure, until }) = &self.quiet
            && *until > now
        {
            let claim = Claim::Quiet { failure: failure.clone(), left: until.since(now), old };
            return (forgotten, claim);
        }
        match &self.lock {
            Some(lock) if lock.holder == ask.holder => {
                return (forgotten, Claim::Renew { fence: lock.fence, old });
            }
            Some(lock) if lock.expires_at > now => {
                return (forgotten, Claim::Wait { left: lock.expires_at.since(now), old });
            }
            _ => {}
        }
        self.fence += 1;
        let fence = self.fence;
        self.lock = Some(Lock { holder: ask.holder.clone(), fence, expires_at: now.plus(LOCKED_FOR) });
        (true, Claim::Renew { fence, old })
    }

    /// Takes a token from the holder of the lock, which was claimed at `at`. The second part of the answer is whether it
    /// was taken: not from one whose lock lapsed and was taken over.
    pub(super) fn store(
        &mut self,
        holder: &str,
        fence: u64,
        token: &AccessToken,
        age: Duration,
        now: Timestamp,
    ) -> (bool, bool) {
        if self.token.as_ref().is_some_and(|issued| issued.token.digest() == token.digest()) {
            return (false, true);
        }
        if !self.is_held(holder, fence) {
            return (false, false);
        }
        let at = Timestamp::from_millis(now.as_millis() - i64::try_from(age.as_millis()).unwrap_or(0));
        self.token = Some(Issued { token: token.clone(), at });
        self.lock = None;
        self.quiet = None;
        (true, true)
    }

    /// Ends a lock whose holder got no token, and keeps everybody quiet for a while.
    pub(super) fn give_up(
        &mut self,
        holder: &str,
        fence: u64,
        failure: &TokenFailure,
        now: Timestamp,
    ) -> (bool, ()) {
        if !self.is_held(holder, fence) {
            return (false, ());
        }
        self.lock = None;
        self.quiet = Some(Quiet { failure: failure.clone(), until: now.plus(failure.quiet_for()) });
        (true, ())
    }

    fn is_held(&self, holder: &str, fence: u64) -> bool {
        self.lock.as_ref().is_some_and(|lock| lock.holder == holder && lock.fence == fence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    fn ask(holder: &str) -> Ask {
        Ask { holder: holder.to_owned(), jitter: Duration::from_secs(10), refused: None }
    }

    fn token(text: &str) -> AccessToken {
        secrecy::SecretString::from(text).into()
    }

    /// A cell that got `token` at second 0.
    fn filled(text: &str) -> TokenCell {
        let mut cell = TokenCell::default();
        assert!(matches!(cell.claim(at(0), &ask("a")).1, Claim::Renew { fence: 1, old: None }));
        assert_eq!(cell.store("a", 1, &token(text), Duration::ZERO, at(0)), (true, true));
        cell
    }

    #[test]
    fn a_token_is_reused_and_then_renewed_by_one_while_the_others_go_on_with_it() {
        let mut cell = filled("one");
        assert!(matches!(cell.claim(at(529), &ask("b")), (false, Claim::Use(_))));
        assert!(matches!(cell.claim(at(530), &ask("b")), (true, Claim::Renew { fence: 2, old: Some(_) })));
        match cell.claim(at(530), &ask("c")) {
            (false, Claim::Wait { old: Some(share), left }) => {
                assert_eq!((share.good_for, left), (Duration::from_secs(40), LOCKED_FOR));
            }
            other => panic!("{other:?}"),
        }
        assert!(
            matches!(cell.claim(at(530), &ask("b")), (false, Claim::Renew { fence: 2, .. })),
            "repeatable"
        );
        assert_eq!(cell.store("b", 2, &token("two"), Duration::ZERO, at(531)), (true, true));
        assert_eq!(cell.store("b", 2, &token("two"), Duration::ZERO, at(531)), (false, true), "repeatable");
        assert!(
            matches!(cell.claim(at(531), &ask("c")), (false, Claim::Use(share)) if share.token == token("two"))
        );
    }

    #[test]
    fn a_lock_that_lapsed_is_taken_over_and_what_its_first_holder_writes_is_dropped() {
        let mut cell = TokenCell::default();
        assert!(matches!(cell.claim(at(0), &ask("zombie")), (true, Claim::Renew { fence: 1, .. })));
        assert!(matches!(cell.claim(at(9), &ask("b")), (false, Claim::Wait { old: None, .. })));
        assert!(matches!(cell.claim(at(10), &ask("b")), (true, Claim::Renew { fence: 2, .. })));
        assert_eq!(cell.store("zombie", 1, &token("late"), Duration::ZERO, at(11)), (false, false));
        cell.give_up("zombie", 1, &TokenFailure::unavailable(None), at(11));
        assert_eq!(cell.store("b", 2, &token("good"), Duration::ZERO, at(12)), (true, true));
        assert_eq!(cell.store("zombie", 1, &token("late"), Duration::ZERO, at(13)), (false, false));
        assert!(matches!(cell.claim(at(13), &ask("c")).1, Claim::Use(share) if share.token == token("good")));
    }

    #[test]
    fn only_the_very_token_that_was_refused_is_forgotten() {
        let mut cell = filled("one");
        let refused = |text: &str| Ask { refused: Some(token(text).digest()), ..ask("b") };
        assert!(matches!(cell.claim(at(5), &refused("another")), (false, Claim::Use(_))));
        assert!(matches!(cell.claim(at(5), &refused("one")), (true, Claim::Renew { old: None, .. })));
    }

    #[test]
    fn after_a_failure_the_issuer_is_left_alone_for_a_while() {
        let mut cell = TokenCell::default();
        cell.claim(at(0), &ask("a"));
        cell.give_up("a", 1, &TokenFailure::throttled(Some(Duration::from_secs(7))), at(1));
        match cell.claim(at(2), &ask("b")).1 {
            Claim::Quiet { left, .. } => assert_eq!(left, Duration::from_secs(6)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(cell.claim(at(8), &ask("b")).1, Claim::Renew { fence: 2, .. }));
    }

    #[test]
    fn it_survives_being_stored() {
        let cell = filled("sesame");
        let stored = serde_json::to_string(&cell).expect("JSON");
        let mut read: TokenCell = serde_json::from_str(&stored).expect("a cell");
        assert!(
            matches!(read.claim(at(1), &ask("b")).1, Claim::Use(share) if share.token == token("sesame"))
        );
        assert!(!format!("{cell:?}").contains("sesame"), "{cell:?}");
    }
}
