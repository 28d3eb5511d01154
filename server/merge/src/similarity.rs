//! How alike two adapters are: the mean over their common modules of the cosine of their updates.
//!
//! cos = ⟨D₁, D₂⟩ / (‖D₁‖ ‖D₂‖) with D = B·A, scaling left out, by the Gram identity (see
//! [`gram`](crate::gram)). A zero update counts as 0 for its module; adapters without a common
//! module have similarity 0. Norms of stored slots are rounded to f32 wherever they come from, so
//! that a remembered norm and a measured one give the same bits.

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::gram::{Factors, GramScratch};
use crate::modules::{Aligned, align};
use crate::parallel::try_map;
use crate::{
    AdapterView, Dtype, MergeError, ModuleLayout, Progress, SlotView, TensorSource, device, element,
};

/// ‖B·A‖ of every module of one stored slot, in the order of its layout.
///
/// Measured once when the slot is written, so that later arrivals need not measure it again. As
/// JSON it is a plain list of numbers, about ten bytes a module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModuleNorms(Vec<f32>);

impl ModuleNorms {
    pub(crate) fn new(norms: Vec<f32>) -> Self {
        Self(norms)
    }

    /// The norms in the order of the slot's layout.
    #[must_use]
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// Whether these can be the norms of a slot with this many modules. Norms that cannot are
    /// measured again.
    fn fits(&self, modules: usize) -> bool {
        self.0.len() == modules && self.0.iter().all(|norm| norm.is_finite() && *norm >= 0.0)
    }
}

/// Similarity of two adapters, in [-1, 1].
///
/// # Errors
///
/// [`MergeError::Source`] when bytes cannot be read, [`MergeError::ShapeMismatch`] when a common
/// module has two shapes, [`MergeError::NotFinite`] when an update overflows f32.
pub fn similarity(a: AdapterView<'_>, b: AdapterView<'_>) -> Result<f64, MergeError> {
    let slot = SlotView {
        slot: 0,
        generation: 1,
        members: 1,
        adapter: a,
        norms: None,
    };
    let search = search(&[slot], b, &|_| ())?;
    Ok(search.similarities[0].1)
}

/// A newcomer against every slot.
#[derive(Debug)]
pub(crate) struct Search {
    /// Slot number and similarity, in the order of the slots given.
    pub(crate) similarities: Vec<(u32, f64)>,
    /// Norms of the slots that came without usable ones.
    pub(crate) measured: Vec<(u32, ModuleNorms)>,
}

/// What one module contributes.
#[derive(Debug)]
struct Row {
    newcomer_norm: f64,
    /// For each slot: the inner product with the newcomer, where both have the module.
    products: Vec<Option<f64>>,
    /// For each slot: its norm, where it had to be measured.
    norms: Vec<Option<f32>>,
}

/// Compares `newcomer` with all `slots`, module by module over the threads of the current pool.
pub(crate) fn search(
    slots: &[SlotView<'_>],
    newcomer: AdapterView<'_>,
    progress: Progress<'_>,
) -> Result<Search, MergeError> {
    let known: Vec<Option<&ModuleNorms>> = slots
        .iter()
        .map(|slot| {
            slot.norms
                .filter(|norms| norms.fits(slot.adapter.layout.modules.len()))
        })
        .collect();
    let mut layouts: Vec<_> = slots.iter().map(|slot| slot.adapter.layout).collect();
    layouts.push(newcomer.layout);
    let modules = align(&layouts)?;
    let finished = AtomicUsize::new(0);
    let compare = Comparison {
        slots,
        newcomer,
        known: &known,
        device: device::compute(),
    };
    let rows = try_map(modules.len(), Scratch::default, |scratch, index| {
        let row = compare.module(&modules[index], scratch)?;
        progress(share(
            finished.fetch_add(1, Ordering::Relaxed) + 1,
            modules.len(),
        ));
        Ok(row)
    })?;
    let similarities = slots
        .iter()
        .enumerate()
        .map(|(index, slot)| (slot.slot, mean_cosine(&modules, &rows, index, known[index])))
        .collect();
    let measured = slots
        .iter()
        .enumerate()
        .filter(|&(index, _)| known[index].is_none())
        .map(|(index, slot)| {
            let norms = rows.iter().filter_map(|row| row.norms[index]).collect();
            (slot.slot, ModuleNorms(norms))
        })
        .collect();
    Ok(Search {
        similarities,
        measured,
    })
}

/// `done` of `all` as a share.
#[expect(clippy::cast_precision_loss, reason = "a figure for a progress bar")]
pub(crate) fn share(done: usize, all: usize) -> f32 {
    done as f32 / all.max(1) as f32
}

fn mean_cosine(
    modules: &[Aligned<'_>],
    rows: &[Row],
    slot: usize,
    known: Option<&ModuleNorms>,
) -> f64 {
    let mut sum = 0.0;
    let mut common = 0_u32;
    for (module, row) in modules.iter().zip(rows) {
        let (Some(product), Some((place, _))) = (row.products[slot], module.found[slot]) else {
            continue;
        };
        common += 1;
        let norm = known.map_or_else(|| row.norms[slot].unwrap_or(0.0), |norms| norms.0[place]);
        let norms = f64::from(norm) * row.newcomer_norm;
        if norms > 0.0 {
            sum += (product / norms).clamp(-1.0, 1.0);
        }
    }
    if common == 0 {
        0.0
    } else {
        sum / f64::from(common)
    }
}

/// Memory of one thread: the newcomer's module and one factor pair of one slot.
#[derive(Debug, Default)]
struct Scratch {
    newcomer: FactorBuffer,
    slot: FactorBuffer,
    gram: GramScratch,
}

/// One module's factors, widened.
#[derive(Debug, Default)]
struct FactorBuffer {
    a: Vec<f32>,
    b: Vec<f32>,
    halves: Vec<u16>,
}

impl FactorBuffer {
    fn load(
        &mut self,
        module: &ModuleLayout,
        source: &dyn TensorSource,
    ) -> Result<Factors<'_>, MergeError> {
        let Self { a, b, halves } = self;
        a.resize(module.rank * module.in_features, 0.0);
        b.resize(module.out_features * module.rank, 0.0);
        element::read(source, &module.a, a, halves).map_err(MergeError::Source)?;
        element::read(source, &module.b, b, halves).map_err(MergeError::Source)?;
        Ok(Factors {
            a,
            b,
            rank: module.rank,
        })
    }
}

/// What all modules of one search share.
struct Comparison<'a> {
    slots: &'a [SlotView<'a>],
    newcomer: AdapterView<'a>,
    known: &'a [Option<&'a ModuleNorms>],
    device: &'a Device,
}

impl Comparison<'_> {
    fn module(&self, module: &Aligned<'_>, scratch: &mut Scratch) -> Result<Row, MergeError> {
        let mut row = Row {
            newcomer_norm: 0.0,
            products: vec![None; self.slots.len()],
            norms: vec![None; self.slots.len()],
        };
        let Scratch {
            newcomer: newcomer_buffer,
            slot: slot_buffer,
            gram,
        } = scratch;
        let newcomer = match module.found.last().copied().flatten() {
            Some((_, layout)) => {
                let factors = newcomer_buffer.load(layout, self.newcomer.source)?;
                row.newcomer_norm = finite(gram.norm(factors, self.device)?, module.path)?;
                Some(factors)
            }
            None => None,
        };
        for (index, slot) in self.slots.iter().enumerate() {
            let Some((_, layout)) = module.found[index] else {
                continue;
            };
            let measure = self.known[index].is_none();
            if newcomer.is_none() && !measure {
                continue;
            }
            let factors = slot_buffer.load(layout, slot.adapter.source)?;
            if measure {
                let norm = gram.norm(factors, self.device)?;
                row.norms[index] = Some(stored_norm(norm, module.path)?);
            }
            if let Some(newcomer) = newcomer {
                let product = gram.inner(newcomer, factors, self.device)?;
                row.products[index] = Some(finite(product, module.path)?);
            }
        }
        Ok(row)
    }
}

/// A norm in the precision in which norms are kept.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is the purpose"
)]
pub(crate) fn stored_norm(norm: f64, path: &str) -> Result<f32, MergeError> {
    let rounded = norm as f32;
    finite(f64::from(rounded), path)?;
    Ok(rounded)
}

fn finite(value: f64, path: &str) -> Result<f64, MergeError> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(MergeError::NotFinite {
            module: path.to_owned(),
            dtype: Dtype::F32,
        })
    }
}
