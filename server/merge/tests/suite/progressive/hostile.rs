//! Slot files from strangers: an answer or an error, never a panic, and no memory that a file only
//! claims to need.

use kmerge_merge::Dtype;
use kmerge_merge::progressive::{Beside, Newcomer, PackedSlot, PackedView, place, without};
use proptest::prelude::*;

use super::arrive;
use super::shelf::{Shelf, policy};
use super::synthetic::{Adapter, Form, Random, attention, llama, trained};

/// Two members of one layer, 16 wide.
fn small() -> (Vec<u8>, Adapter) {
    let (base, paths) = (llama(16, 1), attention(1));
    let of = |task| trained(&base, &paths, task, Form::default());
    let mut shelf = Shelf::default();
    for number in 0..2 {
        arrive(
            &mut shelf,
            &policy(1, 2_000),
            &format!("task-{number}"),
            &of(number),
        )
        .unwrap();
    }
    (shelf.slots.remove(&0).unwrap().file, of(2))
}

fn view<'a>(packed: &'a PackedSlot, file: &'a Vec<u8>) -> PackedView<'a> {
    PackedView {
        slot: 0,
        generation: 1,
        packed,
        source: file,
    }
}

/// Uses a file in every way; gives whether it was accepted.
fn used(file: &Vec<u8>, newcomer: Option<&Adapter>) -> bool {
    let Ok(packed) = PackedSlot::read(file) else {
        return false;
    };
    for member in 0..packed.members.len() {
        let _ = packed.export_member(file, member, Dtype::F16, &mut Vec::new());
        let mut rest = Vec::new();
        let views = [view(&packed, file)];
        let name = &packed.members[member].task;
        let packing = without(&views, 0, name).unwrap();
        packing.write(&views, &mut rest).unwrap();
        PackedSlot::read(&rest).unwrap();
    }
    let _ = packed.export_mean(file, Dtype::F32, &mut Vec::new());
    let Some(newcomer) = newcomer else {
        return true;
    };
    let view = view(&packed, file);
    let newcomer = Newcomer {
        task: "new",
        adapter: newcomer.view(),
    };
    if let Ok(placement) = place(
        &policy(1, 2_500),
        &[view],
        newcomer,
        Beside::default(),
        &|_| (),
    ) {
        let mut next = Vec::new();
        placement
            .write(&[view], newcomer.adapter, &mut next)
            .unwrap();
        assert_eq!(PackedSlot::read(&next).unwrap(), placement.packed);
    }
    true
}

fn head_length(file: &[u8]) -> usize {
    12 + usize::try_from(u32::from_le_bytes(file[8..12].try_into().unwrap())).unwrap()
}

#[test]
fn no_beginning_of_a_file_is_a_file() {
    let (file, newcomer) = small();
    assert!(used(&file, Some(&newcomer)));
    for length in 0..file.len() {
        let error = PackedSlot::read(&file[..length].to_vec()).unwrap_err();
        assert_eq!(error.reason(), "SLOT_DAMAGED", "{length}");
    }
    let longer = [&file[..], &[0]].concat();
    assert!(!used(&longer, None));
}

#[test]
fn two_thousand_flipped_bytes_are_answered() {
    let (file, newcomer) = small();
    let mut random = Random::new(11);
    let mut accepted = 0;
    for round in 0..2_000 {
        let mut damaged = file.clone();
        // Half of them in the head, which is the smaller part.
        let reach = if round % 2 == 0 {
            head_length(&file)
        } else {
            file.len()
        };
        let place = usize::try_from(random.bits() >> 1).unwrap() % reach;
        damaged[place] ^= u8::try_from(random.bits() % 255 + 1).unwrap();
        accepted += u32::from(used(&damaged, (round % 8 < 2).then_some(&newcomer)));
    }
    // Layers carry no checksum of their own: the store that holds them has one.
    assert!((100..1_900).contains(&accepted), "{accepted}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_heads_are_answered(
        keep in any::<prop::sample::Index>(),
        random in prop::collection::vec(any::<u8>(), 0..200),
        tail in 0_usize..64,
    ) {
        let (file, newcomer) = small_once();
        let kept = &file[12..12 + keep.index(head_length(file) - 12)];
        let head = [kept, &random].concat();
        let length = u32::try_from(head.len()).unwrap().to_le_bytes();
        used(&[b"KMPROG03", &length[..], &head, &vec![0x5a; tail]].concat(), Some(newcomer));
        used(&[b"KMPROG03", &length[..], &head, &file[head_length(file)..]].concat(), Some(newcomer));
    }
}

fn small_once() -> &'static (Vec<u8>, Adapter) {
    static SMALL: std::sync::LazyLock<(Vec<u8>, Adapter)> = std::sync::LazyLock::new(small);
    &SMALL
}

fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A file with one module and one member of one rung, all sizes as told.
fn claimed(side: u64, arrived: u64, most: u64, ranks: u64, layer: &[u8]) -> Vec<u8> {
    let head = [
        vec![0; 8],
        [1, 0, 1, b'm'].to_vec(),
        number(side),
        number(side),
        [1, 1, b't'].to_vec(),
        1.0_f32.to_le_bytes().to_vec(),
        number(arrived),
        // The module's norm, the first rung, one rung.
        [2, 0, 1].to_vec(),
        [0; 6].to_vec(),
        number(most),
        number(ranks),
        number(u64::try_from(layer.len()).unwrap()),
    ]
    .concat();
    let length = u32::try_from(head.len()).unwrap().to_le_bytes();
    [b"KMPROG03", &length[..], &head, layer].concat()
}

#[test]
fn sizes_that_no_adapter_has_are_refused() {
    assert!(PackedSlot::read(&claimed(16, 16, 16, 16, &[])).is_ok());
    let huge = 1 << 24;
    for (side, arrived, most, ranks) in [
        (16, 16, 17, 16),
        (16, 16, 16, 17),
        (16, u64::MAX, 16, 16),
        (16, 16, u64::MAX, 16),
        (16, 1 << 40, 1, 1),
        (huge, huge, 1, 1),
        (huge, 1, huge, huge),
        (huge + 1, 1, 1, 1),
        (0, 1, 0, 0),
        (u64::MAX, 1, 1, 1),
    ] {
        let file = claimed(side, arrived, most, ranks, &[]);
        let read = PackedSlot::read(&file);
        assert!(read.is_err(), "{side} {arrived} {most} {ranks}: {read:?}");
    }
}

#[test]
fn layers_with_more_directions_than_the_head_says_are_refused() {
    // Ones all the way: one more direction, and one more.
    let file = claimed(16, 16, 2, 2, &[0xff; 64]);
    let packed = PackedSlot::read(&file).unwrap();
    let error = packed
        .export_member(&file, 0, Dtype::F16, &mut Vec::new())
        .unwrap_err();
    assert_eq!(error.reason(), "SLOT_DAMAGED");
}
