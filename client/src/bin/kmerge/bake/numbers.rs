//! Between stored numbers and f32. Rounding is to nearest, ties to even.

use half::{bf16, f16};

/// A type that weights are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
}

impl Kind {
    /// The type of that safetensors name.
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::Bf16),
            _ => None,
        }
    }

    pub(super) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Replaces `values` by those in `bytes`.
    pub(super) fn widen(self, bytes: &[u8], values: &mut Vec<f32>) {
        values.clear();
        match self {
            Self::F32 => values.extend(each(bytes).map(f32::from_le_bytes)),
            Self::F16 => values.extend(each(bytes).map(|pair| f16::from_le_bytes(pair).to_f32())),
            Self::Bf16 => values.extend(each(bytes).map(|pair| bf16::from_le_bytes(pair).to_f32())),
        }
    }

    /// Replaces `bytes` by `values`, rounded; false if one is not finite then.
    pub(super) fn narrow(self, values: &[f32], bytes: &mut Vec<u8>) -> bool {
        bytes.clear();
        let mut finite = true;
        for &value in values {
            match self {
                Self::F32 => {
                    finite &= value.is_finite();
                    bytes.extend(value.to_le_bytes());
                }
                Self::F16 => {
                    let value = f16::from_f32(value);
                    finite &= value.is_finite();
                    bytes.extend(value.to_le_bytes());
                }
                Self::Bf16 => {
                    let value = bf16::from_f32(value);
                    finite &= value.is_finite();
                    bytes.extend(value.to_le_bytes());
                }
            }
        }
        finite
    }
}

fn each<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes
        .chunks_exact(N)
        .map(|chunk| chunk.try_into().expect("chunks are of that length"))
}
