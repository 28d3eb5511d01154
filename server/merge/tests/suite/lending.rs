//! Sources that lend their bytes decide as those that copy them, and copy less.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use kmerge_merge::{
    AdapterView, AssignmentRule, Dtype, Operator, SlotView, TensorSource, decode_slot, plan,
};

use crate::support::files::{Adapter, Module, adapter};
use crate::support::store::{Store, policy};

/// Slots that are compared: more than one, so that factors that are not lent are stacked.
const SLOTS: u32 = 3;

/// A file in memory that counts what is copied out of it.
struct Counted<'a> {
    bytes: &'a Vec<u8>,
    lends: bool,
    copied: AtomicU64,
}

impl TensorSource for Counted<'_> {
    fn len(&self) -> u64 {
        TensorSource::len(self.bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let length = u64::try_from(buffer.len()).unwrap();
        self.copied.fetch_add(length, Ordering::Relaxed);
        self.bytes.read_at(offset, buffer)
    }

    fn borrow(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.lends.then(|| self.bytes.borrow(offset, len))?
    }
}

fn random(seed: u64, dtype: Dtype) -> Adapter {
    let modules = [
        Module::random("0.self_attn.q_proj", [12, 12], 3, seed),
        Module::random("2.mlp.up_proj", [20, 12], 3, seed),
    ];
    adapter(&modules, 4.0, dtype)
}

/// Files in normal form, the newcomer's last; the data of those starts aligned.
fn files(dtype: Dtype) -> Vec<Vec<u8>> {
    let policy = policy(SLOTS + 1, AssignmentRule::KMerge, Operator::KMergeLinear);
    let mut store = Store::default();
    for seed in 1..=SLOTS + 1 {
        store.arrive(&policy, &random(seed.into(), dtype)).unwrap();
    }
    store.slots.into_values().map(|slot| slot.bytes).collect()
}

/// Similarities and norms, bit by bit, and the bytes that were copied.
fn search(files: &[Vec<u8>], lends: bool) -> (Vec<u64>, u64) {
    let layouts: Vec<_> = files
        .iter()
        .map(|file| decode_slot(file).unwrap())
        .collect();
    let sources: Vec<Counted<'_>> = files
        .iter()
        .map(|bytes| Counted {
            bytes,
            lends,
            copied: AtomicU64::new(0),
        })
        .collect();
    let views: Vec<AdapterView<'_>> = layouts
        .iter()
        .zip(&sources)
        .map(|(layout, source)| AdapterView { layout, source })
        .collect();
    let (newcomer, slots) = views.split_last().unwrap();
    let slots: Vec<SlotView<'_>> = (0..)
        .zip(slots)
        .map(|(slot, &adapter)| SlotView {
            slot,
            generation: 1,
            members: 1,
            adapter,
            norms: None,
        })
        .collect();
    let policy = policy(SLOTS, AssignmentRule::KMerge, Operator::KMergeLinear);
    let plan = plan(&policy, &slots, *newcomer, &|_| ()).unwrap();
    let similarities = plan.similarities.iter().map(|(_, value)| value.to_bits());
    let norms = plan.norms.iter().flat_map(|(_, norms)| norms.as_slice());
    let bits = similarities
        .chain(norms.map(|norm| norm.to_bits().into()))
        .collect();
    let copied = sources
        .iter()
        .map(|source| source.copied.load(Ordering::Relaxed))
        .sum();
    (bits, copied)
}

#[test]
fn lent_and_copied_values_decide_alike_to_the_last_bit() {
    for dtype in [Dtype::F32, Dtype::F16] {
        for count in [2, files(dtype).len()] {
            let files = &files(dtype)[..count];
            let ((lent, few), (copied, all)) = (search(files, true), search(files, false));
            assert_eq!(lent, copied, "{dtype}, {count} files");
            if dtype == Dtype::F32 {
                assert!(few == 0 && all > 0, "{few} of {all}");
            } else {
                assert_eq!(few, all, "what is converted is copied");
            }
        }
    }
}
