//! The part of an HE-AAC stream that any AAC decoder understands.

/// For an HE-AAC configuration (ISO/IEC 14496-3 1.6.2.1, object types 5 and 29): the configuration of the AAC-LC stream
/// inside it, which has the lower half of the band, all that speech needs. `None` for any other.
pub(crate) fn core_of_he_aac(config: &[u8]) -> Option<[u8; 8]> {
    const LOW_COMPLEXITY: u64 = 2;
    let mut bits = Bits { bytes: config, at: 0 };
    if !matches!(bits.take(5)?, 5 | 29) {
        return None;
    }
    let core_rate = bits.take(4)?;
    let core_rate_hz = if core_rate == 15 { bits.take(24)? } else { 0 };
    let channels = bits.take(4)?;
    if bits.take(4)? == 15 {
        bits.take(24)?;
    }
    let (object_type, flags) = (bits.take(5)?, bits.take(3)?);
    if object_type != LOW_COMPLEXITY {
        return None;
    }
    let (mut core, mut len) = (LOW_COMPLEXITY << 4 | core_rate, 9);
    if core_rate == 15 {
        (core, len) = (core << 24 | core_rate_hz, len + 24);
    }
    (core, len) = (core << 7 | channels << 3 | flags, len + 7);
    Some((core << (64 - len)).to_be_bytes())
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Option<u64> {
        (0..count).try_fold(0, |value, _| {
            let bit = self.bytes.get(self.at / 8)? >> (7 - self.at % 8) & 1;
            self.at += 1;
            Some(value << 1 | u64::from(bit))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_of_he_aac_is_plain_aac() {
        // AOT 5, 22.05 kHz, stereo, extension 44.1 kHz, AOT 2, no flags: 00101 0111 0010 0100 00010 000.
        let he_aac = [0b0010_1011, 0b1001_0010, 0b0000_1000, 0];
        // AOT 2, 22.05 kHz, stereo, no flags: 00010 0111 0010 000.
        assert_eq!(core_of_he_aac(&he_aac).map(|core| [core[0], core[1]]), Some([0b0001_0011, 0b1001_0000]));
        assert_eq!(core_of_he_aac(&[0b0001_0011, 0b1001_0000]), None, "AAC-LC stays as it is");
        assert_eq!(core_of_he_aac(&[0b0010_1011]), None, "cut off");
    }
}
