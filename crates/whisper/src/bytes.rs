//! GPT-2's way of writing any byte as a visible character (`bytes_to_unicode` in its `encoder.py`).

/// Bytes that are written as the character with the same number.
fn is_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character for a byte: itself where it is visible, else the next free one from U+0100 on.
pub(crate) fn to_char(byte: u8) -> char {
    if is_itself(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&lower| !is_itself(lower)).count();
    u32::try_from(rank)
        .ok()
        .and_then(|rank| char::from_u32(0x100 + rank))
        .unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character stands for; `None` for characters that stand for none.
pub(crate) fn from_char(character: char) -> Option<u8> {
    if let Ok(byte) = u8::try_from(character) {
        return is_itself(byte).then_some(byte);
    }
    let rank = u32::from(character).checked_sub(0x100)?;
    // The bytes that are not themselves: 0 to 32, 127 to 160, and 173.
    match u8::try_from(rank).ok()? {
        rank @ 0..=32 => Some(rank),
        rank @ 33..=66 => Some(rank - 33 + 127),
        67 => Some(173),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=u8::MAX {
            assert_eq!(from_char(to_char(byte)), Some(byte));
        }
        assert_eq!((to_char(b' '), to_char(b'\n'), to_char(0xAD)), ('Ġ', 'Ċ', 'Ń'));
        assert_eq!(from_char('€'), None);
    }
}
