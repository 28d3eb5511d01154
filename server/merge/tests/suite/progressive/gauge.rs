//! What is kept is of the update, not of the factors that it happened to arrive in.

use kmerge_merge::progressive::Fidelity;

use super::shelf::{Shelf, policy};
use super::synthetic::{Adapter, Form, Module, TRAINED, write};
use super::{adapter_bytes, arrive, distance, model, norm, served};
use crate::support::dense::Updates;
use kmerge_merge::Dtype;

/// Keeps an adapter in a slot of its own.
fn kept(adapter: &Adapter, budget: u64) -> (Fidelity, Updates) {
    let mut shelf = Shelf::default();
    let placement = arrive(&mut shelf, &policy(1, budget), "t", adapter).unwrap();
    let stored = &shelf.slots[&0];
    let updates = served(&stored.packed, &stored.file, 0, Dtype::F32);
    (placement.costs[0].after, updates)
}

fn modules(task: u64) -> Vec<Module> {
    let (base, paths) = model();
    paths
        .iter()
        .map(|path| Module::trained(&base, path, task, &TRAINED))
        .collect()
}

fn assert_same(
    changed: &[Module],
    form: Form,
    plain: &(Fidelity, Updates),
    budget: u64,
    what: &str,
) {
    let (figures, updates) = kept(&write(&model().0, changed, form), budget);
    let expected = &plain.0;
    for (found, expected) in [
        (figures.retention, expected.retention),
        (figures.error_bound, expected.error_bound),
        (figures.energy_kept, expected.energy_kept),
        (figures.mean_rank, expected.mean_rank),
    ] {
        assert!(
            (found - expected).abs() <= 1e-3,
            "{what}: {figures:?} {expected:?}"
        );
    }
    let apart = distance(&updates, &plain.1) / norm(&plain.1);
    assert!(apart <= 1e-2, "{what}: {apart}");
}

#[test]
fn other_factors_of_one_update_are_kept_alike() {
    for (task, divisor) in [(0, 3), (1, 12), (2, 40)] {
        let budget = adapter_bytes() / divisor;
        let plain = modules(task);
        let expected = kept(&write(&model().0, &plain, Form::default()), budget);
        let each = |change: &dyn Fn(Module) -> Module| -> Vec<Module> {
            plain.iter().cloned().map(change).collect()
        };
        let form = Form::default();
        let turned = each(&|module| module.gauged(7, 1.0));
        assert_same(&turned, form, &expected, budget, "rotated");
        let scaled = each(&|module| module.gauged(8, 8.0));
        assert_same(&scaled, form, &expected, budget, "rotated and scaled");
        let padded = each(&|module| module.padded(23, 9).gauged(3, 4.0));
        assert_same(&padded, form, &expected, budget, "padded");
        let alpha = Form {
            alpha: 3.7,
            rslora: true,
            ..form
        };
        assert_same(&turned, alpha, &expected, budget, "rsLoRA and alpha");
        let mut shuffled = scaled;
        shuffled.reverse();
        assert_same(
            &shuffled,
            form,
            &expected,
            budget,
            "another order in the file",
        );
    }
}

#[test]
fn an_update_twice_as_large_is_kept_as_well() {
    let budget = adapter_bytes() / 10;
    let plain = modules(4);
    let (figures, updates) = kept(&write(&model().0, &plain, Form::default()), budget);
    let twice: Vec<Module> = plain.into_iter().map(|module| module.times(2.0)).collect();
    let (of_twice, served) = kept(&write(&model().0, &twice, Form::default()), budget);
    assert_eq!(figures, of_twice);
    assert!((norm(&served) / norm(&updates) - 2.0).abs() < 1e-3);
}
