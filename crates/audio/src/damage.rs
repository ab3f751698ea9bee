//! What of a file could not be decoded.

/// What was lost on the way from the file to the samples. Times stay right: a lost packet is replaced by silence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Damage {
    /// Packets that could not be decoded.
    pub lost_packets: u64,
    /// Whether the container broke off before its end, as in a cut download. Only Ogg and MP4 tell where that is; wav,
    /// flac, mp3, ADTS and Matroska that are cut just end earlier.
    pub ended_early: bool,
}

impl Damage {
    /// Whether anything was lost.
    pub fn any(self) -> bool {
        self.lost_packets > 0 || self.ended_early
    }
}
