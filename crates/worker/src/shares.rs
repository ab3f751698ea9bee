//! Who may take how much of something that is scarce. Whoever waits alone may have all but an eighth, so that the next to
//! come finds something; where several wait, none gets more than an equal part. What is held stays.

use std::collections::BTreeMap;

/// The part that nobody has while he is alone.
const RESERVE: u64 = 8;

/// What each owner holds and waits for. The unit is the caller's: places, bytes.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    owners: BTreeMap<String, Owner>,
    held: u64,
}

#[derive(Debug, Default)]
struct Owner {
    held: u64,
    waiting: usize,
}

impl Shares {
    /// What all hold together.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// How many hold or wait for something.
    pub(crate) fn owners(&self) -> usize {
        self.owners.len()
    }

    /// Whether `owner` may take `amount` more of `limit` now. Whoever holds nothing may take what is there, however small
    /// the parts are.
    pub(crate) fn may_take(&self, owner: &str, amount: u64, limit: u64) -> bool {
        let own = self.owners.get(owner).map_or(0, |owner| owner.held);
        let waits = |(name, other): &(&String, &Owner)| *name != owner && other.waiting > 0;
        let others = self.owners.iter().filter(waits).count() as u64;
        let part = if others == 0 { limit - limit / RESERVE } else { limit / (others + 1) };
        let within_part = own == 0 || own.saturating_add(amount) <= part;
        within_part && self.held.saturating_add(amount) <= limit
    }

    /// `owner` takes `amount`.
    pub(crate) fn take(&mut self, owner: &str, amount: u64) {
        self.owners.entry(owner.to_owned()).or_default().held += amount;
        self.held += amount;
    }

    /// `owner` gives `amount` back.
    pub(crate) fn give_back(&mut self, owner: &str, amount: u64) {
        self.change(owner, |owner| owner.held = owner.held.saturating_sub(amount));
        self.held = self.held.saturating_sub(amount);
    }

    /// `owner` begins to wait.
    pub(crate) fn wait(&mut self, owner: &str) {
        self.owners.entry(owner.to_owned()).or_default().waiting += 1;
    }

    /// `owner` waits no longer.
    pub(crate) fn leave(&mut self, owner: &str) {
        self.change(owner, |owner| owner.waiting = owner.waiting.saturating_sub(1));
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Owner)) {
        if let Some(owner) = self.owners.get_mut(name) {
            change(owner);
            if owner.held == 0 && owner.waiting == 0 {
                self.owners.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much each of `owners` can take of `limit`, one after the other, while all of them wait.
    fn taken(owners: &[&str], limit: u64) -> Vec<u64> {
        let mut shares = Shares::default();
        owners.iter().for_each(|owner| shares.wait(owner));
        let mut take = |owner: &&str| {
            (0..limit)
                .take_while(|_| {
                    shares.may_take(owner, 1, limit) && {
                        shares.take(owner, 1);
                        true
                    }
                })
                .count() as u64
        };
        owners.iter().map(&mut take).collect()
    }

    #[test]
    fn one_leaves_an_eighth_and_several_share_equally() {
        assert_eq!(taken(&["a"], 16), [14]);
        assert_eq!(taken(&["a"], 2), [2], "too few to keep one back");
        assert_eq!(taken(&["a", "b"], 16), [8, 8]);
        assert_eq!(taken(&["a", "b", "c"], 16), [5, 5, 5]);
        assert_eq!(taken(&["a", "b", "c"], 2), [1, 1, 0], "there is no part for all");
    }

    #[test]
    fn what_is_held_stays_and_the_next_to_come_finds_the_reserve() {
        let mut shares = Shares::default();
        shares.take("a", 14);
        assert!(!shares.may_take("a", 1, 16));
        shares.wait("b");
        assert!(shares.may_take("b", 2, 16) && !shares.may_take("b", 3, 16));
        shares.take("b", 2);
        shares.leave("b");
        shares.give_back("a", 6);
        assert!(shares.may_take("a", 6, 16), "nobody else waits for it");
        shares.wait("b");
        assert!(!shares.may_take("a", 1, 16), "a has its half");
        shares.wait("a");
        assert!(shares.may_take("b", 6, 16) && !shares.may_take("b", 7, 16));
        shares.leave("a");
        shares.give_back("a", 8);
        assert!(shares.may_take("b", 12, 16) && !shares.may_take("b", 13, 16), "b is alone again");
        assert_eq!(shares.held(), 2);
    }
}
