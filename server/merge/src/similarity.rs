//! How alike two adapters are: the mean over their common modules of the cosine of their updates.
//!
//! cos = ⟨D₁, D₂⟩ / (‖D₁‖ ‖D₂‖) with D = B·A, scaling left out, by the Gram identity (see
//! [`gram`]). A zero update counts as 0 for its module; adapters without a common
//! module have similarity 0. Norms of stored slots are rounded to f32 wherever they come from, so
//! that a remembered norm and a measured one give the same bits.

mod text;

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::gram::{self, Factors, GramScratch, reduce};
use crate::modules::{Aligned, align};
use crate::parallel::try_map;
use crate::{
    AdapterView, Dtype, MergeError, ModuleLayout, Progress, SlotView, TensorRange, TensorSource,
    device, element,
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
    pub(crate) fn fits(&self, modules: usize) -> bool {
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
    let search = search(&[slot], b, Against::default(), &|_| ())?;
    Ok(search.similarities[0].1)
}

/// A newcomer against every slot.
#[derive(Debug)]
pub(crate) struct Search {
    /// Slot number and similarity, in the order of the slots given.
    pub(crate) similarities: Vec<(u32, f64)>,
    /// Norms of the slots that came without usable ones.
    pub(crate) measured: Vec<(u32, ModuleNorms)>,
    /// Norms of the newcomer, scaling included.
    pub(crate) newcomer: ModuleNorms,
}

/// Norms that similarities are divided by in place of an update's own: those of its members, where
/// an update is a mean of several, so that it does not count as unlike them for having shrunk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Against<'a> {
    /// For each slot, in the order of the slots given; as if none where there are fewer.
    pub(crate) slots: &'a [Option<&'a ModuleNorms>],
    pub(crate) newcomer: Option<&'a ModuleNorms>,
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
    against: Against<'_>,
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
        .map(|(index, slot)| {
            let norms = against.slots.get(index).copied().flatten();
            let norms = norms.or(known[index]);
            let similarity = mean_cosine(&modules, &rows, index, norms, against.newcomer);
            (slot.slot, similarity)
        })
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
    let own = modules.iter().zip(&rows);
    let newcomer = own.filter_map(|(module, row)| {
        let (_, layout) = module.found.last().copied().flatten()?;
        let norm = layout.scaling.abs() * row.newcomer_norm;
        Some(stored_norm(norm, module.path))
    });
    Ok(Search {
        similarities,
        measured,
        newcomer: ModuleNorms(newcomer.collect::<Result<_, _>>()?),
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
    newcomer: Option<&ModuleNorms>,
) -> f64 {
    let mut sum = 0.0;
    let mut common = 0_u32;
    for (module, row) in modules.iter().zip(rows) {
        let (Some(product), Some((place, _))) = (row.products[slot], module.found[slot]) else {
            continue;
        };
        common += 1;
        let norm = known.map_or_else(|| row.norms[slot].unwrap_or(0.0), |norms| norms.0[place]);
        let place = module.found.last().copied().flatten();
        let own = newcomer
            .zip(place)
            .map(|(norms, (place, _))| norms.0[place]);
        let norms = f64::from(norm) * own.map_or(row.newcomer_norm, f64::from);
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

/// Elements of A-factors that are compared at once: 1 MiB stays in a core's own cache, and a taller
/// stack makes the product measurably faster than one slot at a time. What is lent is compared alone:
/// the copy into a stack costs more than the taller product gains.
const STACK: usize = 1 << 18;

/// Memory of one thread: the newcomer's module, and a few slots' factors of that module. What a
/// source lends is compared where it lies and takes none of it.
#[derive(Debug, Default)]
struct Scratch {
    newcomer_a: Vec<f32>,
    newcomer_b: Vec<f32>,
    slots: SlotScratch,
}

/// The slots' part of it.
#[derive(Debug, Default)]
struct SlotScratch {
    /// A of several slots, one above the other.
    stack: Vec<f32>,
    /// B of one slot.
    b: Vec<f32>,
    a_products: Vec<f32>,
    b_products: Vec<f32>,
    gram: GramScratch,
    halves: Vec<u16>,
}

/// A slot that has the module being compared.
struct Candidate<'a> {
    index: usize,
    module: &'a ModuleLayout,
    source: &'a dyn TensorSource,
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
            newcomer_a,
            newcomer_b,
            slots: scratch,
        } = scratch;
        let newcomer = match module.found.last().copied().flatten() {
            None => None,
            Some((_, layout)) => {
                let source = self.newcomer.source;
                let halves = &mut scratch.halves;
                let a = layout.rank * layout.in_features;
                let b = layout.out_features * layout.rank;
                let factors = Factors {
                    a: read(source, &layout.a, a, newcomer_a, halves)?,
                    b: read(source, &layout.b, b, newcomer_b, halves)?,
                    rank: layout.rank,
                };
                let norm = scratch.gram.norm(factors, self.device)?;
                row.newcomer_norm = finite(norm, module.path)?;
                Some(factors)
            }
        };
        let candidates: Vec<Candidate<'_>> = self
            .slots
            .iter()
            .enumerate()
            .filter(|&(index, _)| newcomer.is_some() || self.known[index].is_none())
            .filter_map(|(index, slot)| {
                let (_, module) = module.found[index]?;
                Some(Candidate {
                    index,
                    module,
                    source: slot.adapter.source,
                })
            })
            .collect();
        let mut rest = candidates.as_slice();
        while !rest.is_empty() {
            let mut elements = 0;
            let fitting = rest.iter().take_while(|candidate| {
                let count = candidate.module.rank * module.in_features;
                elements += count;
                let lent = element::lend(candidate.source, &candidate.module.a, count);
                elements <= STACK && lent.is_none()
            });
            let (group, later) = rest.split_at(fitting.count().max(1));
            self.group(module, newcomer, group, scratch, &mut row)?;
            rest = later;
        }
        Ok(row)
    }

    /// Compares the newcomer with a few slots: one product for all of their A, one for each B.
    fn group(
        &self,
        module: &Aligned<'_>,
        newcomer: Option<Factors<'_>>,
        group: &[Candidate<'_>],
        scratch: &mut SlotScratch,
        row: &mut Row,
    ) -> Result<(), MergeError> {
        let SlotScratch {
            stack,
            b,
            a_products,
            b_products,
            gram,
            halves,
        } = scratch;
        let rank: usize = group.iter().map(|candidate| candidate.module.rank).sum();
        let stack: &[f32] = if let [only] = group {
            let count = rank * module.in_features;
            read(only.source, &only.module.a, count, stack, halves)?
        } else {
            stack.resize(rank * module.in_features, 0.0);
            let mut above = stack.as_mut_slice();
            for candidate in group {
                let (a, below) = above.split_at_mut(candidate.module.rank * module.in_features);
                element::read(candidate.source, &candidate.module.a, a, halves)
                    .map_err(MergeError::Source)?;
                above = below;
            }
            stack
        };
        if let Some(newcomer) = newcomer {
            gram::rows(
                stack,
                rank,
                newcomer.a,
                newcomer.rank,
                a_products,
                self.device,
            )?;
        }
        let mut above = 0;
        for &Candidate {
            index,
            module: layout,
            source,
        } in group
        {
            let count = module.out_features * layout.rank;
            let b = read(source, &layout.b, count, b, halves)?;
            let own = above..above + layout.rank;
            above = own.end;
            if let Some(newcomer) = newcomer {
                gram::columns(
                    b,
                    layout.rank,
                    newcomer.b,
                    newcomer.rank,
                    b_products,
                    self.device,
                )?;
                let a_products = &a_products[own.start * newcomer.rank..own.end * newcomer.rank];
                row.products[index] = Some(finite(reduce(a_products, b_products), module.path)?);
            }
            if self.known[index].is_none() {
                let a = &stack[own.start * module.in_features..own.end * module.in_features];
                let norm = gram.norm(
                    Factors {
                        a,
                        b,
                        rank: layout.rank,
                    },
                    self.device,
                )?;
                row.norms[index] = Some(stored_norm(norm, module.path)?);
            }
        }
        Ok(())
    }
}

/// `count` elements of a factor, lent by its source or read into `values`.
fn read<'a>(
    source: &'a dyn TensorSource,
    range: &TensorRange,
    count: usize,
    values: &'a mut Vec<f32>,
    halves: &mut Vec<u16>,
) -> Result<&'a [f32], MergeError> {
    if let Some(lent) = element::lend(source, range, count) {
        return Ok(lent);
    }
    values.resize(count, 0.0);
    element::read(source, range, values, halves).map_err(MergeError::Source)?;
    Ok(values)
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
