//! The pages as a whole: everything is on them, and nothing that is named becomes markup.

use super::*;
use crate::commands::replay::membership::{Arrival, Arrivals, Membership};
use crate::commands::replay::summary::row;
use crate::score::bootstrap::{Pair, kept};
use crate::score::compare::Similarities;
use crate::score::metrics::Outcome;

fn outcomes(right: u32) -> Vec<Outcome> {
    vec![
        Outcome {
            tokens: 4,
            right,
            loss: 1.5
        };
        3
    ]
}

fn scored(task: &str) -> Scored {
    Scored {
        task: task.into(),
        slot: 0,
        retention: None,
        base: outcomes(1),
        served: outcomes(3),
        original: Some(outcomes(4)),
    }
}

#[test]
fn a_page_of_scores() {
    let slot = v1::Slot {
        members: vec![v1::Member {
            task: "<b>".into(),
            ..v1::Member::default()
        }],
        ..v1::Slot::default()
    };
    let job = v1::Job {
        task: "<b>".into(),
        decision: Some(v1::Decision {
            similarities: vec![v1::SlotSimilarity {
                slot: 1,
                similarity: 0.07,
            }],
            ..v1::Decision::default()
        }),
        ..v1::Job::default()
    };
    let (served, original) = (outcomes(3), outcomes(4));
    let kept = kept(
        &[Pair {
            served: &served,
            original: &original,
        }],
        1,
    );
    let page = scores("base & co", &[scored("<b>")], Some(kept), &[slot], &[job]);
    assert!(page.contains("base &amp; co") && !page.contains("<b>"));
    // Three charts of three bars, and the cell of slot 1.
    assert_eq!(page.matches("<rect").count(), 10);
    assert!(page.contains("slot 1") && page.contains("0.070"));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
}

#[test]
fn a_page_of_replays() {
    let arrival = |task: &str, place, slot| Arrival {
        task: task.into(),
        place,
        slot,
    };
    let orders = vec![Arrivals {
        order: "shuffle 1".into(),
        tasks: vec![
            arrival("a<b", 2, Some(1)),
            arrival("c", 1, Some(0)),
            arrival("d", 3, None),
        ],
    }];
    let alike = Similarities {
        tasks: ["a<b", "c", "d"].map(String::from).into(),
        values: vec![
            vec![1.0, 0.0312, 0.02],
            vec![0.0312, 1.0, 0.0],
            vec![0.02, 0.0, 1.0],
        ],
    };
    let page = replays(&Replayed {
        folder: "a<b",
        rows: &[row("exact"), row("progressive"), row("exact")],
        alike: Some(&alike),
        memberships: &[Membership {
            combinations: vec!["exact, K = 2".into(), "svd, K = 2".into()],
            orders,
        }],
    });
    assert_eq!(page.matches("<circle").count(), 9);
    assert!(!page.contains("a<b") && page.contains("0.900 (0.800…1.100)"));
    // Every pair twice, none with itself; and three arrivals.
    assert_eq!(page.matches("<rect").count(), 6 + 3);
    assert_eq!(page.matches(">0.031<").count(), 2);
    assert!(page.contains("exact, K = 2; svd, K = 2"));
    assert!(page.contains("a&lt;b, arrival 2, went to slot 1"));
    assert!(page.contains("d, arrival 3, was refused"));
}
