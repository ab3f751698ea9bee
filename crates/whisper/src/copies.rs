//! The copies of a model's weights: as many calls run at once as there are copies.
//!
//! Each is loaded from the files. CTranslate2 could also copy one within a device, but what MKL has packed for the processor does
//! not survive that everywhere: the copy of it makes MKL divide by zero on Emerald Rapids (CTranslate2 4.8.4).

use std::ops::Deref;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};

use ct2rs::sys::{Config, Whisper};

use crate::error::LoadError;

pub(crate) struct Copies {
    free: Mutex<Vec<Whisper>>,
    returned: Condvar,
}

/// A copy that nobody else uses meanwhile.
pub(crate) struct Borrowed<'a> {
    copies: &'a Copies,
    /// Present until it is given back.
    copy: Option<Whisper>,
}

impl Copies {
    /// Loads one for each of `configs`, all at the same time.
    ///
    /// # Errors
    /// [`LoadError::Refused`] when CTranslate2 does not like the files.
    pub(crate) fn load(folder: &Path, configs: Vec<Config>) -> Result<Self, LoadError> {
        let loaded: Result<Vec<Whisper>, _> = std::thread::scope(|scope| {
            let loading: Vec<_> =
                configs.into_iter().map(|config| scope.spawn(|| Whisper::new(folder, config))).collect();
            let loaded = loading.into_iter().map(|one| one.join());
            // CTranslate2 does not panic; if it did, there would be no engine anyway.
            loaded.map(|one| one.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let refused = |source| LoadError::Refused { folder: folder.to_owned(), source };
        Ok(Self {
            free: Mutex::new(loaded.map_err(|error| refused(error.into()))?),
            returned: Condvar::new(),
        })
    }

    /// One that is free, as soon as there is one.
    pub(crate) fn borrow(&self) -> Borrowed<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.returned.wait_while(free, |free| free.is_empty());
        let copy = waited.unwrap_or_else(PoisonError::into_inner).pop();
        Borrowed { copies: self, copy }
    }
}

impl Deref for Borrowed<'_> {
    type Target = Whisper;

    fn deref(&self) -> &Whisper {
        self.copy.as_ref().expect("it is given back by the drop alone")
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let mut free = self.copies.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.extend(self.copy.take());
        self.copies.returned.notify_one();
    }
}
