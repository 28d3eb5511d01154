//! Small numbers and texts as bytes: what the head of a packed slot is written in.

/// Reads from the front; `None` wherever the bytes end too early or make no sense.
#[derive(Debug)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// Seven bits a byte, the lowest first (LEB128).
    pub(super) fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            // Bits that would be shifted out are not a number of ours.
            let placed = low
                .checked_shl(shift)
                .filter(|placed| placed >> shift == low)?;
            value |= placed;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = self.count()?;
        std::str::from_utf8(self.take(length)?).ok()
    }
}

/// Appends a number as [`Cursor::number`] reads it.
pub(super) fn push_number(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

pub(super) fn push_count(out: &mut Vec<u8>, count: usize) {
    push_number(out, u64::try_from(count).unwrap_or(u64::MAX));
}

pub(super) fn push_text(out: &mut Vec<u8>, text: &str) {
    push_count(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_and_texts_come_back(values in prop::collection::vec(any::<u64>(), 0..20), text in ".{0,40}") {
            let mut bytes = Vec::new();
            values.iter().for_each(|&value| push_number(&mut bytes, value));
            push_text(&mut bytes, &text);
            let mut cursor = Cursor(&bytes);
            for value in values {
                prop_assert_eq!(cursor.number(), Some(value));
            }
            prop_assert_eq!(cursor.text(), Some(text.as_str()));
            prop_assert_eq!(cursor.byte(), None);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            let mut cursor = Cursor(&bytes);
            while cursor.number().is_some() {}
            let _ = Cursor(&bytes).text();
        }
    }

    #[test]
    fn numbers_beyond_64_bits_are_refused() {
        assert_eq!(Cursor(&[0xff; 9]).number(), None);
        let mut bytes = vec![0xff; 9];
        bytes.push(2);
        assert_eq!(Cursor(&bytes).number(), None);
    }
}
