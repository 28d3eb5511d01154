//! Which slot a newcomer goes to: the two rules of K-Merge (arXiv 2510.13537) as pure decisions.
//!
//! Ties are settled by the lowest slot number, so a decision is a function of its input. These rules
//! take arrivals as they come and never move a member again; [`best_pair`] does, and [`calibration`]
//! finds kmerge++ its threshold where none is given.

pub mod best_pair;
pub mod calibration;
#[cfg(test)]
mod toy;

use crate::{AssignmentRule, Policy};

/// Whether another slot may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// The lowest number not in use.
    Free(u32),
    /// Every number is in use.
    AllTaken,
    /// A number is free, but the byte limit is not.
    NoBytes {
        /// Bytes of all slots and of the newcomer in a slot of its own.
        needed: u64,
        /// The limit.
        allowed: u64,
    },
}

/// What to do, and why in one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) choice: Choice,
    pub(crate) reason: String,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    Open(u32),
    Merge(u32),
    /// There is no slot to merge into and none may be opened.
    Nowhere,
}

/// Decides from the similarities to all slots, sorted by slot number. Pinned slots take nobody.
pub(crate) fn decide(policy: &Policy, room: Room, similarities: &[(u32, f64)]) -> Decision {
    let (rule, limit) = (policy.assignment, policy.slots);
    let taken = similarities.len();
    let open: Vec<(u32, f64)> = similarities
        .iter()
        .copied()
        .filter(|(slot, _)| !policy.pinned.contains(slot))
        .collect();
    let Some((nearest, highest)) = nearest(&open) else {
        return match room {
            Room::Free(slot) => Decision {
                choice: Choice::Open(slot),
                reason: match taken {
                    0 => format!("no slot was in use, so slot {slot} was opened"),
                    _ => format!("all {taken} slots in use were pinned, so slot {slot} was opened"),
                },
            },
            Room::AllTaken | Room::NoBytes { .. } => Decision {
                choice: Choice::Nowhere,
                reason: String::new(),
            },
        };
    };
    let most_similar = most_similar(nearest, highest, &open);
    let threshold = rule
        .threshold()
        .unwrap_or(AssignmentRule::DEFAULT_THRESHOLD);
    match (rule, room) {
        (
            AssignmentRule::KMerge | AssignmentRule::Roomiest | AssignmentRule::BestPair,
            Room::Free(slot),
        ) => Decision {
            choice: Choice::Open(slot),
            reason: format!(
                "{taken} of {limit} slots were in use and {rule} fills all of them first, so slot {slot} was opened"
            ),
        },
        (AssignmentRule::KMergePlusPlus { .. }, Room::Free(slot)) if highest < threshold => {
            Decision {
                choice: Choice::Open(slot),
                reason: format!(
                    "{most_similar}, below the threshold {threshold:.4}, so slot {slot} was opened"
                ),
            }
        }
        (AssignmentRule::KMergePlusPlus { .. }, Room::Free(_)) => Decision {
            choice: Choice::Merge(nearest),
            reason: format!(
                "{most_similar}, not below the threshold {threshold:.4}, so no slot was opened"
            ),
        },
        (_, Room::AllTaken) => Decision {
            choice: Choice::Merge(nearest),
            reason: format!("all {limit} slots were in use; {most_similar}"),
        },
        (_, Room::NoBytes { needed, allowed }) => Decision {
            choice: Choice::Merge(nearest),
            reason: format!(
                "another slot would need {needed} bytes in all where {allowed} are allowed; {most_similar}"
            ),
        },
    }
}

/// The slot of the highest similarity, the first of equals.
fn nearest(similarities: &[(u32, f64)]) -> Option<(u32, f64)> {
    similarities
        .iter()
        .copied()
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
}

fn most_similar(nearest: u32, highest: f64, similarities: &[(u32, f64)]) -> String {
    let others: Vec<(u32, f64)> = similarities
        .iter()
        .copied()
        .filter(|&(slot, _)| slot != nearest)
        .collect();
    let next = self::nearest(&others)
        .map(|(slot, similarity)| format!(" (next: slot {slot} at {similarity:.4})"))
        .unwrap_or_default();
    format!("slot {nearest} is the most similar at {highest:.4}{next}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLUS: AssignmentRule = AssignmentRule::KMergePlusPlus {
        threshold: Some(0.3),
    };

    fn choice(rule: AssignmentRule, room: Room, similarities: &[(u32, f64)]) -> Choice {
        decide(&policy(rule), room, similarities).choice
    }

    fn policy(assignment: AssignmentRule) -> Policy {
        Policy {
            slots: 3,
            assignment,
            ..Policy::default()
        }
    }

    #[test]
    fn nobody_goes_to_a_pinned_slot() {
        let mut policy = policy(AssignmentRule::KMerge);
        policy.pinned = [1].into();
        let full = [(0, 0.1), (1, 0.4), (2, 0.2)];
        let decision = decide(&policy, Room::AllTaken, &full);
        assert_eq!(decision.choice, Choice::Merge(2));
        assert!(!decision.reason.contains("0.4"), "{}", decision.reason);
        let opened = decide(&policy, Room::Free(0), &full[1..2]);
        assert_eq!(opened.choice, Choice::Open(0));
        assert!(opened.reason.contains("pinned"), "{}", opened.reason);
        policy.pinned = [0, 1, 2].into();
        let nowhere = decide(&policy, Room::AllTaken, &full);
        assert_eq!(nowhere.choice, Choice::Nowhere);
    }

    #[test]
    fn kmerge_fills_first_and_then_takes_the_nearest() {
        let rule = AssignmentRule::KMerge;
        assert_eq!(choice(rule, Room::Free(0), &[]), Choice::Open(0));
        assert_eq!(choice(rule, Room::Free(1), &[(0, 0.99)]), Choice::Open(1));
        let full = [(0, 0.1), (1, 0.4), (2, 0.2)];
        assert_eq!(choice(rule, Room::AllTaken, &full), Choice::Merge(1));
    }

    #[test]
    fn kmerge_plus_plus_opens_only_for_strangers() {
        assert_eq!(choice(PLUS, Room::Free(1), &[(0, 0.29)]), Choice::Open(1));
        assert_eq!(choice(PLUS, Room::Free(1), &[(0, 0.3)]), Choice::Merge(0));
        assert_eq!(
            choice(PLUS, Room::Free(2), &[(0, 0.1), (1, 0.5)]),
            Choice::Merge(1)
        );
        assert_eq!(
            choice(PLUS, Room::AllTaken, &[(0, 0.1), (1, 0.05)]),
            Choice::Merge(0)
        );
    }

    #[test]
    fn equals_go_to_the_lowest_number() {
        let equal = [(0, 0.2), (1, 0.4), (2, 0.4)];
        assert_eq!(
            choice(AssignmentRule::KMerge, Room::AllTaken, &equal),
            Choice::Merge(1)
        );
        let zero = [(0, 0.0), (2, -0.0)];
        assert_eq!(
            choice(AssignmentRule::KMerge, Room::AllTaken, &zero),
            Choice::Merge(0)
        );
    }

    #[test]
    fn a_byte_limit_makes_the_slots_full() {
        let room = Room::NoBytes {
            needed: 300,
            allowed: 200,
        };
        for rule in [AssignmentRule::KMerge, PLUS] {
            let decision = decide(&policy(rule), room, &[(0, 0.1), (1, 0.2)]);
            assert_eq!(decision.choice, Choice::Merge(1));
            assert!(decision.reason.contains("300 bytes"), "{}", decision.reason);
            assert_eq!(choice(rule, room, &[]), Choice::Nowhere);
        }
    }

    #[test]
    fn the_reason_has_the_numbers() {
        let full = [(0, 0.1), (1, 0.4), (2, 0.2)];
        let reason = decide(&policy(AssignmentRule::KMerge), Room::AllTaken, &full).reason;
        assert_eq!(
            reason,
            "all 3 slots were in use; slot 1 is the most similar at 0.4000 (next: slot 2 at 0.2000)"
        );
    }
}
