//! The rule of shares, as arithmetic: how many permits one holder may have.

use crate::pool::Refused;

/// Permits that a holder leaves free while it is the only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserve {
    /// None: where permits come back within a moment, the next holder need not find one free.
    Nothing,
    /// An eighth, rounded up, but never the only permit: where permits are held for as long as their holder likes.
    Eighth,
    /// The same, and half of it for holders that have none yet, however many contend: where strangers hold permits.
    EighthAndNewcomers,
}

impl Reserve {
    fn of(self, permits: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Eighth | Self::EighthAndNewcomers if permits < 2 => 0,
            Self::Eighth | Self::EighthAndNewcomers => permits.div_ceil(8),
        }
    }

    /// The part of the permits that only holders without any may have.
    pub(crate) fn for_newcomers(self, permits: usize) -> usize {
        match self {
            Self::EighthAndNewcomers if permits >= 2 => permits.div_ceil(16),
            Self::EighthAndNewcomers | Self::Eighth | Self::Nothing => 0,
        }
    }
}

/// The most permits that each of so many contenders may hold. The share of many is at least one permit, so that they
/// come in one after the other where there are fewer permits than contenders.
pub(crate) fn share(permits: usize, reserve: Reserve, contenders: usize) -> usize {
    let alone = permits - reserve.of(permits);
    match contenders {
        0 | 1 => alone,
        several => (permits / several).clamp(1.min(alone), alone),
    }
}

/// What the holders of a store keep in it, where that is counted in a database instead of a [`crate::Pool`]. There is no
/// queue: every holder that keeps something contends, once no more than the reserve is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    /// The most that all may keep together.
    pub limit: usize,
    /// What all keep.
    pub total: usize,
    /// What the holder keeps that asks for more.
    pub own: usize,
    /// Holders that keep something.
    pub holders: usize,
}

impl Holdings {
    /// The total up to which shares are not looked at: all but the reserve.
    pub fn unshared(limit: usize) -> usize {
        share(limit, Reserve::Eighth, 1)
    }

    /// Whether the holder may keep one more.
    ///
    /// # Errors
    /// The reason why it may not.
    pub fn admit(self) -> Result<(), Refused> {
        let Self { limit, total, own, holders } = self;
        if total >= limit {
            return Err(Refused::Full);
        }
        let contenders = holders + usize::from(own == 0);
        let within = total < Self::unshared(limit) || own < share(limit, Reserve::Eighth, contenders);
        if within { Ok(()) } else { Err(Refused::Share) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_holder_that_is_alone_leaves_an_eighth() {
        let alone = |limit| share(limit, Reserve::Eighth, 1);
        assert_eq!([0, 1, 2, 6, 8, 9, 512].map(alone), [0, 1, 1, 5, 7, 7, 448]);
        assert_eq!(share(6, Reserve::Nothing, 1), 6);
        assert_eq!(share(usize::MAX, Reserve::Eighth, 0), usize::MAX - usize::MAX.div_ceil(8));
    }

    #[test]
    fn several_get_equal_shares_of_at_least_one_permit() {
        let of_twelve = |contenders| share(12, Reserve::Eighth, contenders);
        assert_eq!([2, 3, 5, 12, 100].map(of_twelve), [6, 4, 2, 1, 1]);
        assert_eq!(share(0, Reserve::Eighth, 5), 0);
    }

    #[test]
    fn a_store_is_shared_once_only_the_reserve_is_left() {
        let admit = |total, own, holders| Holdings { limit: 24, total, own, holders }.admit();
        assert_eq!(admit(20, 20, 1), Ok(()));
        assert_eq!(admit(21, 21, 1), Err(Refused::Share), "the holder is alone and leaves an eighth");
        assert_eq!(admit(21, 0, 1), Ok(()), "the next one finds it");
        assert_eq!(admit(20, 15, 2), Ok(()), "nothing is short yet");
        assert_eq!([admit(22, 11, 2), admit(22, 12, 2)], [Ok(()), Err(Refused::Share)]);
        assert_eq!([admit(22, 7, 3), admit(22, 8, 3)], [Ok(()), Err(Refused::Share)]);
        assert_eq!(admit(23, 0, 100), Ok(()), "a share is one at least");
        assert_eq!([admit(24, 0, 2), admit(24, 12, 2)], [Err(Refused::Full); 2]);
        assert_eq!(Holdings { limit: 0, total: 0, own: 0, holders: 0 }.admit(), Err(Refused::Full));
    }

    proptest! {
        #[test]
        fn a_share_never_grows_with_contenders_and_two_always_fit(limit in 2_usize..10_000, n in 1_usize..50) {
            let now = share(limit, Reserve::Eighth, n);
            prop_assert!(now >= share(limit, Reserve::Eighth, n + 1));
            prop_assert!((1..limit).contains(&now), "one permit is left for the next holder");
        }
    }
}
