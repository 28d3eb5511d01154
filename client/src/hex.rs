//! Bytes as lowercase hexadecimal: how the contract writes digests.

use std::fmt::Write as _;

pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref();
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn digits_are_lowercase_and_zeros_are_kept() {
        assert_eq!(super::hex([0x00, 0x0a, 0xff]), "000aff");
    }
}
