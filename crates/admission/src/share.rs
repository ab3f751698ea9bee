//! The rule of shares, as arithmetic: how many permits one holder may have.

/// Permits that a holder leaves free while it is the only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserve {
    /// None: where permits come back within a moment, the next holder need not find one free.
    Nothing,
    /// An eighth, rounded up, but never the only permit: where permits are held for as long as their holder likes.
    Eighth,
}

impl Reserve {
    fn of(self, permits: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Eighth if permits < 2 => 0,
            Self::Eighth => permits.div_ceil(8),
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

    proptest! {
        #[test]
        fn a_share_never_grows_with_contenders_and_two_always_fit(limit in 2_usize..10_000, n in 1_usize..50) {
            let now = share(limit, Reserve::Eighth, n);
            prop_assert!(now >= share(limit, Reserve::Eighth, n + 1));
            prop_assert!((1..limit).contains(&now), "one permit is left for the next holder");
        }
    }
}
