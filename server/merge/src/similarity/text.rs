//! Norms as a short text, three letters a module, to be kept where room is scarce.
//!
//! A norm is rounded to ten bits of fraction, a thousandth at most, which is far below what tells
//! adapters apart. What is kept is rounded first, so that kept and used norms are the same bits.

use super::ModuleNorms;

/// As in base64url: none of them needs an escape in JSON.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Bits of an f32 that are dropped.
const DROPPED: u32 = 13;

impl ModuleNorms {
    /// As text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(self.0.len() * 3);
        for norm in &self.0 {
            let code = code(*norm);
            for shift in [12, 6, 0] {
                let letter = usize::try_from(code >> shift & 63).unwrap_or(0);
                text.push(char::from(LETTERS[letter]));
            }
        }
        text
    }

    /// From text; none if it is no such text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        if !text.len().is_multiple_of(3) {
            return None;
        }
        let norms = text.as_bytes().chunks(3).map(|letters| {
            let mut code = 0_u32;
            for letter in letters {
                let value = LETTERS.iter().position(|known| known == letter)?;
                code = code << 6 | u32::try_from(value).ok()?;
            }
            Some(f32::from_bits(code << DROPPED)).filter(|norm| norm.is_finite())
        });
        Some(Self(norms.collect::<Option<_>>()?))
    }
}

/// The sign, which is none, the exponent, and ten bits of the fraction.
fn code(norm: f32) -> u32 {
    let largest = f32::MAX.to_bits() >> DROPPED;
    let rounded = (norm.max(0.0).to_bits() + (1 << (DROPPED - 1))) >> DROPPED;
    rounded.min(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_come_back_to_a_thousandth_and_then_stay() {
        let values = vec![0.0, 1.0, 0.123_456_7, 3e-30, 7.25e12, f32::MAX, 1.999_99];
        let text = ModuleNorms(values.clone()).to_text();
        assert_eq!(text.len(), 3 * values.len());
        let back = ModuleNorms::from_text(&text).unwrap();
        for (back, value) in back.0.iter().zip(values) {
            assert!((back - value).abs() <= value * 1e-3, "{back}, {value}");
        }
        assert_eq!(back.to_text(), text);
    }

    #[test]
    fn other_texts_are_none() {
        for text in ["A", "AA", "AA!", "___", "äA"] {
            assert_eq!(ModuleNorms::from_text(text), None, "{text}");
        }
        assert_eq!(ModuleNorms::from_text(""), Some(ModuleNorms(Vec::new())));
    }
}
