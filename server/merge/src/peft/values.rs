//! Looking at every value once, before an adapter is queued: a merge cannot undo a NaN.

use crate::element::all_finite;
use crate::parallel::try_map;
use crate::{AdapterError, AdapterView, TensorRange, element};

/// Values looked at together; bounds the memory of one thread.
const CHUNK: usize = 1 << 16;
/// Largest accepted share of values that are subnormal in f32, in percent. Small f16 values are
/// ordinary and not among them: widened to f32 they are normal.
const MAX_SUBNORMAL_PERCENT: f64 = 1.0;

/// Reads every value once and refuses NaN, infinities, masses of subnormal numbers, and adapters
/// that would do nothing because every module has a zero A or a zero B.
///
/// # Errors
///
/// [`AdapterError::NotFinite`], [`AdapterError::Subnormal`], [`AdapterError::NoEffect`], and
/// [`AdapterError::Source`] when the bytes cannot be read.
pub fn check_values(view: AdapterView<'_>) -> Result<(), AdapterError> {
    let modules = &view.layout.modules;
    let effects = try_map(modules.len(), Scratch::default, |scratch, index| {
        let module = &modules[index];
        let a = scratch.check(view, &module.path, "lora_A", &module.a)?;
        let b = scratch.check(view, &module.path, "lora_B", &module.b)?;
        Ok::<_, AdapterError>(a && b)
    })?;
    if effects.contains(&true) {
        Ok(())
    } else {
        Err(AdapterError::NoEffect)
    }
}

#[derive(Debug, Default)]
struct Scratch {
    values: Vec<f32>,
    halves: Vec<u16>,
}

impl Scratch {
    /// Checks one tensor; says whether it has a value other than zero.
    fn check(
        &mut self,
        view: AdapterView<'_>,
        module: &str,
        factor: &str,
        range: &TensorRange,
    ) -> Result<bool, AdapterError> {
        let name = || format!("{module}.{factor}");
        let size = u64::try_from(range.dtype.size_bytes()).expect("2 or 4");
        let elements = range.bytes / size;
        let step = u64::try_from(CHUNK).expect("fits");
        let mut any = false;
        let mut subnormal = 0_u64;
        for start in (0..elements).step_by(CHUNK) {
            let count = usize::try_from(step.min(elements - start)).expect("at most CHUNK");
            self.values.resize(count, 0.0);
            let part = TensorRange {
                offset: range.offset + start * size,
                ..*range
            };
            element::read(view.source, &part, &mut self.values, &mut self.halves)
                .map_err(AdapterError::Source)?;
            if !all_finite(&self.values) {
                let nan = self.values.iter().any(|value| value.is_nan());
                let what = if nan { "NaN" } else { "infinity" };
                return Err(AdapterError::NotFinite { name: name(), what });
            }
            any |= self.values.iter().any(|&value| value != 0.0);
            subnormal += self
                .values
                .iter()
                .map(|value| u64::from(value.is_subnormal()))
                .sum::<u64>();
        }
        let percent = percent(subnormal, elements);
        if percent > MAX_SUBNORMAL_PERCENT {
            return Err(AdapterError::Subnormal {
                name: name(),
                percent,
                limit: MAX_SUBNORMAL_PERCENT,
            });
        }
        Ok(any)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts are below 2^31, far inside f64"
)]
fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}
