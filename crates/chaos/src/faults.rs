//! Which faults befall the cluster, and in which order: drawn from a seed, so that a run can be repeated.

use std::time::Duration;

use crate::random::Random;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of this worker.
    KillWorker(usize),
    /// SIGKILL of this API node.
    KillApi(usize),
    /// SIGSTOP of this worker for so long beyond its lease: it comes back as a zombie.
    FreezeWorker(usize, Duration),
    /// SIGKILL of Redis, which stays down for so long.
    KillRedis(Duration),
    /// SIGKILL of Redis, which stays down for so long beyond the lease: every lease runs out while its worker lives.
    Outage(Duration),
    /// SIGSTOP of Redis for so long beyond the lease, likewise; connections stay open.
    FreezeRedis(Duration),
    /// Every connection to Redis breaks.
    Cut,
    /// Everything to and from Redis is late by the first, for the second.
    Slow(Duration, Duration),
    /// Nothing comes through to Redis or back for so long.
    Stall(Duration),
    /// Redis forgets every script.
    ForgetScripts,
    /// The room for blobs is full for so long.
    FillBlobs(Duration),
    /// SIGTERM of this worker.
    RollWorker(usize),
    /// SIGTERM of this API node.
    RollApi(usize),
}

/// How many faults of each kind, and on how many nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dose {
    /// API nodes.
    pub apis: usize,
    /// Workers.
    pub workers: usize,
    /// SIGKILLs of workers.
    pub kill_worker: usize,
    /// SIGKILLs of API nodes.
    pub kill_api: usize,
    /// Zombies.
    pub freeze: usize,
    /// SIGKILLs of Redis.
    pub kill_redis: usize,
    /// Times that Redis is down for longer than a lease.
    pub outage: usize,
    /// Times that Redis is frozen for longer than a lease.
    pub freeze_redis: usize,
    /// Cut connections.
    pub cut: usize,
    /// Slow lines.
    pub slow: usize,
    /// Stalled lines.
    pub stall: usize,
    /// Forgotten scripts.
    pub forget: usize,
    /// Full disks.
    pub fill: usize,
    /// SIGTERMs of workers.
    pub roll_worker: usize,
    /// SIGTERMs of API nodes.
    pub roll_api: usize,
}

impl Dose {
    /// For every push: about a minute.
    pub const SHORT: Self = Self {
        apis: 2,
        workers: 4,
        kill_worker: 4,
        kill_api: 1,
        freeze: 1,
        kill_redis: 1,
        outage: 1,
        freeze_redis: 1,
        cut: 1,
        slow: 0,
        stall: 0,
        forget: 1,
        fill: 1,
        roll_worker: 1,
        roll_api: 0,
    };

    /// Before a release: many minutes.
    pub const LONG: Self = Self {
        kill_worker: 20,
        kill_api: 6,
        freeze: 6,
        kill_redis: 4,
        outage: 4,
        freeze_redis: 3,
        cut: 6,
        slow: 3,
        stall: 3,
        forget: 4,
        fill: 3,
        roll_worker: 4,
        roll_api: 2,
        ..Self::SHORT
    };
}

/// Draws one fault.
type Draw = fn(&mut Random, &Dose) -> Fault;

/// The faults of a dose in the order in which they happen, each drawn from the seed alone.
pub fn schedule(seed: u64, dose: &Dose) -> Vec<Fault> {
    let mut random = Random::new(seed);
    let mut faults = Vec::new();
    let draws: [(usize, Draw); 13] = [
        (dose.kill_worker, |random, dose| Fault::KillWorker(random.place(dose.workers))),
        (dose.kill_api, |random, dose| Fault::KillApi(random.place(dose.apis))),
        (dose.freeze, |random, dose| {
            Fault::FreezeWorker(random.place(dose.workers), millis(random, 1000, 3000))
        }),
        (dose.kill_redis, |random, _| Fault::KillRedis(millis(random, 0, 2000))),
        (dose.outage, |random, _| Fault::Outage(millis(random, 500, 6000))),
        (dose.freeze_redis, |random, _| Fault::FreezeRedis(millis(random, 500, 4000))),
        (dose.cut, |_, _| Fault::Cut),
        (dose.slow, |random, _| Fault::Slow(millis(random, 20, 150), millis(random, 1000, 3000))),
        (dose.stall, |random, _| Fault::Stall(millis(random, 1000, 4000))),
        (dose.forget, |_, _| Fault::ForgetScripts),
        (dose.fill, |random, _| Fault::FillBlobs(millis(random, 1000, 3000))),
        (dose.roll_worker, |random, dose| Fault::RollWorker(random.place(dose.workers))),
        (dose.roll_api, |random, dose| Fault::RollApi(random.place(dose.apis))),
    ];
    for (times, draw) in draws {
        faults.extend((0..times).map(|_| draw(&mut random, dose)));
    }
    random.shuffle(&mut faults);
    faults
}

fn millis(random: &mut Random, low: u64, high: u64) -> Duration {
    Duration::from_millis(random.between(low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        assert_eq!(schedule(1, &Dose::LONG), schedule(1, &Dose::LONG));
        assert_ne!(schedule(1, &Dose::LONG), schedule(2, &Dose::LONG));
    }

    #[test]
    fn the_long_dose_is_at_least_what_was_asked_for() {
        let faults = schedule(3, &Dose::LONG);
        let count = |wanted: fn(&Fault) -> bool| faults.iter().filter(|fault| wanted(fault)).count();
        assert!(count(|fault| matches!(fault, Fault::KillWorker(_) | Fault::KillApi(_))) >= 20);
        assert!(count(|fault| matches!(fault, Fault::KillRedis(_))) >= 3);
        assert!(count(|fault| matches!(fault, Fault::FreezeWorker(..))) >= 5);
    }

    #[test]
    fn faults_befall_nodes_that_are_there() {
        for fault in (0..50).flat_map(|seed| schedule(seed, &Dose::SHORT)) {
            match fault {
                Fault::KillWorker(node) | Fault::FreezeWorker(node, _) | Fault::RollWorker(node) => {
                    assert!(node < Dose::SHORT.workers);
                }
                Fault::KillApi(node) | Fault::RollApi(node) => assert!(node < Dose::SHORT.apis),
                _ => {}
            }
        }
    }
}
