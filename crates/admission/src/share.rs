//! How much of a limit one holder may have: pure arithmetic.

/// What a holder that is alone leaves free for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserve {
    /// Nothing: for permits that come back by themselves within a moment.
    Nothing,
    /// An eighth of the limit, at least one permit of two: for permits that are held for as long as their holder likes.
    Eighth,
}

impl Reserve {
    fn of(self, limit: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Eighth if limit < 2 => 0,
            Self::Eighth => limit.div_ceil(8),
        }
    }
}

/// The most that each of so many contenders may hold of `limit`.
pub(crate) fn share(limit: usize, reserve: Reserve, contenders: usize) -> usize {
    let alone = limit - reserve.of(limit);
    match contenders {
        0 | 1 => alone,
        several => (limit / several).clamp(1.min(alone), alone),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_is_alone_leaves_an_eighth() {
        let alone = |limit| share(limit, Reserve::Eighth, 1);
        assert_eq!([0, 1, 2, 6, 8, 9, 512].map(alone), [0, 1, 1, 5, 7, 7, 448]);
        assert_eq!(share(6, Reserve::Nothing, 1), 6);
        assert_eq!(share(usize::MAX, Reserve::Eighth, 0), usize::MAX - usize::MAX.div_ceil(8));
    }

    #[test]
    fn several_get_equal_parts_and_at_least_one_each() {
        let of_twelve = |contenders| share(12, Reserve::Eighth, contenders);
        assert_eq!([2, 3, 5, 12, 100].map(of_twelve), [6, 4, 2, 1, 1]);
        assert_eq!(share(0, Reserve::Eighth, 5), 0);
    }

    proptest! {
        #[test]
        fn nobody_gets_more_by_having_more_rivals_and_two_always_fit(limit in 2_usize..10_000, n in 1_usize..50) {
            let now = share(limit, Reserve::Eighth, n);
            prop_assert!(now >= share(limit, Reserve::Eighth, n + 1));
            prop_assert!((1..limit).contains(&now), "one permit is left for another one");
        }
    }
}
