//! What surrounds decoding: its limits, whose turn it is, and where decoded audio may be put.

use std::fmt;
use std::path::{Path, PathBuf};

use verbatim_core::audio::AudioLimits;
use verbatim_core::{CancellationToken, PortError};

use crate::effort::{ProcessorClock, ThreadClock};

/// Somebody who decides between two packets whether it is still this decoder's turn.
pub trait Pace: Send + Sync {
    /// Called between packets and between blocks of samples, very often. Blocks until it is this decoder's turn again.
    fn step(&self);
}

/// It always is.
impl Pace for () {
    fn step(&self) {}
}

/// What gives room back when it is dropped.
pub type Reservation = Box<dyn fmt::Debug + Send + Sync>;

/// The folder for decoded audio that does not stay in memory.
pub trait Scratch: Send + Sync {
    /// Where it is.
    fn folder(&self) -> &Path;

    /// Room for so many bytes more, asked for before they are written.
    ///
    /// # Errors
    /// `OutOfSpace` when there is no room for them now.
    fn reserve(&self, bytes: u64) -> Result<Reservation, PortError>;
}

/// A folder with as much room as its disk has.
#[derive(Debug, Clone)]
pub struct Folder(pub PathBuf);

impl Scratch for Folder {
    fn folder(&self) -> &Path {
        &self.0
    }

    fn reserve(&self, _: u64) -> Result<Reservation, PortError> {
        Ok(Box::new(()))
    }
}

/// What surrounds the decoding of one file.
#[derive(Clone, Copy)]
pub struct Conditions<'a> {
    /// What the audio has to stay within.
    pub limits: &'a AudioLimits,
    /// Where long audio goes.
    pub scratch: &'a dyn Scratch,
    /// Ends the work.
    pub cancel: &'a CancellationToken,
    /// Whose turn it is.
    pub pace: &'a dyn Pace,
    /// What tells how much processor time the work has taken.
    pub clock: &'a dyn ProcessorClock,
}

impl<'a> Conditions<'a> {
    /// Within `limits`, in `scratch`, until `cancel`; on the clock of the thread, with nobody else waiting.
    pub fn new(limits: &'a AudioLimits, scratch: &'a dyn Scratch, cancel: &'a CancellationToken) -> Self {
        Self { limits, scratch, cancel, pace: &(), clock: &ThreadClock }
    }
}
