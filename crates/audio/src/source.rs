//! The upload as everything that opens it reads it: it can be cancelled, gives way to others, does bounded work and
//! remembers why a read failed.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use symphonia::core::io::MediaSource;
use verbatim_core::CancellationToken;

use crate::conditions::{Conditions, Pace};
use crate::effort::Effort;
use crate::error::AudioError;

/// A demuxer may read the file this many times over, which seeking around in a well-formed file stays far below.
const READS_PER_BYTE: u64 = 16;
/// Work that even the smallest file may cause, in bytes read.
const SMALLEST_BUDGET: u64 = 64 << 20;

/// Why a read failed. Demuxers take a failed read for the end of the file, so it has to be asked for afterwards.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReadFault(Arc<OnceLock<Fault>>);

#[derive(Debug)]
enum Fault {
    Cancelled,
    TooMuchWork,
    TooCostly,
    Io(io::ErrorKind, String),
}

impl ReadFault {
    /// The first fault, if there was one.
    pub(crate) fn check(&self) -> Result<(), AudioError> {
        match self.0.get() {
            None => Ok(()),
            Some(Fault::Cancelled) => Err(AudioError::Cancelled),
            Some(Fault::TooMuchWork) => Err(AudioError::malformed("its index sends the reader in circles")),
            Some(Fault::TooCostly) => Err(AudioError::TooCostly),
            Some(Fault::Io(kind, message)) => {
                Err(AudioError::io("reading the audio failed", io::Error::new(*kind, message.clone())))
            }
        }
    }

    fn raise(&self, fault: Fault) -> io::Error {
        // The first fault is the cause of the later ones.
        let _ = self.0.set(fault);
        io::Error::other("the source has failed")
    }
}

/// A source that starts at `base` of the inner one and never reads past what it may.
pub(crate) struct GuardedSource<'a, S> {
    inner: S,
    base: u64,
    len: u64,
    /// Where the next read begins.
    at: u64,
    budget: u64,
    effort: Arc<Effort<'a>>,
    pace: &'a dyn Pace,
    cancel: CancellationToken,
    fault: ReadFault,
}

impl<'a, S: Read + Seek> GuardedSource<'a, S> {
    /// Wraps these bytes of `inner`.
    pub(crate) fn new(
        inner: S,
        bytes: Range<u64>,
        effort: Arc<Effort<'a>>,
        conditions: &Conditions<'a>,
    ) -> io::Result<Self> {
        let (base, len) = (bytes.start, bytes.end.saturating_sub(bytes.start));
        let budget = len.saturating_mul(READS_PER_BYTE).saturating_add(SMALLEST_BUDGET);
        let fault = ReadFault::default();
        let Conditions { limits: _, scratch: _, cancel, pace, clock: _ } = *conditions;
        let mut source =
            Self { inner, base, len, at: 0, budget, effort, pace, cancel: cancel.clone(), fault };
        source.inner.seek(SeekFrom::Start(base))?;
        Ok(source)
    }

    /// Where to ask why reads failed.
    pub(crate) fn fault(&self) -> ReadFault {
        self.fault.clone()
    }
}

impl<S: Read + Seek> Read for GuardedSource<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(self.fault.raise(Fault::Cancelled));
        }
        // Readers that open a file, or look for a place to go on from, may read all of it before they give a packet.
        self.pace.step();
        if self.effort.is_too_much() {
            return Err(self.fault.raise(Fault::TooCostly));
        }
        let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let count = loop {
            match self.inner.read(&mut buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fault.raise(Fault::Io(error.kind(), error.to_string()))),
                Ok(count) => break count,
            }
        };
        self.at += count as u64;
        // A read at the end costs as well: a loop that reads nothing for ever is still a loop.
        self.budget = self.budget.saturating_sub(count.max(64) as u64);
        if self.budget == 0 {
            return Err(self.fault.raise(Fault::TooMuchWork));
        }
        Ok(count)
    }
}

impl<S: Seek> Seek for GuardedSource<'_, S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => self.len.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        let at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.inner.seek(SeekFrom::Start(self.base.saturating_add(at)))?;
        self.at = at;
        Ok(at)
    }
}

impl<S: Read + Seek + Send + Sync> MediaSource for GuardedSource<'_, S> {
    /// Readers of streams need no index, and what they guess from the file's length when they can seek in it, such as the
    /// duration of an mp3, would only mislead them. Those of ours seek all the same.
    fn is_seekable(&self) -> bool {
        false
    }

    fn byte_len(&self) -> Option<u64> {
        None
    }
}
