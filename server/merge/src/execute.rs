//! Carrying out a plan: one whole file in normal form, written from front to back.
//!
//! Modules are computed in batches by the threads of the current pool. While one batch is computed
//! the calling thread writes the batch before it, so the sink sees the file in order and two batches
//! are all that is ever held.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::gram::{Factors, GramScratch};
use crate::header::{NormalForm, ShapedModule};
use crate::modules::{Aligned, align};
use crate::operator::dare::{self, Chance, Joining};
use crate::operator::exact::{self, Energy, ExactScratch};
use crate::operator::sparse::{Pair, SparseScratch};
use crate::operator::ties::{self, TiesScratch};
use crate::operator::{ReadScratch, Side, Target, linear, opcm};
use crate::parallel::{Pool, Pooled, try_map};
use crate::similarity::{share, stored_norm};
use crate::{
    AdapterLayout, AdapterView, Assignment, Dtype, Joined, MergeError, ModuleNorms, Operator, Plan,
    Progress, SlotView, TensorSink, device, element,
};

/// Modules of one batch, for each thread: enough to even out modules of different size.
const BATCH: usize = 4;
/// Bytes of one batch, for each thread, beyond which no further module is taken into it: large
/// modules are even enough by themselves, and two batches are held.
const BATCH_BYTES: usize = 2 << 20;

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Layout of the file, as [`decode_slot`](crate::decode_slot()) will read it.
    pub layout: AdapterLayout,
    /// Norms of the updates as stored, worth keeping with the slot.
    pub norms: ModuleNorms,
    /// Share of the squared singular values that the rank could hold, over all modules together;
    /// `None` where the operator cuts nothing off.
    pub energy_kept: Option<f64>,
}

/// Writes the file that `plan` describes, from the slots and the newcomer that it was made for.
///
/// # Errors
///
/// [`MergeError::StalePlan`] and [`MergeError::OtherAdapters`] when they are not the same any more,
/// [`MergeError::NotFinite`] when a value does not fit the stored type, [`MergeError::Source`] and
/// [`MergeError::Sink`] from reading and writing. After an error the sink holds part of a file.
pub fn execute(
    plan: &Plan,
    slots: &[SlotView<'_>],
    newcomer: AdapterView<'_>,
    sink: &mut dyn TensorSink,
    progress: Progress<'_>,
) -> Result<Outcome, MergeError> {
    let slot = target_slot(plan, slots)?;
    let layouts: Vec<&AdapterLayout> = slot
        .iter()
        .map(|view| view.layout)
        .chain([newcomer.layout])
        .collect();
    let modules = align(&layouts)?;
    let form = planned_form(plan, &modules)?;
    let merge = Merge {
        plan,
        slot,
        newcomer,
        modules: &modules,
    };
    sink.write(&form.head).map_err(MergeError::Sink)?;

    let mut norms = Vec::with_capacity(modules.len());
    let mut energy = Energy {
        kept: 0.0,
        all: 0.0,
    };
    let finished = AtomicUsize::new(0);
    let (scratches, buffers) = (Pool::default(), Pool::default());
    let compute = |start: usize| {
        let count = batch(&modules[start..], plan, rayon::current_num_threads());
        try_map(
            count,
            || scratches.take(),
            |scratch, index| {
                let written = merge.module(start + index, scratch, buffers.take())?;
                progress(share(
                    finished.fetch_add(1, Ordering::Relaxed) + 1,
                    modules.len(),
                ));
                Ok(written)
            },
        )
    };
    let mut next = 0;
    let mut ready: Vec<Written<'_>> = Vec::new();
    while next < modules.len() || !ready.is_empty() {
        let mut following = Ok(Vec::new());
        let mut sunk = Ok(());
        rayon::in_place_scope(|scope| {
            if next < modules.len() {
                scope.spawn(|_| following = compute(next));
            }
            // The sink stays on the calling thread: it need not be Send.
            sunk = ready
                .iter()
                .try_for_each(|module| sink.write(module.bytes(plan.dtype)));
        });
        sunk.map_err(MergeError::Sink)?;
        for module in &ready {
            norms.push(module.norm);
            energy.kept += module.energy.kept;
            energy.all += module.energy.all;
        }
        ready = following?;
        next += ready.len();
    }
    let truncated = plan.assignment == Assignment::Merged && plan.operator.truncates();
    // An average that is zero loses nothing.
    let share_kept = || {
        if energy.all > 0.0 {
            (energy.kept / energy.all).min(1.0)
        } else {
            1.0
        }
    };
    Ok(Outcome {
        layout: form.layout,
        norms: ModuleNorms::new(norms),
        energy_kept: truncated.then(share_kept),
    })
}

/// Writes the file of the slot that two slots become, as [`Plan::joined`] says.
///
/// # Errors
///
/// As [`execute()`].
pub fn execute_joined(
    joined: &Joined,
    slots: &[SlotView<'_>],
    sink: &mut dyn TensorSink,
    progress: Progress<'_>,
) -> Result<Outcome, MergeError> {
    let from = slots.iter().find(|view| view.slot == joined.from);
    match from {
        Some(from) if from.generation == joined.from_generation => {
            execute(&joined.plan, slots, from.adapter, sink, progress)
        }
        moved => Err(MergeError::StalePlan {
            slot: joined.from,
            planned: joined.from_generation + 1,
            found: moved.map(|view| view.generation),
        }),
    }
}

/// How many of the next modules make a batch: one for each thread at least.
fn batch(modules: &[Aligned<'_>], plan: &Plan, threads: usize) -> usize {
    let mut room = BATCH_BYTES * threads;
    let roomy = modules.iter().take(BATCH * threads).take_while(|module| {
        let width = module.out_features + module.in_features;
        let had_room = room > 0;
        room = room.saturating_sub(width * plan.rank * plan.dtype.size_bytes());
        had_room
    });
    roomy.count().max(threads.min(modules.len()))
}

/// The slot that the plan merges into, checked to be where the plan left it; `None` for a slot to
/// be opened, checked not to exist or to be the one that was freed.
fn target_slot<'a>(
    plan: &Plan,
    slots: &[SlotView<'a>],
) -> Result<Option<AdapterView<'a>>, MergeError> {
    let view = slots.iter().find(|view| view.slot == plan.slot);
    let found = view.map(|view| view.generation);
    let expected = match (plan.assignment, &plan.joined) {
        (Assignment::Opened, None) => None,
        (Assignment::Opened, Some(joined)) => Some(joined.from_generation),
        (Assignment::Merged, _) => Some(plan.generation - 1),
    };
    if found != expected {
        return Err(MergeError::StalePlan {
            slot: plan.slot,
            planned: plan.generation,
            found,
        });
    }
    let merged = view.filter(|_| plan.assignment == Assignment::Merged);
    Ok(merged.map(|view| view.adapter))
}

/// The planned file, checked to be the one that these modules give.
fn planned_form(plan: &Plan, modules: &[Aligned<'_>]) -> Result<NormalForm, MergeError> {
    let shapes = modules.iter().map(|module| ShapedModule {
        path: module.path,
        out_features: module.out_features,
        in_features: module.in_features,
    });
    let form = NormalForm::new(shapes, plan.rank, plan.dtype);
    let fits = modules
        .iter()
        .flat_map(|module| module.found.iter().flatten());
    if form.layout != plan.layout || fits.into_iter().any(|(_, module)| module.rank > plan.rank) {
        return Err(MergeError::OtherAdapters);
    }
    Ok(form)
}

/// Memory of one thread.
#[derive(Debug, Default)]
struct Scratch {
    /// One module's factors as f32, where they are stored in a half type.
    wide: Vec<f32>,
    operator: OperatorScratch,
    gram: GramScratch,
}

/// Memory of one thread for the operator, of which only its own part grows.
#[derive(Debug, Default)]
struct OperatorScratch {
    read: ReadScratch,
    exact: ExactScratch,
    sparse: SparseScratch,
    ties: TiesScratch,
}

/// One module's factors as stored, A before B: as f32, or as words of a half type.
#[derive(Debug, Default)]
struct Buffer {
    values: Vec<f32>,
    words: Vec<u16>,
}

/// One module, ready to be written.
#[derive(Debug)]
struct Written<'a> {
    buffer: Pooled<'a, Buffer>,
    norm: f32,
    energy: Energy,
}

impl Written<'_> {
    fn bytes(&self, dtype: Dtype) -> &[u8] {
        element::bytes(dtype, &self.buffer.values, &self.buffer.words)
    }
}

/// What all modules of one merge share.
struct Merge<'a> {
    plan: &'a Plan,
    slot: Option<AdapterView<'a>>,
    newcomer: AdapterView<'a>,
    modules: &'a [Aligned<'a>],
}

impl<'a> Merge<'a> {
    fn module<'b>(
        &self,
        index: usize,
        scratch: &mut Scratch,
        mut buffer: Pooled<'b, Buffer>,
    ) -> Result<Written<'b>, MergeError> {
        let module = &self.modules[index];
        let target = Target {
            out_features: module.out_features,
            in_features: module.in_features,
            rank: self.plan.rank,
        };
        let side = |owner: usize, view: AdapterView<'a>| {
            let (_, module) = module.found[owner]?;
            Some(Side {
                module,
                source: view.source,
            })
        };
        let slot = self.slot.and_then(|view| side(0, view));
        let newcomer = side(usize::from(self.slot.is_some()), self.newcomer);

        let dtype = self.plan.dtype;
        let Buffer { values, words } = &mut *buffer;
        let Scratch {
            wide,
            operator,
            gram,
        } = scratch;
        let values = match dtype {
            Dtype::F32 => values,
            Dtype::F16 | Dtype::Bf16 => wide,
        };
        values.resize(target.len(), 0.0);
        let truncated = self.combine(module.path, slot, newcomer, target, operator, values)?;
        element::round(dtype, values, words);
        let (a, b) = values.split_at(target.a_len());
        let norm = gram.norm(
            Factors {
                a,
                b,
                rank: target.rank,
            },
            device::compute(),
        )?;
        // A value that is not finite makes the norm so too, and that is the cheaper thing to look
        // at; only then is there a difference between a value and a norm that does not fit.
        if !norm.is_finite() && !element::all_finite(values) {
            return Err(MergeError::NotFinite {
                module: module.path.to_owned(),
                dtype,
            });
        }
        let energy = truncated.unwrap_or(Energy {
            kept: norm * norm,
            all: norm * norm,
        });
        Ok(Written {
            norm: stored_norm(norm, module.path)?,
            energy,
            buffer,
        })
    }

    /// Fills `values` (A, then B) as the operator says; the singular values, if any were cut off.
    fn combine(
        &self,
        path: &str,
        slot: Option<Side<'_>>,
        newcomer: Option<Side<'_>>,
        target: Target,
        scratch: &mut OperatorScratch,
        values: &mut [f32],
    ) -> Result<Option<Energy>, MergeError> {
        let OperatorScratch {
            read,
            exact,
            sparse,
            ties,
        } = scratch;
        let &Plan {
            newcomer_weight: weight,
            weights,
            density,
            generation,
            ..
        } = self.plan;
        let pair = Pair {
            slot,
            newcomer,
            weights,
        };
        let chance = Chance {
            path,
            generation,
            density,
        };
        // A slot that is opened holds its newcomer as it is.
        let operator = match self.plan.assignment {
            Assignment::Opened => Operator::Linear,
            Assignment::Merged => self.plan.operator,
        };
        match (operator, slot, newcomer) {
            (Operator::Exact | Operator::Svd, Some(slot), Some(newcomer)) => {
                exact::merge(slot, newcomer, weight, target, exact, values).map(Some)
            }
            (Operator::Opcm, Some(slot), Some(newcomer)) => {
                opcm::merge(slot, newcomer, weight, target, exact, values).map(Some)
            }
            (Operator::Ties, _, _) => {
                ties::merge(pair, density, target, ties, values).map(|()| None)
            }
            (Operator::DareLinear, _, _) => {
                dare::merge(pair, Joining::Linear, chance, target, sparse, values).map(|()| None)
            }
            (Operator::DareTies, _, _) => {
                dare::merge(pair, Joining::Ties, chance, target, sparse, values).map(|()| None)
            }
            // One side alone is already of the target's rank, whatever the operator.
            (
                Operator::Exact
                | Operator::Svd
                | Operator::Opcm
                | Operator::KMergeLinear
                | Operator::Linear
                | Operator::Progressive,
                _,
                _,
            ) => linear::combine(slot, newcomer, weight, target, read, values).map(|()| None),
        }
    }
}
