//! Packed slots whose head lies or ends early.

use kmerge_merge::progressive::{Beside, Newcomer, place};
use kmerge_merge::{Dtype, Operator, Policy};

use super::{Bad, Reader};
use crate::support::files::{Module, adapter};

pub(super) fn good() -> Vec<u8> {
    let modules = [Module::random("0.self_attn.q_proj", [12, 12], 2, 1)];
    let adapter = adapter(&modules, 4.0, Dtype::F32);
    let policy = Policy {
        slots: 1,
        slot_bytes: Some(4000),
        operator: Operator::Progressive,
        ..Policy::default()
    };
    let newcomer = Newcomer {
        task: "task",
        adapter: adapter.view(),
    };
    let placement = place(&policy, &[], newcomer, Beside::default(), &|_| ()).unwrap();
    let mut file = Vec::new();
    placement.write(&[], adapter.view(), &mut file).unwrap();
    file
}

pub(super) fn bad() -> Vec<Bad> {
    let file = good();
    let packed =
        |name: String, file: Vec<u8>| Bad::new(Reader::Packed, name, "", file, "SLOT_DAMAGED");
    let head = 12 + usize::try_from(u32::from_le_bytes(file[8..12].try_into().unwrap())).unwrap();
    let mut bad = Vec::new();
    for length in (0..head).step_by(7).chain([head, file.len() - 1]) {
        bad.push(packed(
            format!("a packed slot of {length} bytes"),
            file[..length].to_vec(),
        ));
    }
    bad.push(packed(
        "a packed slot and a byte".into(),
        [&file[..], &[0]].concat(),
    ));
    for (name, at, bytes) in [
        ("another magic", 0, &b"KMPROG99"[..]),
        ("a head of no bytes", 8, &[0; 4]),
        ("a head of 2^32 - 1 bytes", 8, &[0xff; 4]),
        // The table's count follows the budget.
        ("no modules", 20, &[0]),
        ("127 modules", 20, &[0x7f]),
        ("2^63 modules", 20, &[0xff; 9]),
        ("a path that begins before the first", 21, &[1]),
        ("a path of 2^63 bytes", 22, &[0xff; 9]),
        ("a path that is no UTF-8", 23, &[0xff]),
    ] {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        bad.push(packed(format!("a packed slot with {name}"), file));
    }
    bad
}
