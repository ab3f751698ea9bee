//! Samples in 16 bits each, in blocks that share an exponent: sound of 16 bits comes out as it went in, and quiet sound of
//! more bits loses nothing that is heard.

/// Samples of a block.
pub(crate) const BLOCK: usize = 2048;
/// Bytes of a whole block: the exponent, and the samples.
pub(crate) const BLOCK_BYTES: usize = EXPONENT + 2 * BLOCK;
const EXPONENT: usize = 2;
/// The quietest sound is not amplified further.
const MOST_SHIFT: u16 = 24;
const FULL_SCALE: f32 = 32_768.0;

/// Bytes of so many samples.
pub(crate) fn bytes(samples: u64) -> u64 {
    2 * samples + samples.div_ceil(BLOCK as u64) * EXPONENT as u64
}

/// Appends a block of samples within `[-1, 1]`; only the last may be smaller than [`BLOCK`].
pub(crate) fn pack(samples: &[f32], out: &mut Vec<u8>) {
    let peak = samples.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
    let mut shift = 0;
    while shift < MOST_SHIFT && peak * scale(shift + 1) < FULL_SCALE {
        shift += 1;
    }
    out.extend(shift.to_le_bytes());
    // The cast saturates: full scale is one step too much.
    let sixteen_bits = |sample: &f32| ((sample * scale(shift)).round() as i16).to_le_bytes();
    out.extend(samples.iter().flat_map(sixteen_bits));
}

/// Reads a block that [`pack`] wrote.
pub(crate) fn unpack(bytes: &[u8], samples: &mut [f32]) {
    let Some((shift, bytes)) = bytes.split_first_chunk() else { return };
    let scale = 1.0 / scale(u16::from_le_bytes(*shift).min(MOST_SHIFT));
    let (words, _) = bytes.as_chunks();
    samples
        .iter_mut()
        .zip(words)
        .for_each(|(sample, word)| *sample = f32::from(i16::from_le_bytes(*word)) * scale);
}

fn scale(shift: u16) -> f32 {
    FULL_SCALE * (1_u32 << shift) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(samples: &[f32]) -> Vec<f32> {
        let mut bytes = Vec::new();
        pack(samples, &mut bytes);
        assert_eq!(bytes.len() as u64, super::bytes(samples.len() as u64));
        let mut out = vec![9.0; samples.len()];
        unpack(&bytes, &mut out);
        out
    }

    #[test]
    fn sound_of_16_bits_comes_out_as_it_went_in() {
        for loudest in [1, 100, 32_767] {
            let samples: Vec<f32> =
                (0..BLOCK).map(|n| ((n as i32 * 7919) % (loudest + 1)) as f32 / 32_768.0).collect();
            assert_eq!(there_and_back(&samples), samples, "up to {loudest}");
        }
        assert_eq!(there_and_back(&[-1.0, 0.0]), [-1.0, 0.0]);
        assert_eq!(there_and_back(&[0.0; 5]), [0.0; 5]);
        assert!((there_and_back(&[1.0])[0] - 1.0).abs() < 1e-4);
    }

    #[test]
    fn quiet_sound_keeps_its_shape() {
        for loudness in [1.0_f32, 0.01, 0.0001, 0.000_001] {
            let samples: Vec<f32> = (0..BLOCK).map(|n| (n as f32 * 0.1).sin() * loudness).collect();
            let most = loudness / 30_000.0;
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= most;
            assert!(samples.iter().zip(&there_and_back(&samples)).all(near), "{loudness}");
        }
    }
}
