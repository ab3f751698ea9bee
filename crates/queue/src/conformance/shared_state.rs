//! What [`SharedState`] promises: no change is lost, and what has expired is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::try_join_all;
use verbatim_core::ErrorKind;
use verbatim_core::ports::SharedState;
use verbatim_core::ports::shared_state::{Replacement, Versioned, update};

use super::{Harness, MOMENT, Verdict, World, ensure, ensure_eq};

const TTL: Duration = Duration::from_secs(60);

async fn replace(store: &impl SharedState, name: &str, expected: Option<u64>, value: &str) -> Verdict<bool> {
    let replacement = Replacement { expected, value: value.to_owned(), ttl: TTL };
    Ok(store.replace(name, replacement).await?)
}

async fn current(store: &impl SharedState, name: &str) -> Verdict<Option<Versioned>> {
    Ok(store.read(name).await?.current)
}

async fn value(store: &impl SharedState, name: &str) -> Verdict<Option<String>> {
    Ok(current(store, name).await?.map(|current| current.value))
}

async fn version(store: &impl SharedState, name: &str) -> Verdict<Option<u64>> {
    Ok(current(store, name).await?.map(|current| current.version))
}

/// Only one of those who read the same version may replace it, and the time of the store comes with it.
pub async fn only_who_read_the_newest_value_replaces_it<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let store = &world.store;
    let nothing = store.read("health").await?;
    ensure_eq!((nothing.current, nothing.now), (None, world.now()), "what was never written");
    ensure!(!replace(store, "health", Some(1), "a").await?, "a version that never was is replaced");
    ensure!(replace(store, "health", None, "a").await?, "the first value was refused");
    ensure!(!replace(store, "health", None, "b").await?, "a value is replaced unread");
    let first = version(store, "health").await?;
    ensure!(replace(store, "health", first, "c").await?, "the second value was refused");
    ensure!(!replace(store, "health", first, "d").await?, "a stale version is replaced");
    ensure_eq!(value(store, "health").await?.as_deref(), Some("c"), "the value in the end");
    ensure!(version(store, "health").await? > first, "the version does not rise");
    ensure_eq!(value(store, "other").await?, None, "another name's value");
    let odd = "{\"ä\": \"\u{1F3A7}\0\\n\"}";
    ensure!(replace(store, "a name: % _ * ü", None, odd).await?, "any name will do");
    ensure_eq!(value(store, "a name: % _ * ü").await?.as_deref(), Some(odd), "values come back as they were");
    world.audit().await
}

/// At its very moment, unless it was written again.
pub async fn a_value_expires_unless_it_is_written_again<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let store = &world.store;
    ensure!(replace(store, "token", None, "a").await?, "the value was refused");
    world.clock.advance(TTL - MOMENT);
    let read = version(store, "token").await?;
    ensure!(replace(store, "token", read, "b").await?, "it has expired too early");
    // The first life would be over now.
    world.pass(TTL - MOMENT).await?;
    ensure_eq!(value(store, "token").await?.as_deref(), Some("b"), "the value that was written again");
    world.clock.advance(MOMENT);
    let gone = store.read("token").await?;
    ensure_eq!((gone.current, gone.now), (None, world.now()), "the expired value");
    ensure_eq!(store.list("").await?, vec![], "the values that are left");
    world.settle().await?;
    ensure!(replace(store, "token", None, "c").await?, "its name is not free again");
    ensure_eq!(
        store.list("").await?,
        vec![("token".to_owned(), "c".to_owned())],
        "the value of its next life"
    );
    world.audit().await
}

/// Who slept over a value's end does not take its next life for the one that it read.
pub async fn a_stale_version_never_wins<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let store = &world.store;
    let mut seen = BTreeSet::new();
    for life in 0..4 {
        ensure!(replace(store, "token", None, "made").await?, "life {life} was refused");
        for _ in 0..3 {
            let newest = version(store, "token").await?;
            ensure!(seen.insert(newest), "version {newest:?} was given twice");
            for old in seen.iter().filter(|old| **old != newest) {
                ensure!(!replace(store, "token", *old, "stale").await?, "version {old:?} won in life {life}");
            }
            ensure!(replace(store, "token", newest, "changed").await?, "the newest version lost");
        }
        seen.insert(version(store, "token").await?);
        world.clock.advance(TTL);
        // With and without upkeep in between.
        if life % 2 == 0 {
            world.settle().await?;
        }
        for old in &seen {
            ensure!(!replace(store, "token", *old, "stale").await?, "version {old:?} outlived its value");
        }
    }
    world.audit().await
}

/// Many change one value at once.
pub async fn no_update_is_lost<H: Harness>(harness: &H) -> Verdict {
    const TASKS: u64 = 16;
    const EACH: u64 = 12;
    let world = World::open(harness).await?;
    let store: &dyn SharedState = &world.store;
    let task = |number: u64| async move {
        for step in 0..EACH {
            let added = |list: &mut Vec<(u64, u64)>, _| {
                list.push((number, step));
                (true, list.len())
            };
            update(store, "list", TTL, added).await?;
        }
        Ok::<(), verbatim_core::PortError>(())
    };
    try_join_all((0..TASKS).map(task)).await?;
    let (list, now) =
        update(store, "list", TTL, |list: &mut Vec<(u64, u64)>, now| (false, (list.clone(), now))).await?;
    let added: BTreeSet<_> = list.iter().collect();
    ensure_eq!((list.len(), added.len()), ((TASKS * EACH) as usize, list.len()), "updates that took effect");
    ensure_eq!(now, world.now(), "the time that `update` tells");
    for number in 0..TASKS {
        let own: Vec<u64> = list.iter().filter(|(task, _)| *task == number).map(|(_, step)| *step).collect();
        ensure_eq!(own, (0..EACH).collect::<Vec<_>>(), "the order of one task's updates");
    }
    world.audit().await
}

/// The helper writes only when it is told to, and says so when a value is no such thing.
pub async fn an_update_may_leave_the_value_alone<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let store: &dyn SharedState = &world.store;
    let looked = update(store, "number", TTL, |number: &mut u64, _| (false, *number)).await?;
    ensure_eq!((looked, version(&world.store, "number").await?), (0, None), "looking at nothing");
    update(store, "number", TTL, |number: &mut u64, _| (true, *number = 7)).await?;
    let before = version(&world.store, "number").await?;
    let looked =
        update(store, "number", TTL, |number: &mut u64, _| (false, std::mem::replace(number, 8))).await?;
    ensure_eq!((looked, version(&world.store, "number").await?), (7, before), "looking at a number");
    let secret = "\"a credential\"";
    ensure!(replace(&world.store, "text", None, secret).await?, "the text was refused");
    let error = update(store, "text", TTL, |_: &mut u64, _| (true, ())).await.err();
    let told = error.as_ref().map(|error| (error.kind(), format!("{error:?}").contains("credential")));
    ensure_eq!(told, Some((ErrorKind::Internal, false)), "the error, which does not quote the value");
    ensure_eq!(value(&world.store, "text").await?.as_deref(), Some(secret), "what could not be read");
    world.audit().await
}

/// Those that begin with the prefix, no others, in the order of their names.
pub async fn lists_are_by_prefix_and_in_order<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let names = ["b/2", "b/1", "a", "b", "c/1", "b/\u{10FFFF}", "b_1", "B/1", "b/%", "b/10", "bb/1"];
    for name in names {
        ensure!(replace(&world.store, name, None, &format!("of {name}")).await?, "{name} was refused");
    }
    for prefix in ["b/", "b", "", "b/%", "%", "_", "b/1", "c/1", "d", "b/\u{10FFFF}"] {
        let mut wanted: Vec<(String, String)> = names
            .iter()
            .filter(|name| name.starts_with(prefix))
            .map(|name| ((*name).to_owned(), format!("of {name}")))
            .collect();
        wanted.sort();
        ensure_eq!(world.store.list(prefix).await?, wanted, "the values of prefix {prefix:?}");
    }
    world.audit().await
}
