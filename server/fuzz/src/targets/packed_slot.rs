//! Packed slots: a head that says everything but the layers, then the layers.
//!
//! A head is small and may speak of large modules, so what it stands for is decoded only where that
//! is small as well: a daemon compares a packed file with its digest before it decodes it.

use std::io;

use kmerge_merge::progressive::{Beside, PackedSlot, PackedView, repack, without};
use kmerge_merge::{Dtype, Policy, TensorSink, TensorSource, decode_slot};

/// The largest adapter that is decoded, in bytes.
const SERVED_BYTES: u64 = 1 << 16;
/// The most modules of a slot that is decoded.
const MODULES: usize = 64;

pub fn check(input: &[u8]) {
    let file = input.to_vec();
    let packed = match PackedSlot::read(&file) {
        Ok(packed) => packed,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(packed.bytes(), TensorSource::len(&file));
    for (_, kept) in packed.fidelities() {
        assert!(kept.bytes <= packed.bytes());
    }
    if packed.modules() > MODULES || packed.members.len() > 8 {
        return;
    }
    for member in 0..packed.members.len() {
        served(|sink| {
            packed
                .export_member(&file, member, Dtype::F32, sink)
                .map(drop)
        });
    }
    served(|sink| packed.export_mean(&file, Dtype::F16, sink).map(drop));
    repacked(&packed, &file);
}

/// A sink that ends an export which would be large, by what its head announces.
#[derive(Default)]
struct Small {
    bytes: Vec<u8>,
}

impl TensorSink for Small {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes.is_empty() && announced(bytes).is_none_or(|size| size > SERVED_BYTES) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

/// Bytes behind a safetensors header.
fn announced(head: &[u8]) -> Option<u64> {
    let header: serde_json::Value = serde_json::from_slice(head.get(8..)?).ok()?;
    let ends = header
        .as_object()?
        .values()
        .filter_map(|entry| entry["data_offsets"][1].as_u64());
    ends.max()
}

fn served(export: impl FnOnce(&mut Small) -> Result<(), kmerge_merge::MergeError>) {
    let mut sink = Small::default();
    match export(&mut sink) {
        // Paths are only as good as whoever wrote the table, so the names may be refused.
        Ok(()) => match decode_slot(&sink.bytes) {
            Ok(layout) => assert!(!layout.modules.is_empty()),
            Err(error) => super::support::refused(&error),
        },
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A slot that opens can be written again: whole, smaller, and without a member.
fn repacked(packed: &PackedSlot, file: &Vec<u8>) {
    let view = PackedView {
        slot: 0,
        generation: 1,
        packed,
        source: file,
    };
    let policy = Policy {
        slots: 1,
        max_bytes: None,
        slot_bytes: Some(packed.bytes() * 3 / 4),
        operator: kmerge_merge::Operator::Progressive,
        ..Policy::default()
    };
    let again = repack(&policy, &[view], Beside::default());
    let written = again.into_iter().flat_map(|repacking| repacking.written);
    let task = packed.members.first().map(|member| member.task.clone());
    let fewer = task.and_then(|task| without(&[view], 0, &task));
    for packing in written.chain(fewer) {
        let mut bytes = Vec::new();
        packing
            .write(&[view], &mut bytes)
            .expect("members that are in memory can be copied");
        let read = PackedSlot::read(&bytes).expect("a slot that was written opens");
        assert_eq!(read, packing.packed, "a slot changes");
    }
}
