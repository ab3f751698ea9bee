//! API keys: `vbk_<26 characters>_<43 characters>`, a public id and a secret of 256 bits. Only the SHA-256 of the secret
//! is ever kept; a slow hash would add nothing, because nobody can try 2^256 secrets.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::PortError;
use crate::ids::{IdSource, KeyId, TenantId};
use crate::job::TenantCaps;
use crate::options::Priority;
use crate::ports::directory::Directory;
use crate::time::Timestamp;

const PREFIX: &str = "vbk_";

/// What a key lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Submit, cancel and read jobs.
    Jobs,
    /// Read jobs only.
    Read,
    /// Everything, and the admin routes.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Jobs, Self::Read, Self::Admin];

    /// The lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    /// From the name that [`Self::as_str`] writes.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }

    /// Whether whoever has this scope may do what `needed` allows.
    pub fn covers(self, needed: Self) -> bool {
        match self {
            Self::Admin => true,
            Self::Jobs => needed != Self::Admin,
            Self::Read => needed == Self::Read,
        }
    }
}

/// What the holder of a key is and may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Whose work it is.
    pub tenant: TenantId,
    /// What the key allows.
    pub scopes: Vec<Scope>,
    /// The strongest tier the key may ask for.
    pub max_priority: Priority,
    /// What the tenant may take up.
    pub caps: TenantCaps,
}

impl Principal {
    /// Whether the holder may do what `needed` allows.
    pub fn may(&self, needed: Scope) -> bool {
        self.scopes.iter().any(|scope| scope.covers(needed))
    }
}

/// Who calls where no keys are asked for: the one default tenant, who may do everything.
impl Default for Principal {
    fn default() -> Self {
        Self {
            tenant: TenantId::default(),
            scopes: vec![Scope::Admin],
            max_priority: Priority::High,
            caps: TenantCaps::default(),
        }
    }
}

/// The SHA-256 of a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretDigest(String);

impl SecretDigest {
    fn of(secret: &str) -> Self {
        Self(hex::encode(Sha256::digest(secret.as_bytes())))
    }

    /// As lower-case hexadecimal.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digest that a store kept.
    pub fn from_stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Takes the same time wherever the two differ.
    fn matches(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDigest(…)")
    }
}

/// A whole key, as its holder presents it. Shown once, when it is made.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: KeyId,
    secret: String,
}

impl ApiKey {
    /// A fresh key.
    pub fn generate(ids: &dyn IdSource) -> Self {
        Self { id: KeyId::generate(ids), secret: BASE64_URL_SAFE_NO_PAD.encode(ids.secret()) }
    }

    /// A key written as text; `None` for what cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let (ulid, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let id = KeyId::from_ulid(ulid).ok()?;
        let whole = BASE64_URL_SAFE_NO_PAD.decode(secret).is_ok_and(|bytes| bytes.len() == 32);
        whole.then(|| Self { id, secret: secret.to_owned() })
    }

    /// The public half.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// What is kept of the secret half.
    pub fn digest(&self) -> SecretDigest {
        SecretDigest::of(&self.secret)
    }

    /// The whole key, for its holder's eyes.
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}_{}", self.id.ulid(), self.secret)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}, …)", self.id)
    }
}

/// The longest name of a key, in characters.
const MAX_NAME: usize = 100;

/// What people call a key; may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyName(String);

/// Why a text is no name of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key's name has at most {MAX_NAME} characters and fits on one line")]
pub struct InvalidKeyName;

impl KeyName {
    /// At most 100 characters, none of which would upset a terminal.
    ///
    /// # Errors
    /// For anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidKeyName> {
        let fits = text.chars().count() <= MAX_NAME && !text.chars().any(char::is_control);
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidKeyName) }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KeyName {
    type Error = InvalidKeyName;
    fn try_from(text: String) -> Result<Self, InvalidKeyName> {
        Self::parse(&text)
    }
}

impl From<KeyName> for String {
    fn from(name: KeyName) -> Self {
        name.0
    }
}

/// A key on its way into the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    /// The public half.
    pub id: KeyId,
    /// What is kept of the secret half.
    pub digest: SecretDigest,
    /// What people call it.
    pub name: KeyName,
    /// What its holder is and may do.
    pub principal: Principal,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops to open anything; `None` for never.
    pub expires_at: Option<Timestamp>,
}

impl NewKey {
    /// A fresh key for its holder, and what the directory keeps of it. It opens something for `lifetime`, or for good.
    pub fn issue(
        name: KeyName,
        principal: Principal,
        lifetime: Option<Duration>,
        now: Timestamp,
        ids: &dyn IdSource,
    ) -> (ApiKey, Self) {
        let key = ApiKey::generate(ids);
        let new = Self {
            id: key.id.clone(),
            digest: key.digest(),
            name,
            principal,
            created_at: now,
            expires_at: lifetime.map(|lifetime| now.plus(lifetime)),
        };
        (key, new)
    }
}

/// A key as the directory keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// What was added.
    #[serde(flatten)]
    pub key: NewKey,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl KeyRecord {
    /// Whether it opens anything at `now`.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.key.expires_at.is_none_or(|end| now < end)
    }
}

/// Why a key opens nothing. For operators: whoever presents it is not told which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRefusal {
    /// It is no key, nobody made it, or its secret is wrong.
    Unknown,
    /// It is right, and was revoked or has expired.
    Closed,
}

/// The record of this key, or why it opens nothing.
///
/// # Errors
/// Those of the directory.
pub async fn authenticate(
    directory: &dyn Directory,
    text: &str,
    now: Timestamp,
) -> Result<Result<KeyRecord, KeyRefusal>, PortError> {
    let Some(key) = ApiKey::parse(text) else { return Ok(Err(KeyRefusal::Unknown)) };
    let Some(record) = directory.find(key.id()).await? else { return Ok(Err(KeyRefusal::Unknown)) };
    if !record.key.digest.matches(&key.digest()) {
        return Ok(Err(KeyRefusal::Unknown));
    }
    Ok(if record.is_open(now) { Ok(record) } else { Err(KeyRefusal::Closed) })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl IdSource for Fixed {
        fn ulid(&self) -> String {
            "01JD8N3W0S5Y6T7E8Z9QK4M2VX".into()
        }
        fn fraction(&self) -> f64 {
            0.5
        }
        fn secret(&self) -> [u8; 32] {
            [0xfb; 32]
        }
    }

    #[test]
    fn a_key_reads_back_and_nothing_like_it_does() {
        let key = ApiKey::generate(&Fixed);
        let text = key.expose();
        assert_eq!(ApiKey::parse(&text), Some(key.clone()));
        for bad in ["", "vbk_", &text[1..], &text[..text.len() - 1], &format!("{text}A"), "vbk_x_y"] {
            assert_eq!(ApiKey::parse(bad), None, "{bad}");
        }
        assert!(!format!("{key:?}{:?}", key.digest()).contains(&key.secret));
        assert!(!key.digest().as_str().contains(&key.secret));
    }

    #[test]
    fn a_key_opens_until_it_expires_or_is_revoked() {
        let now = Timestamp::from_millis(0);
        let day = Duration::from_secs(24 * 3600);
        let (_, key) = NewKey::issue(KeyName::default(), Principal::default(), Some(day), now, &Fixed);
        let mut record = KeyRecord { key, revoked_at: None };
        assert!(record.is_open(Timestamp::from_millis(24 * 3600 * 1000 - 1)));
        assert!(!record.is_open(Timestamp::from_millis(24 * 3600 * 1000)));
        record.revoked_at = Some(now);
        assert!(!record.is_open(now));
    }

    #[test]
    fn a_name_fits_on_a_line() {
        assert!(KeyName::parse("").is_ok() && KeyName::parse("Ümläute, büro 3").is_ok());
        assert!(KeyName::parse(&"x".repeat(101)).is_err());
        assert!(KeyName::parse("a\nb").is_err() && KeyName::parse("\u{1b}[2J").is_err());
    }

    #[test]
    fn scopes_cover_no_more_than_they_say() {
        let covered = |scope: Scope| Scope::ALL.map(|needed| scope.covers(needed));
        assert_eq!(covered(Scope::Jobs), [true, true, false]);
        assert_eq!(covered(Scope::Read), [false, true, false]);
        assert_eq!(covered(Scope::Admin), [true, true, true]);
    }
}
