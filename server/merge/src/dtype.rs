//! The number types that factors may be stored in.
//!
//! All arithmetic is f32 or wider; these are storage types only. The set is closed: whatever else a
//! file declares is refused by the header parser.

use std::fmt;

/// Storage type of a factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16, largest finite value 65504.
    F16,
    /// bfloat16: the upper half of an f32.
    Bf16,
}

impl Dtype {
    /// Bytes per element.
    #[must_use]
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The narrowest type that holds every value of both: F16 and BF16 together need F32.
    #[must_use]
    pub fn widest(self, other: Self) -> Self {
        if self == other { self } else { Self::F32 }
    }

    /// The name that safetensors uses: `F32`, `F16`, `BF16`.
    #[must_use]
    pub const fn safetensors_name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// Reads a safetensors type name; `None` for a type that factors may not have.
    #[must_use]
    pub fn from_safetensors_name(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::Bf16]
            .into_iter()
            .find(|dtype| dtype.safetensors_name() == name)
    }

    /// The same type in candle's words.
    #[must_use]
    pub const fn candle(self) -> candle_core::DType {
        match self {
            Self::F32 => candle_core::DType::F32,
            Self::F16 => candle_core::DType::F16,
            Self::Bf16 => candle_core::DType::BF16,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.safetensors_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_types_only_meet_in_f32() {
        assert_eq!(Dtype::F16.widest(Dtype::Bf16), Dtype::F32);
        assert_eq!(Dtype::Bf16.widest(Dtype::F16), Dtype::F32);
        assert_eq!(Dtype::Bf16.widest(Dtype::Bf16), Dtype::Bf16);
        assert_eq!(Dtype::F16.widest(Dtype::F32), Dtype::F32);
    }

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            assert_eq!(
                Dtype::from_safetensors_name(dtype.safetensors_name()),
                Some(dtype)
            );
        }
        for name in ["F64", "f32", "I8", "", "F8_E4M3"] {
            assert_eq!(Dtype::from_safetensors_name(name), None);
        }
    }
}
