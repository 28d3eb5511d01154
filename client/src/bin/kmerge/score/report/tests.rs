//! The pages as a whole: everything is on them, and nothing that is named becomes markup.

use super::*;
use crate::commands::replay::summary::Spread;
use crate::score::bootstrap::{Pair, kept};
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
    let spread = Spread {
        mean: 0.9,
        least: 0.8,
        most: 1.1,
    };
    let row = |operator: &str| Row {
        operator: operator.into(),
        slots: 3,
        slot_bytes: Some(1 << 20),
        stored: Spread {
            mean: 3e6,
            least: 3e6,
            most: 3e6,
        },
        share: 0.25,
        kept: Some([spread; 3]),
        retention: None,
    };
    let page = replays("a<b", &[row("exact"), row("progressive"), row("exact")]);
    assert_eq!(page.matches("<circle").count(), 9);
    assert!(page.contains("a&lt;b") && page.contains("0.900 (0.800…1.100)"));
}
