//! One task in a packed slot: what is known of it without its layers.
//!
//! A member owns a ladder. Every rung of it is a whole code of the task's update, with the bytes it
//! takes and what it keeps, measured when the task arrived. Giving up bytes means climbing down:
//! nothing is coded again and no figure is guessed.

use super::bytes::{Cursor, push_count, push_number, push_text};
use super::encode::{Code, Outline};
use super::figures::Sums;
use super::scale::LAST_RUNG;
use super::segment::{CodedModule, segments};
use super::table::Table;
use crate::operator::narrow;

/// What a member keeps of the update that arrived. Weight-space figures: they say nothing of how
/// well a task is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fidelity {
    /// Cosine of the served update D̂ and the original D, in [0, 1].
    pub retention: f64,
    /// Upper bound of ‖D − D̂‖ / ‖D‖, rounding of the served file included.
    pub error_bound: f64,
    /// Share of ‖D‖² that lies in the directions that are kept, in [0, 1].
    pub energy_kept: f64,
    /// Bytes that the member takes in its slot's file.
    pub bytes: u64,
    /// The largest rank of a module.
    pub rank: usize,
    /// The mean of the ranks of all modules.
    pub mean_rank: f64,
}

/// The figures of one rung as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rung {
    /// In 1/8192, rounded up.
    error: u16,
    /// In 1/65,535, rounded down.
    retention: u16,
    /// In 1/65,535, rounded down.
    energy: u16,
    most: usize,
    ranks: usize,
}

/// Rounding a served adapter to half precision, and f32 sums here: far below any rung's own error.
const ROUNDING: f64 = 1.5e-3;
const ERROR_UNIT: f64 = 8192.0;
const SHARE_UNIT: f64 = 65_535.0;

impl Rung {
    fn new(sums: &Sums) -> Self {
        let (error, retention, energy) = if sums.all > 0.0 {
            let square = (sums.all - 2.0 * sums.inner + sums.served).max(0.0);
            let product = (sums.all * sums.served).sqrt();
            let retention = if product > 0.0 {
                sums.inner / product
            } else {
                0.0
            };
            (
                (square / sums.all).sqrt() + ROUNDING,
                retention,
                sums.kept / sums.all,
            )
        } else {
            // Nothing is kept of nothing.
            (0.0, 1.0, 1.0)
        };
        Self {
            error: stored((error * ERROR_UNIT).ceil()),
            retention: stored((retention.clamp(0.0, 1.0) * SHARE_UNIT).floor()),
            energy: stored((energy.clamp(0.0, 1.0) * SHARE_UNIT).floor()),
            most: sums.most,
            ranks: sums.ranks,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        for word in [self.error, self.retention, self.energy] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        push_count(out, self.most);
        push_count(out, self.ranks);
    }

    /// Whether these modules can have such ranks: adapters are made from them.
    fn is_possible(&self, modules: &[CodedModule]) -> bool {
        let ranks = modules.iter().map(CodedModule::full_rank);
        self.most <= ranks.clone().max().unwrap_or(0)
            && self.ranks <= ranks.sum()
            && is_makeable(self.most, modules)
    }

    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        let mut word = || Some(u16::from_le_bytes(cursor.array()?));
        let (error, retention, energy) = (word()?, word()?, word()?);
        Some(Self {
            error,
            retention,
            energy,
            most: cursor.count()?,
            ranks: cursor.count()?,
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float beyond the range becomes its nearest value, which is the purpose"
)]
fn stored(value: f64) -> u16 {
    value as u16
}

/// Whether an adapter of this rank fits into memory: far above any, but no file may ask for more.
fn is_makeable(rank: usize, modules: &[CodedModule]) -> bool {
    const ENTRIES: usize = 1 << 28;
    let widths = modules
        .iter()
        .map(|module| module.out_features + module.in_features);
    widths.max().unwrap_or(0).saturating_mul(rank) <= ENTRIES
}

/// A member without its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The task.
    pub task: String,
    /// ‖D‖ of the update that arrived.
    pub(super) norm: f32,
    /// The rank that it arrived with.
    pub(super) rank: usize,
    /// By module of the slot's table: `None` where the adapter has none.
    pub(super) modules: Vec<Option<CodedModule>>,
    /// The rung of the first layer.
    pub(super) first: u8,
    rungs: Vec<Rung>,
    /// Lengths of the layers, by segment and rung.
    pub(super) layers: Vec<Vec<u32>>,
    /// Bytes in the file, head and layers, by rung.
    costs: Vec<u64>,
}

impl Member {
    /// The newcomer, with all layers of its code.
    pub(super) fn new(
        task: &str,
        outline: &Outline,
        code: &Code,
        places: &[usize],
        table: &Table,
    ) -> Self {
        let first = code
            .sums
            .iter()
            .position(|sums| sums.ranks > 0)
            .unwrap_or(code.sums.len() - 1);
        let mut modules = vec![None; table.len()];
        for (&place, &module) in places.iter().zip(&outline.modules) {
            modules[place] = Some(module);
        }
        let mut member = Self {
            task: task.to_owned(),
            norm: narrow(outline.norm),
            rank: outline.rank,
            modules,
            first: u8::try_from(first).unwrap_or(LAST_RUNG),
            rungs: code.sums[first..].iter().map(Rung::new).collect(),
            layers: code
                .lengths
                .iter()
                .map(|lengths| lengths[first..].to_vec())
                .collect(),
            costs: Vec::new(),
        };
        member.count_costs();
        member
    }

    /// How many rungs it has.
    pub(super) fn height(&self) -> usize {
        self.rungs.len()
    }

    /// Bytes in the file with the first `rungs` rungs, at least one.
    pub(super) fn cost(&self, rungs: usize) -> u64 {
        self.costs[rungs - 1]
    }

    /// What it keeps with the first `rungs` rungs, at least one.
    pub(super) fn fidelity_at(&self, rungs: usize) -> Fidelity {
        let rung = self.rungs[rungs - 1];
        let present = self.modules.iter().flatten().count().max(1);
        Fidelity {
            retention: f64::from(rung.retention) / SHARE_UNIT,
            error_bound: f64::from(rung.error) / ERROR_UNIT,
            energy_kept: f64::from(rung.energy) / SHARE_UNIT,
            bytes: self.cost(rungs),
            rank: rung.most,
            mean_rank: ratio(rung.ranks, present),
        }
    }

    /// What it keeps as it is.
    #[must_use]
    pub fn fidelity(&self) -> Fidelity {
        self.fidelity_at(self.height())
    }

    /// The modules that it has, in order.
    pub(super) fn present(&self) -> Vec<CodedModule> {
        self.modules.iter().flatten().copied().collect()
    }

    /// With its first rungs only, at least one.
    pub(super) fn cut(&self, rungs: usize) -> Self {
        let mut cut = self.clone();
        cut.rungs.truncate(rungs);
        cut.costs.truncate(rungs);
        cut.layers
            .iter_mut()
            .for_each(|layers| layers.truncate(rungs));
        cut
    }

    /// In a table that has more modules: `places` says where each of the old ones is.
    pub(super) fn moved(mut self, places: &[usize], modules: usize) -> Self {
        let mut moved = vec![None; modules];
        for (&place, module) in places.iter().zip(&self.modules) {
            moved[place] = *module;
        }
        self.modules = moved;
        self.count_costs();
        self
    }

    /// In a table that has only the modules for which `kept` says so; the others it does not have.
    pub(super) fn narrowed(mut self, kept: &[bool]) -> Self {
        let mut kept = kept.iter();
        self.modules.retain(|_| kept.next() == Some(&true));
        self.count_costs();
        self
    }

    /// Bytes of all layers together.
    pub(super) fn payload(&self) -> u64 {
        self.layers
            .iter()
            .flatten()
            .map(|&length| u64::from(length))
            .sum()
    }

    fn count_costs(&mut self) {
        let length = |head: &Vec<u8>| u64::try_from(head.len()).unwrap_or(u64::MAX);
        let mut head = Vec::new();
        self.write_identity(&mut head);
        let identity = length(&head);
        let mut ladder = 0;
        let mut costs = Vec::with_capacity(self.height());
        for (index, rung) in self.rungs.iter().enumerate() {
            head.clear();
            rung.write(&mut head);
            for layers in &self.layers {
                push_number(&mut head, u64::from(layers[index]));
                ladder += u64::from(layers[index]);
            }
            ladder += length(&head);
            head.clear();
            push_count(&mut head, index + 1);
            costs.push(identity + length(&head) + ladder);
        }
        self.costs = costs;
    }

    /// Appends the head of the member with its first `rungs` rungs.
    pub(super) fn write_head(&self, rungs: usize, out: &mut Vec<u8>) {
        self.write_identity(out);
        push_count(out, rungs);
        self.rungs[..rungs].iter().for_each(|rung| rung.write(out));
        for layers in &self.layers {
            for &length in &layers[..rungs] {
                push_number(out, u64::from(length));
            }
        }
    }

    /// Appends what does not depend on how many rungs there are.
    fn write_identity(&self, out: &mut Vec<u8>) {
        push_text(out, &self.task);
        out.extend_from_slice(&self.norm.to_le_bytes());
        push_count(out, self.rank);
        for module in &self.modules {
            // 0: not there; 1: zero; else the step of its norm.
            out.push(module.map_or(0, |module| {
                module
                    .norm
                    .map_or(1, |step| u8::try_from(step + 2).unwrap_or(u8::MAX))
            }));
        }
        out.push(self.first);
    }

    /// Reads what [`Member::write_head`] wrote.
    pub(super) fn read_head(cursor: &mut Cursor<'_>, table: &Table) -> Option<Self> {
        let task = cursor.text()?.to_owned();
        let norm = f32::from_le_bytes(cursor.array()?);
        let rank = cursor.count()?;
        if !(norm.is_finite() && norm >= 0.0) {
            return None;
        }
        let modules = table
            .shapes()
            .map(|(out_features, in_features)| {
                let norm = match cursor.byte()? {
                    0 => return Some(None),
                    1 => None,
                    step => Some(i32::from(step) - 2),
                };
                Some(Some(CodedModule {
                    out_features,
                    in_features,
                    norm,
                }))
            })
            .collect::<Option<Vec<_>>>()?;
        let first = cursor.byte()?;
        let height = cursor.count()?;
        if height == 0 || usize::from(first) + height > usize::from(LAST_RUNG) + 1 {
            return None;
        }
        let present: Vec<CodedModule> = modules.iter().flatten().copied().collect();
        if !is_makeable(rank, &present) {
            return None;
        }
        let rungs = (0..height)
            .map(|_| Rung::read(cursor).filter(|rung| rung.is_possible(&present)))
            .collect::<Option<Vec<_>>>()?;
        let layers = segments(&present)
            .iter()
            .map(|_| {
                let lengths = (0..height).map(|_| u32::try_from(cursor.number()?).ok());
                lengths.collect::<Option<Vec<_>>>()
            })
            .collect::<Option<Vec<_>>>()?;
        let mut member = Self {
            task,
            norm,
            rank,
            modules,
            first,
            rungs,
            layers,
            costs: Vec::new(),
        };
        member.count_costs();
        Some(member)
    }
}

/// The largest step that the norm of a module can have; smaller modules count as zero.
pub(super) const SMALLEST_NORM: i32 = 250;

#[expect(clippy::cast_precision_loss, reason = "counts are small")]
fn ratio(sum: usize, count: usize) -> f64 {
    sum as f64 / count as f64
}
