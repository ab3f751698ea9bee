//! How much processor time a file may cost: by its size, by the sound that has come out of it, and by the number of
//! minutes that no honest file needs. Whatever a hostile one makes a decoder do, it ends there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use verbatim_core::audio::SAMPLE_RATE;

/// What the smallest file may cost.
const BASE: Duration = Duration::from_secs(10);
/// What a second of sound may cost; a slow codec takes 10 ms of it on a slow machine.
const PER_SECOND: Duration = Duration::from_millis(50);
/// What a megabyte may cost, for files with much in them that is not heard.
const PER_MEGABYTE: Duration = Duration::from_secs(1);
/// What it may cost to open the smallest file, or one of several in it, until the first packet. Chosen far above what the files of
/// the tests take to open and decode together; opening alone was not measured.
const OPENING: Duration = Duration::from_secs(2);
/// What a megabyte may cost while it is opened: it is read and searched for marks.
const OPENING_PER_MEGABYTE: Duration = Duration::from_millis(50);
/// What the largest may cost.
const MOST: Duration = Duration::from_secs(300);

/// Tells the processor time that the calling thread has taken.
pub trait ProcessorClock: Send + Sync {
    /// Since the thread began.
    fn thread_time(&self) -> Duration;
}

/// The clock of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThreadClock;

impl ProcessorClock for ThreadClock {
    fn thread_time(&self) -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
    }
}

/// The processor time of one file, all of whose work is done on one thread.
pub(crate) struct Effort<'a> {
    clock: &'a dyn ProcessorClock,
    began: Duration,
    for_bytes: Duration,
    for_opening: Duration,
    /// When it began to be opened, in nanoseconds of the clock; [`OPEN`] once it is.
    opening_since: AtomicU64,
    samples: AtomicU64,
}

/// No moment: the file is open.
const OPEN: u64 = u64::MAX;

impl<'a> Effort<'a> {
    /// Begins now, for a file of `bytes`.
    pub(crate) fn new(clock: &'a dyn ProcessorClock, bytes: u64) -> Self {
        let megabytes = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let for_bytes = BASE.saturating_add(PER_MEGABYTE.saturating_mul(megabytes));
        let for_opening = OPENING.saturating_add(OPENING_PER_MEGABYTE.saturating_mul(megabytes));
        let (opening_since, samples) = (AtomicU64::new(OPEN), AtomicU64::new(0));
        Self { clock, began: clock.thread_time(), for_bytes, for_opening, opening_since, samples }
    }

    /// From now on the file, or the next one in it, is opened.
    pub(crate) fn opening(&self) {
        self.opening_since.store(nanos(self.clock.thread_time()), Ordering::Relaxed);
    }

    /// It is open.
    pub(crate) fn opened(&self) {
        self.opening_since.store(OPEN, Ordering::Relaxed);
    }

    /// So many samples at [`SAMPLE_RATE`] have been decoded.
    pub(crate) fn decoded(&self, samples: u64) {
        self.samples.store(samples, Ordering::Relaxed);
    }

    /// Whether it has cost more than it may.
    pub(crate) fn is_too_much(&self) -> bool {
        let seconds = self.samples.load(Ordering::Relaxed) / u64::from(SAMPLE_RATE);
        let for_sound = PER_SECOND.saturating_mul(u32::try_from(seconds).unwrap_or(u32::MAX));
        let allowed = self.for_bytes.saturating_add(for_sound).min(MOST);
        let now = self.clock.thread_time();
        let opening = nanos(now).saturating_sub(self.opening_since.load(Ordering::Relaxed));
        now.saturating_sub(self.began) > allowed || opening > nanos(self.for_opening)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that goes on by a second whenever it is looked at.
    #[derive(Default)]
    struct Ticks(AtomicU64);

    impl ProcessorClock for Ticks {
        fn thread_time(&self) -> Duration {
            Duration::from_secs(self.0.fetch_add(1, Ordering::Relaxed))
        }
    }

    fn looks(bytes: u64, seconds: u64) -> usize {
        let clock = Ticks::default();
        let effort = Effort::new(&clock, bytes);
        effort.decoded(seconds * u64::from(SAMPLE_RATE));
        (0..10_000).take_while(|_| !effort.is_too_much()).count()
    }

    #[test]
    fn a_file_may_cost_what_its_size_and_its_sound_explain() {
        assert_eq!(looks(0, 0), 10);
        assert_eq!(looks(20 << 20, 0), 30);
        assert_eq!(looks(0, 1000), 60);
        assert_eq!(looks(1 << 40, 100_000), 300, "minutes at most");
    }

    #[test]
    fn opening_a_file_may_cost_far_less() {
        for (bytes, expected) in [(0, 2), (20 << 20, 3)] {
            let clock = Ticks::default();
            let effort = Effort::new(&clock, bytes);
            effort.opening();
            assert_eq!((0..100).take_while(|_| !effort.is_too_much()).count(), expected);
            effort.opened();
            assert!(!effort.is_too_much(), "what is open may go on");
        }
    }

    #[test]
    fn the_clock_of_the_thread_goes_on_with_its_work() {
        let before = ThreadClock.thread_time();
        let work = |n: u64| (0..n).fold(1_u64, |sum, n| std::hint::black_box(sum.wrapping_mul(n | 1)));
        while ThreadClock.thread_time() == before {
            work(10_000);
        }
    }
}
