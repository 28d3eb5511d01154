//! Plan.
use crate::*;
/// Told how far the work is, from 0 to 1, between modules, from whichever thread finished one.
pub type Progress<'a> = &'a (dyn Fn(f32) + Sync);
/// What becomes of the newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Assignment { 
    /// Alone.
    Opened, 
    /// Merged.
    Merged }
/// A slot.
#[derive(Debug, Clone, Copy)]
pub struct SlotView<'a> { 
    /// Number.
    pub slot: u32, 
    /// Generation.
    pub generation: u64, 
    /// Members.
    pub members: u32, 
    /// Adapter.
    pub adapter: AdapterView<'a>, 
    /// Norms.
    pub norms: Option<&'a ModuleNorms> }
/// Decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What becomes of the newcomer.
    pub assignment: Assignment,
    /// Slot.
    pub slot: u32,
    /// Generation.
    pub generation: u64,
    /// Similarities.
    pub similarities: Vec<(u32, f64)>,
    /// Reason.
    pub reason: String,
    /// Weight.
    pub newcomer_weight: f64,
    /// Operator.
    pub operator: Operator,
    /// Rank.
    pub rank: usize,
    /// Dtype.
    pub dtype: Dtype,
    /// Bytes.
    pub bytes: u64,
    /// Norms.
    pub norms: Vec<(u32, ModuleNorms)>,
    /// Layout of the file to be written.
    pub layout: AdapterLayout,
}
/// Result.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome { 
    /// Layout.
    pub layout: AdapterLayout, 
    /// Norms.
    pub norms: ModuleNorms, 
    /// Energy.
    pub energy_kept: Option<f64> }
/// Plans.
pub fn plan(_policy: &Policy, _slots: &[SlotView<'_>], _newcomer: AdapterView<'_>, _progress: Progress<'_>) -> Result<Plan, MergeError> { todo!() }
/// Executes.
pub fn execute(_plan: &Plan, _slots: &[SlotView<'_>], _newcomer: AdapterView<'_>, _sink: &mut dyn TensorSink, _progress: Progress<'_>) -> Result<Outcome, MergeError> { todo!() }
