//! What is served: adapters that any PEFT reader takes, for each task and for the slot.

use kmerge_merge::{AdapterView, Dtype, decode, decode_slot, export_config};

use super::shelf::{Shelf, Stored, policy};
use super::{adapter_bytes, arrive, model, served, task};
use crate::support::dense::{average, tail, updates};

fn slot(members: u64, budget: u64) -> Stored {
    let mut shelf = Shelf::default();
    for number in 0..members {
        arrive(
            &mut shelf,
            &policy(1, budget),
            &number.to_string(),
            &task(number),
        )
        .unwrap();
    }
    shelf.slots.remove(&0).unwrap()
}

#[test]
fn a_member_is_served_as_a_peft_adapter_at_the_rank_that_it_needs() {
    let stored = slot(5, adapter_bytes() / 3);
    for (index, (name, kept)) in stored.packed.fidelities().enumerate() {
        for dtype in [Dtype::F16, Dtype::F32, Dtype::Bf16] {
            let mut bytes = Vec::new();
            let layout = stored
                .packed
                .export_member(&stored.file, index, dtype, &mut bytes)
                .unwrap();
            assert_eq!(decode_slot(&bytes).unwrap(), layout);
            let config = export_config(&layout, "served-as");
            let decoded = decode(&config, &bytes, &model().0).unwrap();
            assert_eq!(decoded.warnings, [""; 0], "{name}");
            assert_eq!(decoded.layout, layout);
            assert_eq!((layout.rank(), layout.dtype()), (kept.rank, dtype));
            let view = AdapterView {
                layout: &layout,
                source: &bytes,
            };
            // The last direction is one, somewhere.
            let used = updates(view).values().any(|update| {
                let values = crate::support::dense::singular_values(update);
                values[kept.rank - 1] > 1e-4 * values[0]
            });
            assert!(used, "{name}");
        }
    }
}

#[test]
fn fewer_bytes_need_less_rank() {
    let ranks: Vec<usize> = [40_000, 3_000, 1_200]
        .map(|budget| slot(1, budget).packed.rank())
        .to_vec();
    assert_eq!(ranks[0], 16);
    assert!(ranks.windows(2).all(|pair| pair[1] < pair[0]), "{ranks:?}");
}

#[test]
fn the_mean_is_nearly_the_best_of_its_rank() {
    for members in 1..=5_u32 {
        let stored = slot(members.into(), adapter_bytes());
        let each: Vec<_> = (0..stored.packed.members.len())
            .map(|index| served(&stored.packed, &stored.file, index, Dtype::F32))
            .collect();
        let share = 1.0 / f64::from(members);
        let terms: Vec<_> = each.iter().map(|updates| (share, updates)).collect();
        let expected = average(&terms);
        let mut bytes = Vec::new();
        let layout = stored
            .packed
            .export_mean(&stored.file, Dtype::F32, &mut bytes)
            .unwrap();
        assert_eq!(layout.rank(), 16);
        let found = updates(AdapterView {
            layout: &layout,
            source: &bytes,
        });
        for (path, expected) in &expected {
            let error = (&found[path] - expected).norm_l2();
            let (best, size) = (tail(expected, 16), expected.norm_l2());

            assert!(error >= best - 1e-5 * size);
            assert!(
                error <= 1.25 * best + 1e-5 * size,
                "{members} {path}: {error} {best} {size}"
            );
        }
    }
}
