//! The upload as the demuxers read it: it can be cancelled, does bounded work and remembers why a read failed.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, OnceLock};

use symphonia::core::io::MediaSource;
use verbatim_core::CancellationToken;

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
    Io(io::ErrorKind, String),
}

impl ReadFault {
    /// The first fault, if there was one.
    pub(crate) fn check(&self) -> Result<(), AudioError> {
        match self.0.get() {
            None => Ok(()),
            Some(Fault::Cancelled) => Err(AudioError::Cancelled),
            Some(Fault::TooMuchWork) => Err(AudioError::malformed("its index sends the reader in circles")),
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
pub(crate) struct GuardedSource<S> {
    inner: S,
    base: u64,
    len: u64,
    seekable: bool,
    budget: u64,
    /// Where boxes of MP4 are made to look unused, in order.
    free: Vec<u64>,
    cancel: CancellationToken,
    fault: ReadFault,
}

impl<S: Read + Seek> GuardedSource<S> {
    /// Wraps `inner`, which is `total` bytes long, from its byte `base` on. Demuxers of streams that need no index do
    /// better when they are told that the source is not `seekable`: they then estimate nothing from its length.
    pub(crate) fn new(
        inner: S,
        base: u64,
        total: u64,
        seekable: bool,
        cancel: &CancellationToken,
    ) -> io::Result<Self> {
        let len = total.saturating_sub(base);
        let budget = len.saturating_mul(READS_PER_BYTE).saturating_add(SMALLEST_BUDGET);
        let mut source = Self {
            inner,
            base,
            len,
            seekable,
            budget,
            free: Vec::new(),
            cancel: cancel.clone(),
            fault: ReadFault::default(),
        };
        source.inner.seek(SeekFrom::Start(base))?;
        Ok(source)
    }

    /// Says that the source is `len` bytes long. Reads past its real end still give nothing.
    pub(crate) fn pretend_len(&mut self, len: u64) {
        self.len = len;
    }

    /// Reads the four bytes at each of these places as `free`, the kind of an MP4 box that is not used.
    pub(crate) fn pretend_free(&mut self, places: Vec<u64>) {
        self.free = places;
    }

    /// Where to ask why reads failed.
    pub(crate) fn fault(&self) -> ReadFault {
        self.fault.clone()
    }

    /// Changes what has been read from `start` on.
    fn free_boxes(&self, start: u64, read: &mut [u8]) {
        for place in &self.free {
            for (at, byte) in (*place..).zip(b"free") {
                let at = at.checked_sub(start).and_then(|at| usize::try_from(at).ok());
                if let Some(changed) = at.and_then(|at| read.get_mut(at)) {
                    *changed = *byte;
                }
            }
        }
    }
}

impl<S: Read + Seek> Read for GuardedSource<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(self.fault.raise(Fault::Cancelled));
        }
        let count = loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fault.raise(Fault::Io(error.kind(), error.to_string()))),
                Ok(count) => break count,
            }
        };
        // A read at the end costs as well: a loop that reads nothing for ever is still a loop.
        self.budget = self.budget.saturating_sub(count.max(64) as u64);
        if self.budget == 0 {
            return Err(self.fault.raise(Fault::TooMuchWork));
        }
        if !self.free.is_empty() {
            let end = self.inner.stream_position()?.saturating_sub(self.base);
            self.free_boxes(end - count as u64, &mut buffer[..count]);
        }
        Ok(count)
    }
}

impl<S: Seek> Seek for GuardedSource<S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => self.len.checked_add_signed(offset),
            SeekFrom::Current(offset) => self
                .inner
                .stream_position()?
                .checked_add_signed(offset)
                .and_then(|at| at.checked_sub(self.base)),
        };
        let at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.inner.seek(SeekFrom::Start(self.base.saturating_add(at)))?;
        Ok(at)
    }
}

impl<S: Read + Seek + Send + Sync> MediaSource for GuardedSource<S> {
    fn is_seekable(&self) -> bool {
        self.seekable
    }

    fn byte_len(&self) -> Option<u64> {
        self.seekable.then_some(self.len)
    }
}
