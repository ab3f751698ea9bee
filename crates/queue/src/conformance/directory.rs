//! The checks that every directory of API keys must pass. An adapter implements [`DirectoryHarness`] in its tests and
//! calls [`directory_conformance_suite!`](crate::directory_conformance_suite).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use verbatim_core::PortError;
use verbatim_core::api_key::{ApiKey, KeyName, KeyRecord, NewKey, Principal, Scope, authenticate};
use verbatim_core::ids::{IdSource, TenantId};
use verbatim_core::job::TenantCaps;
use verbatim_core::options::Priority;
use verbatim_core::ports::Directory;
use verbatim_core::time::Clock;

use super::{SeededIds, Verdict, Violation, VirtualClock, ensure, ensure_eq};

/// What an adapter brings to its tests.
#[async_trait]
pub trait DirectoryHarness: Send + Sync {
    /// An empty directory of its own, which takes the time from nowhere else.
    ///
    /// # Errors
    /// Whatever keeps it from opening.
    async fn empty(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn Directory>, PortError>;
}

/// A directory in a world where no time passes by itself.
struct World {
    directory: Arc<dyn Directory>,
    clock: Arc<VirtualClock>,
    ids: SeededIds,
}

impl World {
    async fn open(harness: &impl DirectoryHarness) -> Verdict<Self> {
        let clock = Arc::new(VirtualClock::default());
        let directory = harness.empty(clock.clone()).await?;
        Ok(Self { directory, clock, ids: SeededIds::starting_at(1) })
    }

    /// A key that is not in the directory yet.
    fn issue(&self, tenant: &str, lifetime: Option<Duration>) -> Verdict<(ApiKey, NewKey)> {
        let wrong = |error: &dyn std::fmt::Display| Violation::new(format!("the check is wrong: {error}"));
        let principal = Principal {
            tenant: TenantId::parse(tenant).map_err(|error| wrong(&error))?,
            scopes: vec![Scope::Jobs, Scope::Read],
            max_priority: Priority::Normal,
            caps: TenantCaps { max_running: Some(2), max_queued: None },
        };
        let name = KeyName::parse("büro \"3\"").map_err(|error| wrong(&error))?;
        Ok(NewKey::issue(name, principal, lifetime, self.clock.now(), &self.ids))
    }

    async fn add(&self, tenant: &str) -> Verdict<(ApiKey, NewKey)> {
        let issued = self.issue(tenant, None)?;
        self.directory.add(issued.1.clone()).await?;
        Ok(issued)
    }

    /// Whose key this is, as far as it opens anything.
    async fn opens(&self, key: &str) -> Verdict<Option<Principal>> {
        let record = authenticate(&*self.directory, key, self.clock.now()).await?;
        Ok(record.ok().map(|record| record.key.principal))
    }
}

/// Everything that was added comes back.
pub async fn a_key_is_found_as_it_was_added(harness: &impl DirectoryHarness) -> Verdict {
    let world = World::open(harness).await?;
    let (_, forever) = world.add("acme").await?;
    let (_, short) = world.issue("acme", Some(Duration::from_secs(60)))?;
    world.directory.add(short.clone()).await?;
    for key in [forever, short] {
        let found = world.directory.find(&key.id).await?;
        ensure_eq!(found, Some(KeyRecord { key, revoked_at: None }), "the key found");
    }
    let (_, unknown) = world.issue("acme", None)?;
    ensure_eq!(world.directory.find(&unknown.id).await?, None, "a key that was never added");
    Ok(())
}

/// Only the whole key opens, and only to whom it was given.
pub async fn only_the_right_secret_opens(harness: &impl DirectoryHarness) -> Verdict {
    struct OtherSecret<'a>(&'a str);
    impl IdSource for OtherSecret<'_> {
        fn ulid(&self) -> String {
            self.0.to_owned()
        }
        fn fraction(&self) -> f64 {
            0.5
        }
        fn secret(&self) -> [u8; 32] {
            [8; 32]
        }
    }
    let world = World::open(harness).await?;
    let (key, new) = world.add("acme").await?;
    world.add("other").await?;
    ensure_eq!(world.opens(&key.expose()).await?, Some(new.principal), "the key itself");
    let guessed = ApiKey::generate(&OtherSecret(key.id().ulid()));
    ensure_eq!(guessed.id(), key.id(), "the public half is the same");
    ensure_eq!(world.opens(&guessed.expose()).await?, None, "the public half with another secret");
    ensure_eq!(world.opens(new.digest.as_str()).await?, None, "what the directory keeps");
    ensure_eq!(world.opens("").await?, None, "nothing");
    Ok(())
}

/// From one moment to the next.
pub async fn a_revoked_key_opens_nothing_and_stays_listed(harness: &impl DirectoryHarness) -> Verdict {
    let world = World::open(harness).await?;
    let (key, new) = world.add("acme").await?;
    let (other, _) = world.add("acme").await?;
    world.clock.advance(Duration::from_secs(10));
    ensure!(world.directory.revoke(key.id()).await?, "the key is there to be revoked");
    ensure_eq!(world.opens(&key.expose()).await?, None, "a revoked key");
    ensure!(world.opens(&other.expose()).await?.is_some(), "the tenant's other key went with it");
    let revoked = KeyRecord { key: new, revoked_at: Some(world.clock.now()) };
    ensure_eq!(world.directory.find(key.id()).await?, Some(revoked.clone()), "the revoked key");
    ensure!(world.directory.list(None).await?.contains(&revoked), "the revoked key is not listed");
    Ok(())
}

/// Nothing that is repeated, or repeated too late, changes anything: a revoked key is not revived by adding it again.
pub async fn adding_and_revoking_again_changes_nothing(harness: &impl DirectoryHarness) -> Verdict {
    let world = World::open(harness).await?;
    let (key, new) = world.add("acme").await?;
    let (_, stranger) = world.issue("stranger", None)?;
    world.directory.add(new.clone()).await?;
    world.directory.add(NewKey { id: new.id.clone(), ..stranger.clone() }).await?;
    ensure_eq!(world.directory.list(None).await?.len(), 1, "keys after adding one three times");
    ensure_eq!(world.opens(&key.expose()).await?, Some(new.principal.clone()), "the first one stands");

    let revoked_at = world.clock.now();
    ensure!(world.directory.revoke(key.id()).await?, "the key is there to be revoked");
    world.clock.advance(Duration::from_secs(60));
    ensure!(world.directory.revoke(key.id()).await?, "the key is still there");
    world.directory.add(new.clone()).await?;
    let record = Some(KeyRecord { key: new, revoked_at: Some(revoked_at) });
    ensure_eq!(world.directory.find(key.id()).await?, record, "the key after all that");
    ensure!(!world.directory.revoke(&stranger.id).await?, "a key that was never added was revoked");
    Ok(())
}

/// At its very moment.
pub async fn a_key_expires(harness: &impl DirectoryHarness) -> Verdict {
    let world = World::open(harness).await?;
    let (key, new) = world.issue("acme", Some(Duration::from_secs(60)))?;
    world.directory.add(new).await?;
    world.clock.advance(Duration::from_millis(59_999));
    ensure!(world.opens(&key.expose()).await?.is_some(), "it expired too early");
    world.clock.advance(Duration::from_millis(1));
    ensure_eq!(world.opens(&key.expose()).await?, None, "an expired key");
    Ok(())
}

/// Each tenant's own, or all of them, in the order in which they were made.
pub async fn lists_are_whole_and_in_order(harness: &impl DirectoryHarness) -> Verdict {
    let world = World::open(harness).await?;
    let mut made = Vec::new();
    for number in 0..300 {
        let tenant = if number % 3 == 0 { "acme" } else { "other" };
        made.push(world.add(tenant).await?.1);
        // Many keys of one moment, too.
        if number % 10 == 0 {
            world.clock.advance(Duration::from_millis(1));
        }
    }
    let keys = |records: Vec<KeyRecord>| records.into_iter().map(|record| record.key).collect::<Vec<_>>();
    ensure_eq!(keys(world.directory.list(None).await?), made, "all keys");
    for name in ["acme", "other", "nobody"] {
        let tenant = TenantId::parse(name).map_err(|error| Violation::new(error.to_string()))?;
        let own: Vec<_> = made.iter().filter(|key| key.principal.tenant == tenant).cloned().collect();
        ensure_eq!(keys(world.directory.list(Some(&tenant)).await?), own, "the keys of {name}");
    }
    Ok(())
}

/// The caps of tenants are kept beside their keys, and each change to what is in force is one that can be seen.
pub async fn caps_are_kept_and_every_change_raises_the_revision(harness: &impl DirectoryHarness) -> Verdict {
    let world = World::open(harness).await?;
    let name = |name: &str| TenantId::parse(name).map_err(|error| Violation::new(error.to_string()));
    let (acme, zeta) = (name("acme")?, name("zeta")?);
    let two = TenantCaps { max_running: Some(2), max_queued: None };
    let both = TenantCaps { max_running: Some(1), max_queued: Some(40) };
    let mut last = world.directory.revision().await?;
    ensure_eq!(world.directory.caps().await?, vec![], "caps before any were set");
    for step in ["cap zeta", "cap acme", "change", "make a key", "take the cap away"] {
        match step {
            "cap zeta" => world.directory.cap(&zeta, two).await?,
            "cap acme" => world.directory.cap(&acme, two).await?,
            "change" => world.directory.cap(&acme, both).await?,
            "make a key" => drop(world.add("acme").await?),
            _ => world.directory.cap(&zeta, TenantCaps::default()).await?,
        }
        let now = world.directory.revision().await?;
        ensure!(now > last, "the revision was {last} before and is {now} after: {step}");
        last = now;
    }
    for record in world.directory.list(None).await? {
        world.directory.revoke(&record.key.id).await?;
    }
    ensure!(world.directory.revision().await? > last, "revoking a key raises no revision");
    let kept = vec![(acme, both), (zeta, TenantCaps::default())];
    ensure_eq!(world.directory.caps().await?, kept, "what was set last, in order of names");
    Ok(())
}

/// Makes one `#[tokio::test]` of each check. The argument is an expression that makes a fresh [`DirectoryHarness`].
#[macro_export]
macro_rules! directory_conformance_suite {
    ($harness:expr) => {
        $crate::directory_conformance_suite! { @tests $harness;
            a_key_is_found_as_it_was_added,
            only_the_right_secret_opens,
            a_revoked_key_opens_nothing_and_stays_listed,
            adding_and_revoking_again_changes_nothing,
            a_key_expires,
            caps_are_kept_and_every_change_raises_the_revision,
            lists_are_whole_and_in_order,
        }
    };
    (@tests $harness:expr; $($check:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $check() -> Result<(), $crate::conformance::Violation> {
                $crate::conformance::directory::$check(&$harness).await
            }
        )*
    };
}
