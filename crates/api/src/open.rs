//! The connections of a node that are open, and which of them gives way when there are no more: nobody who holds many, and
//! lets them idle, can keep out who holds none. A request under way is never cut.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use verbatim_admission::Holder;
use verbatim_core::CancellationToken;
use verbatim_telemetry::limits::{ConnectionEnd, ConnectionsClosed};

use crate::connection::{Progress, Yields};

/// The open connections by holder; clones share it.
#[derive(Clone)]
pub(crate) struct Open {
    table: Arc<Mutex<Table>>,
    closed: ConnectionsClosed,
}

/// A connection, for as long as it is open.
pub(crate) struct Listed {
    open: Open,
    holder: Holder,
    number: u64,
}

#[derive(Default)]
struct Table {
    /// Those that were not asked to close, by number.
    holders: HashMap<Holder, HashMap<u64, Entry>>,
    /// How many each holder has of them.
    sizes: BTreeSet<(usize, Holder)>,
    /// Those that were asked to close and will at once.
    closing: BTreeSet<u64>,
}

struct Entry {
    progress: Progress,
    close: CancellationToken,
}

impl Open {
    pub(crate) fn new(closed: ConnectionsClosed) -> Self {
        Self { table: Arc::default(), closed }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection, which `close` asks to end after the request under way.
    pub(crate) fn add(
        &self,
        holder: Holder,
        number: u64,
        progress: Progress,
        close: CancellationToken,
    ) -> Listed {
        self.table().change(&holder, |own| own.insert(number, Entry { progress, close }));
        Listed { open: self.clone(), holder, number }
    }

    /// Asks as many connections to close as `holder` lacks to get one itself, if others have more than it. Idle ones do at
    /// once, the one that has been idle longest of whoever has most first; where none is idle, one with a request is
    /// asked to close after its answer. Whether room will come of it.
    pub(crate) fn make_room(&self, holder: &Holder, lacking: usize) -> bool {
        let mut table = self.table();
        while table.closing.len() < lacking {
            let Some(Choice { yields, of, number }) = table.choose(holder) else { return false };
            let Some(entry) = table.change(&of, |own| own.remove(&number)) else { return false };
            entry.close.cancel();
            self.closed.count(ConnectionEnd::GaveWay);
            tracing::debug!(holder = ?of, "a connection gives way to another holder's");
            if yields == Yields::AfterAnswer {
                // Nobody knows when that is: one is asked at a time.
                return true;
            }
            table.closing.insert(number);
        }
        lacking > 0
    }
}

/// A connection that is to close.
struct Choice {
    yields: Yields,
    of: Holder,
    number: u64,
}

impl Table {
    fn change<T>(&mut self, holder: &Holder, change: impl FnOnce(&mut HashMap<u64, Entry>) -> T) -> T {
        let own = self.holders.entry(holder.clone()).or_default();
        let before = own.len();
        let outcome = change(own);
        let after = own.len();
        if after == 0 {
            self.holders.remove(holder);
        }
        self.sizes.remove(&(before, holder.clone()));
        if after > 0 {
            self.sizes.insert((after, holder.clone()));
        }
        outcome
    }

    /// The connection that gives way to one more of `holder`: of one that has more than it would have then, or any if it has
    /// none.
    fn choose(&self, holder: &Holder) -> Option<Choice> {
        let own = self.holders.get(holder).map_or(0, HashMap::len);
        let least = if own == 0 { 1 } else { own + 2 };
        let mut busy = None;
        let mut sizes = self.sizes.iter().rev().take_while(|(size, _)| *size >= least).peekable();
        while let Some((size, of)) = sizes.next() {
            // Of several that have as many, the oldest of all.
            let mut level = vec![of];
            while let Some((_, of)) = sizes.next_if(|(next, _)| next == size) {
                level.push(of);
            }
            let found = level.into_iter().filter_map(|of| self.oldest(of)).min_by_key(|(key, ..)| *key);
            match found {
                Some(((Yields::AtOnce, _), of, number)) => {
                    return Some(Choice { yields: Yields::AtOnce, of: of.clone(), number });
                }
                Some(((yields, _), of, number)) if busy.is_none() => {
                    busy = Some(Choice { yields, of: of.clone(), number });
                }
                _ => {}
            }
        }
        busy
    }

    /// The connection of a holder that yields first.
    fn oldest<'a>(&self, of: &'a Holder) -> Option<((Yields, tokio::time::Instant), &'a Holder, u64)> {
        let own = self.holders.get(of)?.iter();
        own.filter_map(|(number, entry)| Some((entry.progress.yields()?, of, *number)))
            .min_by_key(|(key, ..)| *key)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut table = self.open.table();
        if !table.closing.remove(&self.number) {
            table.change(&self.holder, |own| own.remove(&self.number));
        }
    }
}
