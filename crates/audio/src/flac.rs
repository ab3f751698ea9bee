//! The metadata of FLAC (RFC 9639, 8): the one block that tells the length, and the way past the others. Nothing here
//! seeks in the sound or shows pictures and comments, and symphonia puts each point of a seek table into its place among
//! all the others, which takes minutes for a table of a few megabytes.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use symphonia::core::io::MediaSource;

use crate::error::AudioError;

/// The mark and the first block, which is always this one.
const HEADER: usize = 4 + 4 + 34;
/// The flag of the last block of metadata.
const LAST: u8 = 0x80;

/// What STREAMINFO says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamInfo {
    /// Sampling rate in Hz; zero is invalid.
    pub(crate) rate: u32,
    /// Samples per channel; zero means unknown.
    pub(crate) samples: u64,
}

impl StreamInfo {
    /// Reads it from the first bytes of a FLAC stream.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let block = bytes.strip_prefix(b"fLaC")?;
        // Block type 0 after the last-block flag, and 34 bytes of it.
        if block.first()? & 0x7f != 0 || block.get(1..4)? != [0, 0, 34] {
            return None;
        }
        let packed = u64::from_be_bytes(*block.get(14..)?.first_chunk::<8>()?);
        Some(Self { rate: (packed >> 44) as u32, samples: packed & 0xf_ffff_ffff })
    }
}

/// A stream without its other metadata.
pub(crate) struct WithoutMetadata<S> {
    header: io::Chain<io::Cursor<Vec<u8>>, S>,
}

impl<S: Read + Seek> WithoutMetadata<S> {
    /// The stream in `source`, which stands at its beginning.
    pub(crate) fn new(mut source: S) -> Result<Self, AudioError> {
        let reading = |error| AudioError::io("reading the audio failed", error);
        let mut header = Vec::new();
        source.by_ref().take(HEADER as u64).read_to_end(&mut header).map_err(reading)?;
        if StreamInfo::parse(&header).is_none() {
            return Err(AudioError::malformed("it does not begin with the block that FLAC begins with"));
        }
        if header[4] & LAST == 0 {
            let sound = sound(&mut source).map_err(reading)?;
            source.seek(SeekFrom::Start(sound)).map_err(reading)?;
            header[4] |= LAST;
        }
        Ok(Self { header: io::Cursor::new(header).chain(source) })
    }
}

/// Where the metadata ends; where the file does when it goes on until there.
fn sound(source: &mut (impl Read + Seek)) -> io::Result<u64> {
    let mut blocks = BufReader::new(source);
    let mut at = HEADER as u64;
    blocks.seek(SeekFrom::Start(at))?;
    loop {
        let mut header = [0; 4];
        match blocks.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(at),
            read => read?,
        }
        let [kind, len @ ..] = header;
        let len = i64::from(u32::from_be_bytes([0, len[0], len[1], len[2]]));
        blocks.seek_relative(len)?;
        at = at.saturating_add_signed(4 + len);
        if kind & LAST != 0 {
            return Ok(at);
        }
    }
}

impl<S: Read> Read for WithoutMetadata<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.header.read(buffer)
    }
}

/// Streams of symphonia are read from front to back.
impl<S> Seek for WithoutMetadata<S> {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl<S: Read + Send + Sync> MediaSource for WithoutMetadata<S> {
    fn is_seekable(&self) -> bool {
        false
    }

    fn byte_len(&self) -> Option<u64> {
        None
    }
}
