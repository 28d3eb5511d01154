//! From similarities to a choice, for every rule: those that take arrivals as they come are in
//! [`assign`](crate::assign), those that look back need [`History`] and are put together here.

use super::pair::{Closest, Linkages};
use crate::assign::calibration::{self, Calibration};
use crate::assign::{Choice, Room, decide};
use crate::similarity::Search;
use crate::{AdapterView, AssignmentRule, History, MergeError, Policy, SlotView};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen {
    Open(u32),
    Merge(u32),
    /// Two slots become one, and the newcomer takes the freed one.
    Join {
        kept: u32,
        freed: u32,
    },
    /// There is no slot to merge into and none may be opened.
    Nowhere,
}

/// What to do, and why in one sentence.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) choice: Chosen,
    pub(super) reason: String,
    /// Linkages that history did not have.
    pub(super) measured: Vec<((u32, u32), f64)>,
}

/// Whether a rule decides by more than the newcomer: by similarities that must mean the same for
/// slots with few members and with many.
pub(super) fn looks_back(rule: AssignmentRule) -> bool {
    match rule {
        AssignmentRule::BestPair | AssignmentRule::KMergePlusPlus { threshold: None } => true,
        AssignmentRule::KMerge
        | AssignmentRule::KMergePlusPlus { threshold: Some(_) }
        | AssignmentRule::Roomiest => false,
    }
}

/// Decides. `slots` and the similarities that were found are sorted by slot number.
pub(super) fn choose(
    policy: &Policy,
    room: Room,
    slots: &[SlotView<'_>],
    newcomer: AdapterView<'_>,
    history: &History<'_>,
    found: &Search,
) -> Result<Decided, MergeError> {
    let similarities = &found.similarities;
    let first_come = |policy: &Policy| {
        let decision = decide(policy, room, similarities);
        Decided {
            choice: match decision.choice {
                Choice::Open(slot) => Chosen::Open(slot),
                Choice::Merge(slot) => Chosen::Merge(slot),
                Choice::Nowhere => Chosen::Nowhere,
            },
            reason: decision.reason,
            measured: Vec::new(),
        }
    };
    match (policy.assignment, room) {
        (AssignmentRule::KMergePlusPlus { threshold: None }, _) => {
            let (threshold, seen) = calibrated(history, similarities, newcomer);
            let assignment = AssignmentRule::KMergePlusPlus {
                threshold: Some(threshold),
            };
            let mut decided = first_come(&Policy {
                assignment,
                ..policy.clone()
            });
            decided.reason += &if seen < calibration::ENOUGH {
                format!(
                    " (a threshold of {threshold:.4} holds until {} similarities are known; these were {seen})",
                    calibration::ENOUGH
                )
            } else {
                format!(" (a threshold of {threshold:.4} was found from {seen} similarities)")
            };
            Ok(decided)
        }
        (AssignmentRule::BestPair, Room::AllTaken | Room::NoBytes { .. }) => {
            let linkages = Linkages::new(policy, slots, history)?;
            let Some(closest) = linkages.closest(similarities) else {
                return Ok(first_come(policy));
            };
            Ok(Decided {
                choice: match closest {
                    Closest::Newcomer { slot, .. } => Chosen::Merge(slot),
                    Closest::Slots { kept, freed, .. } => Chosen::Join { kept, freed },
                },
                reason: reason(policy, room, closest, similarities),
                measured: linkages.measured,
            })
        }
        (
            AssignmentRule::KMerge
            | AssignmentRule::KMergePlusPlus { threshold: Some(_) }
            | AssignmentRule::Roomiest,
            _,
        )
        | (AssignmentRule::BestPair, Room::Free(_)) => Ok(first_come(policy)),
    }
}

/// The threshold of kmerge++ from all similarities there have been, this newcomer's among them, and
/// how many those are.
fn calibrated(
    history: &History<'_>,
    similarities: &[(u32, f64)],
    newcomer: AdapterView<'_>,
) -> (f64, usize) {
    let mut observed = history.observed.clone();
    observed.extend(similarities.iter().map(|(_, similarity)| similarity));
    let modules = newcomer.layout.modules.iter();
    let shapes: Vec<(usize, usize)> = modules
        .map(|module| (module.out_features, module.in_features))
        .collect();
    let chance = calibration::chance(&shapes);
    let threshold = calibration::threshold(&observed, Calibration::TwoMeans, chance);
    (threshold, observed.len())
}

fn reason(policy: &Policy, room: Room, closest: Closest, similarities: &[(u32, f64)]) -> String {
    let full = match room {
        Room::NoBytes { needed, allowed } => {
            format!("another slot would need {needed} bytes in all where {allowed} are allowed")
        }
        Room::AllTaken | Room::Free(_) => format!("all {} slots were in use", policy.slots),
    };
    match closest {
        Closest::Newcomer { slot, linkage } => {
            format!("{full}; no two were closer than the newcomer and slot {slot} at {linkage:.4}")
        }
        Closest::Slots {
            kept,
            freed,
            linkage,
        } => {
            let own = similarities
                .iter()
                .filter(|(slot, _)| !policy.pinned.contains(slot))
                .map(|(_, similarity)| *similarity)
                .fold(f64::NEG_INFINITY, f64::max);
            format!(
                "{full}; slots {kept} and {freed} were closer at {linkage:.4} than the newcomer to any at {own:.4}, so slot {freed} was merged into slot {kept} and the newcomer took its place"
            )
        }
    }
}
