//! A member that is forgotten is gone, and nobody else notices.

use kmerge_merge::Dtype;
use kmerge_merge::progressive::{PackedSlot, PackedView, without as forgotten};

use super::shelf::{Shelf, Stored, policy};
use super::synthetic::{Form, Module, TRAINED, write};
use super::{adapter_bytes, arrive, model, served, task};

const NAMES: [&str; 4] = ["first-task", "second-task", "third-task", "fourth-task"];

fn four(budget: u64) -> Stored {
    let mut shelf = Shelf::default();
    for (number, name) in (0..).zip(NAMES) {
        arrive(&mut shelf, &policy(1, budget), name, &task(number)).unwrap();
    }
    shelf.slots.remove(&0).unwrap()
}

fn without(stored: &Stored, member: usize) -> Stored {
    let views = [PackedView {
        slot: 0,
        generation: stored.generation,
        packed: &stored.packed,
        source: &stored.file,
    }];
    let name = &stored.packed.members[member].task;
    let packing = forgotten(&views, 0, name).unwrap();
    let mut file = Vec::new();
    packing.write(&views, &mut file).unwrap();
    assert_eq!(PackedSlot::read(&file).unwrap(), packing.packed);
    Stored {
        packed: packing.packed,
        file,
        generation: stored.generation + 1,
    }
}

fn contains(file: &[u8], wanted: &[u8]) -> bool {
    file.windows(wanted.len()).any(|window| window == wanted)
}

/// Everything behind the head.
fn layers(file: &[u8]) -> &[u8] {
    let head = u32::from_le_bytes(file[8..12].try_into().unwrap());
    &file[12 + usize::try_from(head).unwrap()..]
}

#[test]
fn neither_name_nor_layers_stay_behind() {
    let before = four(adapter_bytes() / 3);
    for (member, name) in NAMES.iter().enumerate() {
        let after = without(&before, member);
        assert!(contains(&before.file, name.as_bytes()));
        assert!(!contains(&after.file, name.as_bytes()));
        let given_back = before.packed.fidelities().nth(member).unwrap().1.bytes;
        assert_eq!(before.packed.bytes() - after.packed.bytes(), given_back);

        // The layers are the old ones with one run cut out, of which no piece is left.
        let (old, new) = (layers(&before.file), layers(&after.file));
        let start = old
            .iter()
            .zip(new)
            .take_while(|(old, new)| old == new)
            .count();
        let gone = old.len() - new.len();
        assert!(old[start + gone..] == new[start..], "{member}");
        assert!(gone > 500, "{gone}");
        for piece in old[start..start + gone].windows(8).step_by(3) {
            assert!(!contains(new, piece), "{member}");
        }
    }
}

#[test]
fn the_others_keep_every_bit() {
    let before = four(adapter_bytes() / 3);
    for member in 0..NAMES.len() {
        let after = without(&before, member);
        let staying: Vec<usize> = (0..NAMES.len()).filter(|&index| index != member).collect();
        let figures: Vec<_> = before.packed.fidelities().collect();
        for (new, &old) in staying.iter().enumerate() {
            assert_eq!(after.packed.fidelities().nth(new).unwrap(), figures[old]);
            let export = |stored: &Stored, index| {
                let mut bytes = Vec::new();
                stored
                    .packed
                    .export_member(&stored.file, index, Dtype::F16, &mut bytes)
                    .unwrap();
                bytes
            };
            assert!(export(&after, new) == export(&before, old));
        }
    }
}

#[test]
fn the_next_one_has_the_room() {
    let budget = adapter_bytes() / 6;
    let before = four(budget);
    let retention = |stored: Stored| {
        let mut shelf = Shelf::default();
        shelf.slots.insert(0, stored);
        let placement = arrive(&mut shelf, &policy(1, budget), "fifth-task", &task(9)).unwrap();
        placement.costs.last().unwrap().after.retention
    };
    let crowded = retention(before.clone());
    let roomy = retention(without(&without(&before, 2), 0));
    assert!(roomy > crowded + 0.01, "{roomy} {crowded}");
}

#[test]
fn modules_that_nobody_else_has_go_too() {
    let (base, paths) = model();
    let of = |path: &String, task| {
        let module = Module::trained(&base, path, task, &TRAINED);
        write(&base, &[module], Form::default())
    };
    let mut shelf = Shelf::default();
    let policy = policy(1, 20_000);
    for (number, path) in [0, 5, 0].into_iter().enumerate() {
        let adapter = of(&paths[path], u64::try_from(number).unwrap());
        arrive(&mut shelf, &policy, NAMES[number], &adapter).unwrap();
    }
    let before = &shelf.slots[&0];
    let expected: Vec<_> = [0, 2]
        .map(|index| served(&before.packed, &before.file, index, Dtype::F32))
        .to_vec();
    let after = without(before, 1);
    assert_eq!((before.packed.modules(), after.packed.modules()), (2, 1));
    for (index, expected) in expected.iter().enumerate() {
        assert_eq!(
            &served(&after.packed, &after.file, index, Dtype::F32),
            expected
        );
    }
    let nobody = without(&without(&after, 0), 0);
    assert_eq!(
        (nobody.packed.members.len(), nobody.packed.modules()),
        (0, 0)
    );
    let mut shelf = Shelf::default();
    shelf.slots.insert(0, nobody);
    arrive(&mut shelf, &policy, "again", &task(1)).unwrap();
}
