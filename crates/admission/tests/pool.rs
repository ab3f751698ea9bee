//! A pool without regard to shares: requests wait, are served in order or refused, the pool grows, and no permit is lost.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use verbatim_admission::{Headroom, Holder, Permit, Pool, PoolConfig, PoolUse, Refused, Reserve, Sizing};

const SOON: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::MAX;

fn pool(sizing: Sizing, max_waiting: usize) -> Pool {
    Pool::new(PoolConfig { sizing, max_waiting, reserve: Reserve::Nothing }, Vec::new(), Box::new(()))
}

async fn acquire(pool: &Pool, patience: Duration) -> Result<Permit, Refused> {
    pool.acquire(&Holder::tenant("somebody"), patience).await
}

fn held_and_waiting(pool: &Pool) -> (usize, usize) {
    let PoolUse { permits: _, max: _, held, waiting, holders: _ } = pool.usage();
    (held, waiting)
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_permit_waits_and_is_refused_in_the_end() {
    let pool = pool(Sizing::fixed(1), 10);
    let permit = acquire(&pool, SOON).await.unwrap();
    let began = Instant::now();
    assert_eq!(acquire(&pool, SOON).await.unwrap_err(), Refused::Full);
    assert_eq!(began.elapsed(), SOON);
    assert_eq!(acquire(&pool, Duration::ZERO).await.unwrap_err(), Refused::Full);
    assert_eq!(held_and_waiting(&pool), (1, 0));
    drop(permit);
    assert!(acquire(&pool, Duration::ZERO).await.is_ok());
    assert_eq!(held_and_waiting(&pool), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn requests_are_served_in_order_and_those_that_gave_up_are_passed_over() {
    let pool = pool(Sizing::fixed(1), 10);
    let permit = acquire(&pool, SOON).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let waits = |number: u32| {
        let (pool, order) = (pool.clone(), order.clone());
        tokio::spawn(async move {
            let permit = acquire(&pool, LONG).await.unwrap();
            order.lock().unwrap().push(number);
            tokio::time::sleep(SOON).await;
            drop(permit);
        })
    };
    let mut tasks = Vec::new();
    for number in 0..4 {
        tasks.push(waits(number));
        tokio::task::yield_now().await;
    }
    assert_eq!(held_and_waiting(&pool), (1, 4));
    tasks.remove(1).abort();
    tokio::task::yield_now().await;
    assert_eq!(held_and_waiting(&pool), (1, 3));
    drop(permit);
    join_all(tasks).await;
    assert_eq!(*order.lock().unwrap(), [0, 2, 3]);
    assert_eq!(held_and_waiting(&pool), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_permit_sent_to_a_request_that_gave_up_is_not_lost() {
    let pool = pool(Sizing::fixed(1), 10);
    let permit = acquire(&pool, SOON).await.unwrap();
    let mut first = Box::pin(acquire(&pool, LONG));
    assert!(futures::poll!(&mut first).is_pending());
    // The permit is on its way to `first`, which never looks again.
    drop(permit);
    assert_eq!(held_and_waiting(&pool), (1, 0));
    drop(first);
    assert_eq!(held_and_waiting(&pool), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn where_enough_wait_already_a_request_is_refused_at_once() {
    let one = pool(Sizing::fixed(1), 1);
    let _permit = acquire(&one, SOON).await.unwrap();
    let mut waits = Box::pin(acquire(&one, LONG));
    assert!(futures::poll!(&mut waits).is_pending());
    let began = Instant::now();
    assert!(acquire(&one, LONG).await.is_err());
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(
        acquire(&pool(Sizing::fixed(0), 1), LONG).await.is_err(),
        "a permit that never comes is not waited for"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pool_where_nobody_may_wait_serves_whom_it_can() {
    let pool = pool(Sizing::fixed(1), 0);
    let permit = acquire(&pool, SOON).await.unwrap();
    assert!(acquire(&pool, SOON).await.is_err());
    drop(permit);
    assert!(pool.try_acquire(&Holder::tenant("somebody")).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_crowd_makes_the_pool_grow_up_to_its_maximum_and_in_the_end_it_shrinks_again() {
    let pool = pool(Sizing::between(4, 32), 1_000);
    let (peak, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let visitors = (0..200).map(|_| {
        let (pool, peak, served) = (pool.clone(), peak.clone(), served.clone());
        tokio::spawn(async move {
            let permit = acquire(&pool, LONG).await.unwrap();
            let used = pool.usage();
            assert!(used.held <= used.permits && used.permits <= 32);
            peak.fetch_max(used.held, Ordering::Relaxed);
            tokio::time::sleep(SOON).await;
            drop(permit);
            served.fetch_add(1, Ordering::Relaxed);
        })
    });
    join_all(visitors).await;
    assert_eq!((served.load(Ordering::Relaxed), peak.load(Ordering::Relaxed)), (200, 32));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(pool.usage(), PoolUse { permits: 4, max: 32, held: 0, waiting: 0, holders: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_gets_the_permit_by_which_the_pool_grows() {
    let pool = pool(Sizing::between(1, 2), 10);
    let _first = acquire(&pool, SOON).await.unwrap();
    let began = Instant::now();
    let _second = acquire(&pool, SOON).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_permits_than_the_scarcest_resource_allows() {
    let free = Arc::new(AtomicU64::new(25));
    let seen = free.clone();
    let scarce = Headroom::bytes(move || Some(seen.load(Ordering::Relaxed)), 10);
    let plenty = Headroom::bytes(|| Some(u64::MAX), 1);
    let unknown = Headroom::bytes(|| None, 1);
    let config = PoolConfig { sizing: Sizing::between(1, 100), max_waiting: 10, reserve: Reserve::Nothing };
    let pool = Pool::new(config, vec![unknown, scarce, plenty], Box::new(()));
    let _first = acquire(&pool, SOON).await.unwrap();
    let _second = acquire(&pool, SOON).await.unwrap();
    free.store(5, Ordering::Relaxed);
    assert!(acquire(&pool, SOON).await.is_err());
    free.store(10, Ordering::Relaxed);
    assert!(acquire(&pool, SOON).await.is_ok());
}

/// A pool that is as large as the room that the test says there is.
fn pool_of_a_room() -> (Pool, Arc<AtomicUsize>) {
    let room = Arc::new(AtomicUsize::new(10));
    let seen = room.clone();
    let headroom = Headroom::permits(move || Some(seen.load(Ordering::Relaxed)));
    let config = PoolConfig { sizing: Sizing::room(), max_waiting: 10, reserve: Reserve::Nothing };
    (Pool::new(config, vec![headroom], Box::new(())), room)
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_is_served_once_another_process_has_made_room() {
    let (pool, room) = pool_of_a_room();
    let somebody = Holder::tenant("somebody");
    let held = pool.acquire_many(&somebody, 7, SOON).await.unwrap();
    let mut waits = Box::pin(pool.acquire_many(&somebody, 5, LONG));
    assert!(futures::poll!(&mut waits).is_pending());
    room.store(12, Ordering::Relaxed);
    assert_eq!(waits.await.unwrap().amount(), 5);
    assert_eq!((held.amount(), held_and_waiting(&pool)), (7, (7, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_longer_fits_into_an_empty_room_is_refused_and_holds_up_nobody() {
    let (pool, room) = pool_of_a_room();
    let somebody = Holder::tenant("somebody");
    let _held = pool.acquire_many(&somebody, 4, SOON).await.unwrap();
    assert_eq!(pool.acquire_many(&somebody, 11, LONG).await.unwrap_err(), Refused::Full);
    let mut large = Box::pin(pool.acquire_many(&somebody, 8, LONG));
    assert!(futures::poll!(&mut large).is_pending());
    let mut small = Box::pin(pool.acquire_many(&somebody, 3, LONG));
    assert!(futures::poll!(&mut small).is_pending(), "nobody overtakes the large one");
    room.store(7, Ordering::Relaxed);
    assert_eq!(large.await.unwrap_err(), Refused::Full);
    assert_eq!(small.await.unwrap().amount(), 3);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_always_there() {
    let pool = pool(Sizing::fixed(1), 1);
    let _all = acquire(&pool, SOON).await.unwrap();
    let none = pool.acquire_many(&Holder::tenant("another"), 0, SOON).await.unwrap();
    assert_eq!((none.amount(), held_and_waiting(&pool)), (0, (1, 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_that_come_wait_and_go_leave_no_permit_behind() {
    let pool = pool(Sizing::between(2, 4), 1_000);
    let inside = Arc::new(AtomicUsize::new(0));
    let visitors = (0..64_u64).map(|visitor| {
        let (pool, inside) = (pool.clone(), inside.clone());
        tokio::spawn(async move {
            let holder = Holder::tenant(format!("tenant {}", visitor % 5));
            for round in 0..50 {
                let patience = Duration::from_micros((visitor * 7 + round * 13) % 200);
                if let Ok(permit) = pool.acquire(&holder, patience).await {
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < 4);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                }
            }
        })
    });
    for visitor in join_all(visitors).await {
        visitor.unwrap();
    }
    assert_eq!(held_and_waiting(&pool), (0, 0));
}
