//! Between stored elements and f32, in bulk: every value is computed on in f32 or wider.
//!
//! `half` converts slices with the processor's own instructions, which is measurably faster than
//! element by element; every path rounds to nearest, ties to even, so the bytes do not depend on
//! the processor.

use std::io;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use crate::{Dtype, TensorRange, TensorSource};

/// Reads the first `values.len()` elements of `range`; `halves` is scratch.
pub(crate) fn read(
    source: &dyn TensorSource,
    range: &TensorRange,
    values: &mut [f32],
    halves: &mut Vec<u16>,
) -> io::Result<()> {
    if range.dtype == Dtype::F32 {
        source.read_at(range.offset, bytemuck::cast_slice_mut(values))?;
        if cfg!(target_endian = "big") {
            for value in values {
                *value = f32::from_bits(u32::from_le(value.to_bits()));
            }
        }
        return Ok(());
    }
    halves.clear();
    halves.resize(values.len(), 0);
    source.read_at(range.offset, bytemuck::cast_slice_mut(halves))?;
    if cfg!(target_endian = "big") {
        halves
            .iter_mut()
            .for_each(|word| *word = u16::from_le(*word));
    }
    widen(range.dtype, halves, values);
    Ok(())
}

/// The first `count` elements of `range` where they lie, if they are F32 in memory and aligned; they
/// are the values that [`read`] would give.
pub(crate) fn lend<'a>(
    source: &'a dyn TensorSource,
    range: &TensorRange,
    count: usize,
) -> Option<&'a [f32]> {
    if range.dtype != Dtype::F32 || cfg!(target_endian = "big") {
        return None;
    }
    let bytes = source.borrow(range.offset, count.checked_mul(size_of::<f32>())?)?;
    bytemuck::try_cast_slice(bytes).ok()
}

/// The bytes to be stored of what [`round`] left behind.
pub(crate) fn bytes<'a>(dtype: Dtype, values: &'a [f32], words: &'a [u16]) -> &'a [u8] {
    match dtype {
        Dtype::F32 => bytemuck::cast_slice(values),
        Dtype::F16 | Dtype::Bf16 => bytemuck::cast_slice(words),
    }
}

/// Rounds `values` to `dtype` in place, so that the caller computes on what will be stored; what
/// does not fit becomes infinite. For the half types the words to be stored are left in `words`.
pub(crate) fn round(dtype: Dtype, values: &mut [f32], words: &mut Vec<u16>) {
    if dtype == Dtype::F32 {
        return;
    }
    words.clear();
    words.resize(values.len(), 0);
    match dtype {
        Dtype::F16 => words
            .reinterpret_cast_mut::<f16>()
            .convert_from_f32_slice(values),
        Dtype::Bf16 | Dtype::F32 => {
            words
                .reinterpret_cast_mut::<bf16>()
                .convert_from_f32_slice(values);
        }
    }
    widen(dtype, words, values);
}

/// Whether no value is NaN or infinite.
pub(crate) fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    // Whole chunks without a branch, so that the loop vectorises.
    values.chunks(1024).all(|chunk| {
        chunk.iter().fold(true, |finite, value| {
            finite & (value.to_bits() & EXPONENT != EXPONENT)
        })
    })
}

fn widen(dtype: Dtype, words: &[u16], values: &mut [f32]) {
    match dtype {
        Dtype::F16 => words.reinterpret_cast::<f16>().convert_to_f32_slice(values),
        Dtype::Bf16 | Dtype::F32 => words
            .reinterpret_cast::<bf16>()
            .convert_to_f32_slice(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    fn range(dtype: Dtype, count: usize) -> TensorRange {
        let bytes = u64::try_from(count * dtype.size_bytes()).unwrap();
        TensorRange {
            dtype,
            offset: 4,
            bytes,
        }
    }

    /// Every pattern of 16 bits, and the neighbourhoods of what rounds to them.
    fn values() -> Vec<f32> {
        (0..=u16::MAX)
            .flat_map(|word| {
                [
                    f16::from_bits(word).to_f32(),
                    bf16::from_bits(word).to_f32(),
                ]
            })
            .filter(|value| value.is_finite())
            .flat_map(|value| [value, value * 1.000_3, value * 0.999_7, value * 1.003])
            .collect()
    }

    #[test]
    fn conversions_agree_with_candle() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let original = values();
            let stored = Tensor::from_slice(&original, original.len(), &Device::Cpu)
                .and_then(|tensor| tensor.to_dtype(dtype.candle()))
                .unwrap();
            let expected: Vec<f32> = stored
                .to_dtype(DType::F32)
                .and_then(|tensor| tensor.to_vec1())
                .unwrap();

            let (mut rounded, mut words) = (original.clone(), Vec::new());
            round(dtype, &mut rounded, &mut words);
            let finite = expected.iter().all(|value| value.is_finite());
            assert_eq!(all_finite(&rounded), finite, "{dtype}");
            assert_eq!(bits(&rounded), bits(&expected), "{dtype}");

            let file = [&[9; 4], bytes(dtype, &rounded, &words)].concat();
            let mut back = vec![0.0; original.len()];
            read(&file, &range(dtype, back.len()), &mut back, &mut Vec::new()).unwrap();
            assert_eq!(bits(&back), bits(&rounded), "{dtype}");
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn overflow_is_found_wherever_it_is() {
        let fits = |dtype, mut values: Vec<f32>| {
            round(dtype, &mut values, &mut Vec::new());
            all_finite(&values)
        };
        for index in [0, 1023, 1024, 1500] {
            let mut values = vec![1.0; 1501];
            values[index] = 65_520.0;
            assert!(!fits(Dtype::F16, values.clone()));
            assert!(fits(Dtype::Bf16, values.clone()));
            values[index] = f32::NAN;
            assert!(!fits(Dtype::F32, values));
        }
    }

    #[test]
    fn what_is_lent_is_what_would_be_read() {
        let values: Vec<f32> = (0_u8..40).map(|at| f32::from(at) - 7.5).collect();
        let mut lent = 0;
        // Of four neighbouring places one is aligned, wherever the memory starts.
        for shift in 0_u8..4 {
            let file = [
                vec![9; usize::from(shift)],
                bytes(Dtype::F32, &values, &[]).to_vec(),
            ]
            .concat();
            let mut range = range(Dtype::F32, values.len());
            range.offset = u64::from(shift);
            if let Some(found) = lend(&file, &range, values.len()) {
                assert_eq!(bits(found), bits(&values));
                lent += 1;
            }
            assert_eq!(
                lend(&file, &range, values.len() + 1),
                None,
                "beyond the end"
            );
            range.dtype = Dtype::F16;
            assert_eq!(lend(&file, &range, 2), None, "another type");
        }
        assert!(lent > 0, "memory is aligned to four bytes");
    }

    #[test]
    fn a_short_source_is_an_error() {
        let mut values = [0.0; 4];
        let read = read(
            &vec![0; 19],
            &range(Dtype::F32, 4),
            &mut values,
            &mut Vec::new(),
        );
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
