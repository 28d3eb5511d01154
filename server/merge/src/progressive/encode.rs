//! A newcomer becomes a code: as many layers as it could possibly keep.
//!
//! Two passes over the adapter, so that a segment for each thread is all that is in memory beside
//! the code itself: the first finds the sizes of all directions, which tell how many layers are
//! worth making; the second makes them, and holds them as long as they are small.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::coder::Encoder;
use super::figures::{Sums, Tracker};
use super::member::{Member, SMALLEST_NORM};
use super::scale::{self, LAST_RUNG};
use super::segment::{CodedModule, ModuleTruth, Segment, Truth, segments};
use super::spectrum::{directions, sizes};
use super::vector;
use crate::operator::ReadScratch;
use crate::parallel::try_map;
use crate::{AdapterView, MergeError, TensorSink};

/// The sizes of an adapter's directions, without the directions.
#[derive(Debug)]
pub(super) struct Outline {
    /// ‖D‖ over all modules.
    pub(super) norm: f64,
    /// ‖D‖ by module, in the order of the layout.
    pub(super) norms: Vec<f64>,
    /// By module, in the order of the layout.
    pub(super) modules: Vec<CodedModule>,
    /// By module, the size steps of its directions, the strongest first.
    sizes: Vec<Vec<i32>>,
    /// The largest rank of a module as it arrived.
    pub(super) rank: usize,
}

/// A code and what it keeps at each rung.
#[derive(Debug)]
pub(super) struct Code {
    /// By segment, the lengths of the layers from rung 0 on.
    pub(super) lengths: Vec<Vec<u32>>,
    /// By segment, the layers themselves, if there is memory for all of them.
    held: Vec<Option<Vec<Vec<u8>>>>,
    /// By rung.
    pub(super) sums: Vec<Sums>,
}

/// Bytes of layers that are held until they are written; if there are more, all are coded twice.
const HELD: f64 = 16.0 * 1024.0 * 1024.0;

impl Outline {
    /// First pass.
    pub(super) fn of(newcomer: AdapterView<'_>) -> Result<Self, MergeError> {
        let modules = &newcomer.layout.modules;
        let sigmas: Vec<Vec<f64>> =
            try_map(modules.len(), ReadScratch::default, |scratch, index| {
                sizes(&modules[index], newcomer, scratch)
            })?;
        let energy = |sigmas: &[f64]| sigmas.iter().map(|sigma| sigma * sigma).sum::<f64>();
        let norm = sigmas
            .iter()
            .map(|sigmas| energy(sigmas))
            .sum::<f64>()
            .sqrt();
        let relative = |value: f64| if norm > 0.0 { value / norm } else { 0.0 };
        Ok(Self {
            norm,
            norms: sigmas.iter().map(|sigmas| energy(sigmas).sqrt()).collect(),
            modules: modules
                .iter()
                .zip(&sigmas)
                .map(|(module, sigmas)| CodedModule {
                    out_features: module.out_features,
                    in_features: module.in_features,
                    norm: norm_step(relative(energy(sigmas).sqrt())),
                })
                .collect(),
            sizes: sigmas
                .iter()
                .map(|sigmas| {
                    if norm_step(relative(energy(sigmas).sqrt())).is_none() {
                        return Vec::new();
                    }
                    let steps = sigmas.iter();
                    steps
                        .map_while(|&sigma| scale::size_step(relative(sigma)))
                        .collect()
                })
                .collect(),
            rank: newcomer.layout.rank(),
        })
    }

    /// Bytes that the layers up to `rung` are expected to take.
    pub(super) fn expected_bytes(&self, rung: u8) -> f64 {
        let mut bits = 0.0;
        for (module, sizes) in self.modules.iter().zip(&self.sizes) {
            let terms = [module.out_features, module.in_features]
                .map(|entries| (entries, scale::width_term(entries)));
            let widest = terms[0].1.max(terms[1].1);
            for &step in sizes {
                if scale::entry_rung(step, widest) > i32::from(rung) {
                    break;
                }
                for (entries, term) in terms {
                    let entries = f64::from(u32::try_from(entries).unwrap_or(u32::MAX));
                    bits += entries * scale::expected_bits(scale::plane(step, term, rung));
                }
            }
        }
        bits / 8.0
    }

    /// The last rung that is worth a layer when at most `bytes` can be kept: a little beyond what is
    /// expected to fit, and never beyond the finest plane of the weakest direction.
    pub(super) fn last_rung(&self, bytes: u64) -> u8 {
        const MARGIN: u8 = 3;
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let bytes = bytes as f64;
        let finest = self.finest_rung();
        let fits = (0..finest).take_while(|&rung| self.expected_bytes(rung) <= bytes);
        fits.last().map_or(0, |rung| rung + 1 + MARGIN).min(finest)
    }

    /// The first rung at which every direction is at the finest plane.
    fn finest_rung(&self) -> u8 {
        let finest = |rung: u8| {
            self.modules.iter().zip(&self.sizes).all(|(module, sizes)| {
                sizes.last().is_none_or(|&step| {
                    [module.out_features, module.in_features]
                        .into_iter()
                        .all(|entries| {
                            scale::plane(step, scale::width_term(entries), rung)
                                >= scale::LAST_PLANE
                        })
                })
            })
        };
        (0..LAST_RUNG)
            .find(|&rung| finest(rung))
            .unwrap_or(LAST_RUNG)
    }

    /// Second pass: all layers up to `last`.
    pub(super) fn code(
        &self,
        newcomer: AdapterView<'_>,
        last: u8,
        progress: &(dyn Fn(f32) + Sync),
    ) -> Result<Code, MergeError> {
        let ranges = self.segments();
        let finished = AtomicUsize::new(0);
        let is_held = self.expected_bytes(last) <= HELD;
        let coded = try_map(ranges.len(), ReadScratch::default, |scratch, index| {
            let truth = self.truths(ranges[index].clone(), newcomer, scratch)?;
            let truth = Truth { modules: &truth };
            let modules = &self.modules[ranges[index].clone()];
            let mut tracker = Tracker::new(&truth);
            let mut sums = Vec::with_capacity(usize::from(last) + 1);
            let (mut lengths, mut layers) = (Vec::new(), is_held.then(Vec::new));
            code_segment(modules, &truth, last, |segment, layer| {
                sums.push(tracker.measure(segment, &truth));
                lengths.push(length(&layer));
                if let Some(layers) = &mut layers {
                    layers.push(layer);
                }
            });
            let done = finished.fetch_add(1, Ordering::Relaxed) + 1;
            progress(crate::similarity::share(done, ranges.len()));
            Ok::<_, MergeError>((lengths, layers, sums))
        })?;
        let mut code = Code {
            lengths: Vec::with_capacity(coded.len()),
            held: Vec::with_capacity(coded.len()),
            sums: vec![Sums::default(); usize::from(last) + 1],
        };
        for (lengths, held, of_segment) in coded {
            code.sums
                .iter_mut()
                .zip(&of_segment)
                .for_each(|(sum, more)| sum.add(more));
            code.lengths.push(lengths);
            code.held.push(held);
        }
        Ok(code)
    }

    /// Writes the layers of the rungs in `rungs`, segment by segment; those that are not held are
    /// made again, a few segments at a time.
    pub(super) fn write_layers(
        &self,
        newcomer: AdapterView<'_>,
        code: &Code,
        rungs: Range<u8>,
        sink: &mut dyn TensorSink,
    ) -> Result<(), MergeError> {
        let ranges = self.segments();
        let threads = rayon::current_num_threads();
        for start in (0..ranges.len()).step_by(threads) {
            let count = threads.min(ranges.len() - start);
            let made = try_map(count, ReadScratch::default, |scratch, index| {
                let index = start + index;
                if code.held[index].is_some() || rungs.is_empty() {
                    return Ok(None);
                }
                let truth = self.truths(ranges[index].clone(), newcomer, scratch)?;
                let truth = Truth { modules: &truth };
                let modules = &self.modules[ranges[index].clone()];
                let mut layers = Vec::with_capacity(usize::from(rungs.end));
                code_segment(modules, &truth, rungs.end - 1, |_, layer| {
                    layers.push(layer)
                });
                Ok::<_, MergeError>(Some(layers))
            })?;
            for (made, held) in made.iter().zip(&code.held[start..]) {
                let layers = made.as_ref().or(held.as_ref());
                let kept = usize::from(rungs.start)..usize::from(rungs.end);
                for layer in layers
                    .and_then(|layers| layers.get(kept))
                    .unwrap_or_default()
                {
                    sink.write(layer).map_err(MergeError::Sink)?;
                }
            }
        }
        Ok(())
    }

    /// The modules of each segment.
    fn segments(&self) -> Vec<Range<usize>> {
        let lengths = segments(&self.modules);
        let mut next = 0;
        let ranges = lengths.into_iter().map(|length| {
            let start = next;
            next += length;
            start..next
        });
        ranges.collect()
    }

    fn truths(
        &self,
        modules: Range<usize>,
        newcomer: AdapterView<'_>,
        scratch: &mut ReadScratch,
    ) -> Result<Vec<ModuleTruth>, MergeError> {
        modules
            .map(|place| self.truth(place, newcomer, scratch))
            .collect()
    }

    /// The newcomer with enough layers to keep `floor`, when those of `code` may not be enough: what
    /// a refusal's advice is made from. Each attempt goes two planes further.
    pub(super) fn code_to(
        &self,
        newcomer: AdapterView<'_>,
        floor: f64,
        code: &Code,
        member: impl Fn(&Code) -> Member,
    ) -> Result<Member, MergeError> {
        const FURTHER: u8 = 16;
        let finest = self.finest_rung();
        let mut complete = member(code);
        let mut last = u8::try_from(code.sums.len()).map_or(finest, |count| count - 1);
        while complete.fidelity().retention < floor && last < finest {
            last = last.saturating_add(FURTHER).min(finest);
            complete = member(&self.code(newcomer, last, &|_| ())?);
        }
        Ok(complete)
    }

    /// A module's directions relative to the adapter's norm, ready to be coded.
    fn truth(
        &self,
        place: usize,
        newcomer: AdapterView<'_>,
        scratch: &mut ReadScratch,
    ) -> Result<ModuleTruth, MergeError> {
        let steps = &self.sizes[place];
        let module = &newcomer.layout.modules[place];
        let mut found = directions(module, newcomer, steps.len(), scratch)?;
        for index in 0..found.sigmas.len() {
            found.sigmas[index] /= self.norm;
            vector::normalise(found.left.col_as_slice_mut(index));
            vector::normalise(found.right.col_as_slice_mut(index));
        }
        Ok(ModuleTruth {
            steps: steps[..found.sigmas.len()].to_vec(),
            directions: found,
        })
    }
}

/// The size step of a module's norm; a module too small to matter counts as zero.
fn norm_step(relative: f64) -> Option<i32> {
    scale::size_step(relative).filter(|&step| step <= SMALLEST_NORM)
}

/// Codes a segment up to `last`; `after` gets it as it is after each layer, and the layer.
fn code_segment(
    modules: &[CodedModule],
    truth: &Truth<'_>,
    last: u8,
    mut after: impl FnMut(&Segment, Vec<u8>),
) {
    let mut segment = Segment::new(modules, usize::MAX);
    for rung in 0..=last {
        let mut encoder = Encoder::new();
        // An encoder's own bits always make sense.
        segment.layer(rung, Some(truth), &mut encoder);
        after(&segment, encoder.finish());
    }
}

fn length(layer: &[u8]) -> u32 {
    u32::try_from(layer.len()).unwrap_or(u32::MAX)
}
