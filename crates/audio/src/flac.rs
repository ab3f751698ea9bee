//! The one block of FLAC metadata that tells its length (RFC 9639, 8.2).

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
