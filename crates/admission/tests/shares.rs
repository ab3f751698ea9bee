//! The rule of shares: the permits that each of several holders gets.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use verbatim_admission::{Holder, Permit, Pool, PoolConfig, Refused, Reserve, Sizing};

const SOON: Duration = Duration::from_secs(1);

fn pool(permits: usize) -> Pool {
    let config = PoolConfig { sizing: Sizing::fixed(permits), max_waiting: 100, reserve: Reserve::Eighth };
    Pool::new(config, Vec::new(), Box::new(()))
}

fn tenant(name: &str) -> Holder {
    Holder::tenant(name)
}

/// As many permits as `holder` gets at once.
fn all_it_gets(pool: &Pool, holder: &Holder) -> Vec<Permit> {
    std::iter::from_fn(|| pool.try_acquire(holder).ok()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_is_alone_leaves_a_reserve_which_the_next_one_finds() {
    let pool = pool(16);
    let (a, b) = (tenant("a"), tenant("b"));
    let held = all_it_gets(&pool, &a);
    assert_eq!(held.len(), 14);
    assert_eq!(pool.try_acquire(&a).unwrap_err(), Refused::Share);
    let of_b = all_it_gets(&pool, &b);
    assert_eq!(of_b.len(), 2);
    assert_eq!(pool.try_acquire(&b).unwrap_err(), Refused::Full);
    assert_eq!(pool.try_acquire(&tenant("c")).unwrap_err(), Refused::Full);
}

#[tokio::test(start_paused = true)]
async fn of_six_permits_one_is_left_for_others() {
    let pool = pool(6);
    let held = all_it_gets(&pool, &tenant("a"));
    assert_eq!(held.len(), 5);
    assert!(pool.try_acquire(&tenant("b")).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_held_stays_and_what_is_given_back_goes_to_the_holder_with_less() {
    let pool = pool(16);
    let (a, b) = (tenant("a"), tenant("b"));
    let mut of_a = all_it_gets(&pool, &a);
    let mut of_b = all_it_gets(&pool, &b);
    let waits = |holder: Holder| {
        let pool = pool.clone();
        tokio::spawn(async move { pool.acquire(&holder, Duration::MAX).await })
    };
    // Both want more than there is: permits that come back go to b until both have as many.
    let requests: Vec<_> = (0..20).flat_map(|_| [waits(a.clone()), waits(b.clone())]).collect();
    tokio::task::yield_now().await;
    while of_a.len() > 8 {
        of_a.pop();
        tokio::task::yield_now().await;
    }
    let mut given: BTreeMap<String, usize> = BTreeMap::new();
    for request in requests {
        if request.is_finished() {
            let permit = request.await.unwrap().unwrap();
            *given.entry(format!("{:?}", permit.holder())).or_default() += 1;
            if permit.holder() == &b { of_b.push(permit) } else { of_a.push(permit) }
        } else {
            request.abort();
        }
    }
    assert_eq!(given, BTreeMap::from([("tenant b".to_owned(), 6)]));
    assert_eq!((of_a.len(), of_b.len()), (8, 8));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_was_refused_finds_its_share_when_it_comes_back() {
    let pool = pool(8);
    let (a, b) = (tenant("a"), tenant("b"));
    let mut of_a = all_it_gets(&pool, &a);
    let of_b = all_it_gets(&pool, &b);
    assert_eq!((of_a.len(), of_b.len()), (7, 1));
    // b was refused just now: a does not get again what it gives back.
    of_a.truncate(4);
    assert_eq!(pool.try_acquire(&a).unwrap_err(), Refused::Share);
    assert_eq!(all_it_gets(&pool, &b).len(), 3);
    // A refusal counts for a while only: nobody keeps a share by having been refused once.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(pool.try_acquire(&a).is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_line_is_shared_like_the_permits() {
    let config = PoolConfig { sizing: Sizing::fixed(1), max_waiting: 8, reserve: Reserve::Eighth };
    let pool = Pool::new(config, Vec::new(), Box::new(()));
    let _held = pool.try_acquire(&tenant("x")).unwrap();
    let wait = |name: &str| {
        let (pool, holder) = (pool.clone(), tenant(name));
        tokio::spawn(async move { pool.acquire(&holder, Duration::MAX).await.map(drop) })
    };
    let crowd: Vec<_> = (0..20).map(|_| wait("a")).collect();
    tokio::task::yield_now().await;
    assert_eq!(pool.usage().waiting, 7);
    let other = wait("b");
    tokio::task::yield_now().await;
    assert_eq!(pool.usage().waiting, 8);
    drop(crowd);
    other.abort();
}

#[tokio::test(start_paused = true)]
async fn permits_grow_and_are_given_back_whole() {
    let pool = pool(16);
    let (a, b) = (tenant("a"), tenant("b"));
    let mut upload = pool.acquire_many(&a, 3, SOON).await.unwrap();
    upload.grow(5, SOON).await.unwrap();
    assert_eq!((upload.amount(), pool.usage().held), (8, 8));
    assert_eq!(upload.grow(7, SOON).await.unwrap_err(), Refused::Share);
    assert_eq!(upload.amount(), 8);
    let other = pool.acquire_many(&b, 8, SOON).await.unwrap();
    drop(upload);
    assert_eq!(pool.usage().held, 8);
    drop(other);
    assert_eq!(pool.usage().holders, 1, "a was refused just now");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(pool.usage().holders, 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_larger_than_a_share_is_served_and_one_larger_than_the_pool_is_refused() {
    let pool = pool(4);
    let all = pool.acquire_many(&tenant("a"), 4, SOON).await.unwrap();
    assert_eq!(all.amount(), 4);
    assert_eq!(pool.try_acquire(&tenant("b")).unwrap_err(), Refused::Full);
    drop(all);
    assert_eq!(pool.acquire_many(&tenant("c"), 5, SOON).await.unwrap_err(), Refused::Full);
}

#[tokio::test(start_paused = true)]
async fn what_has_begun_gets_more_ahead_of_requests_that_wait_but_within_its_share() {
    let pool = pool(16);
    let mut begun = pool.acquire_many(&tenant("a"), 5, SOON).await.unwrap();
    let (waiting, holder) = (pool.clone(), tenant("b"));
    let waits = tokio::spawn(async move { waiting.acquire_many(&holder, 13, Duration::MAX).await });
    tokio::task::yield_now().await;
    begun.grow_ahead(3).unwrap();
    assert_eq!((begun.amount(), pool.usage().held, pool.usage().waiting), (8, 8, 13));
    assert_eq!(begun.grow_ahead(1).unwrap_err(), Refused::Share, "two contend for sixteen");
    drop(begun);
    assert_eq!(waits.await.unwrap().unwrap().amount(), 13);
}

#[tokio::test(start_paused = true)]
async fn permits_that_are_split_off_are_given_back_on_their_own() {
    let pool = pool(16);
    let mut permit = pool.acquire_many(&tenant("a"), 8, SOON).await.unwrap();
    let part = permit.split(3);
    assert_eq!((permit.amount(), part.amount(), pool.usage().held), (5, 3, 8));
    drop(permit);
    assert_eq!(pool.usage().held, 3);
    let mut part = part;
    assert_eq!(part.split(100).amount(), 3);
    drop(part);
    assert_eq!(pool.usage().holders, 0);
}

#[tokio::test(start_paused = true)]
async fn a_holder_learns_that_others_wait() {
    let pool = pool(1);
    let held = pool.try_acquire(&tenant("a")).unwrap();
    let wait = |name: &str| {
        let (pool, holder) = (pool.clone(), tenant(name));
        tokio::spawn(async move { pool.acquire(&holder, Duration::MAX).await.map(drop) })
    };
    let own = wait("a");
    tokio::task::yield_now().await;
    assert!(!held.others_wait(), "another request of its own is no other one");
    let other = wait("b");
    tokio::task::yield_now().await;
    assert!(held.others_wait());
    drop(held);
    own.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn refusals_of_many_strangers_take_bounded_memory() {
    let pool = pool(1);
    let _held = pool.try_acquire(&tenant("a")).unwrap();
    for stranger in 0..20_000 {
        assert!(pool.try_acquire(&Holder::tenant(format!("stranger {stranger}"))).is_err());
    }
    assert!(pool.usage().holders <= 4097, "{}", pool.usage().holders);
}

proptest! {
    /// Invariants over any order of taking and giving back: no more is held than there is, no tenant alone has everything,
    /// and a tenant without a permit gets one as long as one is free.
    #[test]
    fn shares_hold_whatever_happens(
        permits in 2_usize..40,
        steps in prop::collection::vec((0_usize..4, prop::bool::ANY), 1..300),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let pool = pool(permits);
            let mut held: BTreeMap<usize, Vec<Permit>> = BTreeMap::new();
            for (who, takes) in steps {
                let own = held.entry(who).or_default();
                if takes {
                    let before = pool.usage().held;
                    match pool.try_acquire(&tenant(&who.to_string())) {
                        Ok(permit) => own.push(permit),
                        Err(refused) => {
                            prop_assert!(!own.is_empty() || before == permits, "refused with nothing: {refused}");
                        }
                    }
                    prop_assert!(own.len() < permits);
                } else {
                    own.pop();
                }
                let sum: usize = held.values().map(Vec::len).sum();
                prop_assert_eq!(pool.usage().held, sum);
                prop_assert!(sum <= permits);
            }
            held.clear();
            prop_assert_eq!(pool.usage().held, 0);
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_for_newcomers_is_for_them_alone_and_holds_up_nobody() {
    let config =
        PoolConfig { sizing: Sizing::fixed(32), max_waiting: 8, reserve: Reserve::EighthAndNewcomers };
    let pool = Pool::new(config, Vec::new(), Box::new(()));
    let (a, b) = (tenant("a"), tenant("b"));
    let (of_a, of_b) = (all_it_gets(&pool, &a), all_it_gets(&pool, &b));
    assert_eq!((of_a.len(), of_b.len()), (28, 2), "two of 32 are for newcomers");
    assert_eq!((pool.lacking(&b), pool.lacking(&tenant("c"))), (1, 0));
    // One that cannot be told from others is no newcomer, and does not stand in the way of one while it waits.
    let newcomer = Holder::unknown(7);
    let waiting = pool.acquire(&newcomer, SOON);
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    let c = pool.try_acquire(&tenant("c")).unwrap();
    drop((of_a, c));
    assert!(waiting.await.is_ok());
}
