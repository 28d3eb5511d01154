//! Progressive slots: what they promise of bytes, figures, order and bytes from strangers, held
//! against dense updates in f64.

mod exports;
mod forgetting;
mod gauge;
mod hostile;
mod order;
mod promises;
mod refusals;
mod repacking;
mod shapes;
mod shelf;
mod synthetic;

use faer::Mat;
use kmerge_merge::progressive::{Fidelity, PackedSlot, Placement};
use kmerge_merge::{AdapterView, BaseModel, Dtype, MergeError, Policy, TensorSource};

use crate::support::dense::{Updates, updates};
use shelf::{Shelf, Stored};
use synthetic::{Adapter, Form, attention, llama, trained};

const LAYERS: usize = 2;

/// The small model that most tests use: 2 layers of q, k, v and o, 96 wide.
fn model() -> (BaseModel, Vec<String>) {
    (llama(96, LAYERS), attention(LAYERS))
}

/// A task's adapter for the small model.
fn task(number: u64) -> Adapter {
    let (base, paths) = model();
    trained(&base, &paths, number, Form::default())
}

/// Bytes of such an adapter at half precision, its header not counted.
fn adapter_bytes() -> u64 {
    task(0).layout.tensor_bytes() / 2
}

/// The adapter that serves a member, dense.
fn served(packed: &PackedSlot, file: &dyn TensorSource, member: usize, dtype: Dtype) -> Updates {
    let mut bytes = Vec::new();
    let layout = packed
        .export_member(file, member, dtype, &mut bytes)
        .unwrap();
    updates(AdapterView {
        layout: &layout,
        source: &bytes,
    })
}

/// ‖D‖ over all modules.
fn norm(updates: &Updates) -> f64 {
    let squares = updates.values().map(|update| update.norm_l2().powi(2));
    squares.sum::<f64>().sqrt()
}

/// ‖D − D̂‖; both have the same modules.
fn distance(one: &Updates, other: &Updates) -> f64 {
    assert_eq!(
        one.keys().collect::<Vec<_>>(),
        other.keys().collect::<Vec<_>>()
    );
    let difference = |path: &String| -> Mat<f64> { &one[path] - &other[path] };
    let squares = one.keys().map(|path| difference(path).norm_l2().powi(2));
    squares.sum::<f64>().sqrt()
}

/// Error relative to ‖D‖ and cosine of what is served, as they really are.
fn truth(original: &Updates, served: &Updates) -> (f64, f64) {
    let (full, kept, apart) = (norm(original), norm(served), distance(original, served));
    if full == 0.0 {
        return (kept, if kept == 0.0 { 1.0 } else { 0.0 });
    }
    let inner = (full * full + kept * kept - apart * apart) / 2.0;
    let cosine = if kept > 0.0 {
        inner / (full * kept)
    } else {
        0.0
    };
    (apart / full, cosine)
}

/// Holds stated figures against the truth, both ways: a bound that is far off bounds nothing.
fn check_figures(stated: &Fidelity, original: &Updates, served: &Updates, context: &str) {
    let (error, retention) = truth(original, served);
    assert!(error <= stated.error_bound, "{context}: {error} {stated:?}");
    assert!(
        error >= stated.error_bound - 4e-3,
        "{context}: {error} {stated:?}"
    );
    assert!(
        retention >= stated.retention - 2e-3,
        "{context}: {retention} {stated:?}"
    );
    assert!(
        retention <= stated.retention + 2e-3,
        "{context}: {retention} {stated:?}"
    );
}

/// Holds every member of a slot against the adapter that it arrived with.
fn check_members(stored: &Stored, originals: &dyn Fn(&str) -> Updates) {
    for (index, (task, stated)) in stored.packed.fidelities().enumerate() {
        let served = served(&stored.packed, &stored.file, index, Dtype::F16);
        check_figures(&stated, &originals(task), &served, task);
    }
}

/// LEB128's length.
fn number_bytes(value: u64) -> u64 {
    u64::from((u64::BITS - (value | 1).leading_zeros()).div_ceil(7))
}

/// Bytes of a file beside its members, from the format as documented.
fn fixed_bytes(layouts: &[Adapter], members: usize) -> u64 {
    let wide = |count: usize| u64::try_from(count).unwrap();
    let mut modules: Vec<_> = layouts
        .iter()
        .flat_map(|adapter| &adapter.layout.modules)
        .map(|module| {
            (
                module.path.as_str(),
                module.out_features,
                module.in_features,
            )
        })
        .collect();
    modules.sort_by(|left, right| kmerge_merge::compare_paths(left.0, right.0));
    modules.dedup();
    let mut bytes = 8 + 4 + 8 + number_bytes(wide(modules.len())) + number_bytes(wide(members));
    let mut before = "";
    for (path, out_features, in_features) in modules {
        let same = before.bytes().zip(path.bytes());
        let shared = same.take_while(|(left, right)| left == right).count();
        let rest = path.len() - shared;
        let numbers = [shared, rest, out_features, in_features];
        bytes += wide(rest)
            + numbers
                .map(|number| number_bytes(wide(number)))
                .iter()
                .sum::<u64>();
        before = path;
    }
    bytes
}

/// An arrival, and what every arrival promises of the slot's file.
fn arrive(
    shelf: &mut Shelf,
    policy: &Policy,
    name: &str,
    adapter: &Adapter,
) -> Result<Placement, MergeError> {
    let placement = shelf.arrive(policy, name, adapter)?;
    let stored = &shelf.slots[&placement.slot];
    let length = u64::try_from(stored.file.len()).unwrap();
    let members = placement.packed.members.len();
    let beside = shelf.beside.slot + shelf.beside.member * u64::try_from(members).unwrap();
    assert!(
        length + beside <= placement.packed.budget,
        "{length} {beside}"
    );
    assert_eq!(placement.packed.bytes(), length);
    assert_eq!(PackedSlot::read(&stored.file).unwrap(), placement.packed);
    let costs: Vec<_> = placement
        .costs
        .iter()
        .map(|cost| (cost.task.as_str(), cost.after))
        .collect();
    assert_eq!(costs, placement.packed.fidelities().collect::<Vec<_>>());
    Ok(placement)
}

/// Bytes of all members together.
fn member_bytes(packed: &PackedSlot) -> u64 {
    packed
        .fidelities()
        .map(|(_, fidelity)| fidelity.bytes)
        .sum()
}
