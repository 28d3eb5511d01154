//! Normal form: what every written file promises, whoever reads it.

use candle_core::Device;
use kmerge_merge::{
    AssignmentRule, Dtype, EXPORT_CONFIG, EXPORT_TENSORS, Operator, SlotDtype, SlotView, decode,
    decode_slot, export_config, plan,
};
use safetensors::SafeTensors;
use serde_json::json;

use crate::support::dense::{relative_difference, updates};
use crate::support::files::{Adapter, Module, adapter, safetensors};
use crate::support::store::{Store, policy};
use crate::support::{tiny_base, with_threads};

const OPERATORS: [Operator; 3] = [Operator::KMergeLinear, Operator::Linear, Operator::Exact];

/// Modules of different shapes, ranks and layers, in file order unlike natural order.
fn mixed(seed: u64, dtype: Dtype, alpha: f64) -> Adapter {
    adapter(
        &[
            Module::random("3.mlp.down_proj", [12, 20], 3, seed),
            Module::random("0.self_attn.q_proj", [12, 12], 2, seed),
            Module::random("0.self_attn.k_proj", [4, 12], 4, seed),
            Module::random("2.mlp.up_proj", [20, 12], 1, seed),
        ],
        alpha,
        dtype,
    )
}

fn one_slot(operator: Operator) -> kmerge_merge::Policy {
    policy(1, AssignmentRule::KMerge, operator)
}

#[test]
fn opening_a_slot_keeps_every_update_and_pads_to_one_rank() {
    let newcomer = mixed(1, Dtype::F32, 5.0);
    for operator in OPERATORS {
        let mut store = Store::default();
        let (made, outcome) = store.arrive(&one_slot(operator), &newcomer).unwrap();
        assert_eq!((made.rank, made.newcomer_weight), (4, 1.0));
        assert!(
            outcome
                .layout
                .modules
                .iter()
                .all(|m| m.rank == 4 && m.scaling == 1.0)
        );
        let paths: Vec<&str> = outcome
            .layout
            .modules
            .iter()
            .map(|m| m.path.as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "model.layers.0.self_attn.k_proj",
                "model.layers.0.self_attn.q_proj",
                "model.layers.2.mlp.up_proj",
                "model.layers.3.mlp.down_proj",
            ]
        );
        let found = updates(store.slots[&0].view());
        assert!(relative_difference(&found, &updates(newcomer.view())) < 1e-6);
    }
}

#[test]
fn the_safetensors_crate_reads_what_is_written() {
    for dtype in [SlotDtype::F32, SlotDtype::F16, SlotDtype::Bf16] {
        let mut policy = one_slot(Operator::Exact);
        policy.dtype = dtype;
        let mut store = Store::default();
        for seed in 0..2 {
            store
                .arrive(&policy, &mixed(seed, Dtype::F32, 4.0))
                .unwrap();
        }
        let slot = &store.slots[&0];
        let file = SafeTensors::deserialize(&slot.bytes).unwrap();
        assert_eq!(file.len(), 2 * slot.layout.modules.len());
        for module in &slot.layout.modules {
            let name = |factor| format!("base_model.model.{}.{factor}.weight", module.path);
            let a = file.tensor(&name("lora_A")).unwrap();
            let b = file.tensor(&name("lora_B")).unwrap();
            assert_eq!(a.shape(), [4, module.in_features]);
            assert_eq!(b.shape(), [module.out_features, 4]);
            let start = usize::try_from(module.a.offset).unwrap();
            assert_eq!(
                a.data(),
                &slot.bytes[start..start + a.data().len()],
                "same place"
            );
            let (loaded, _) = slot.view().factors(module, &Device::Cpu).unwrap();
            assert_eq!(loaded.dims(), a.shape());
        }
        let header = u64::from_le_bytes(slot.bytes[..8].try_into().unwrap());
        assert_eq!(header % 8, 0, "data is aligned");
    }
}

#[test]
fn an_export_is_an_adapter_with_the_same_updates() {
    let mut store = Store::default();
    for seed in 0..3 {
        store
            .arrive(
                &one_slot(Operator::KMergeLinear),
                &mixed(seed, Dtype::F32, 7.0),
            )
            .unwrap();
    }
    let slot = &store.slots[&0];
    let config = export_config(&slot.layout, "org/base");
    let decoded = decode(&config, &slot.bytes, &tiny_base()).unwrap();
    assert_eq!(decoded.layout, slot.layout);
    assert_eq!(decoded.warnings, [""; 0]);
    assert_eq!(
        (EXPORT_TENSORS, EXPORT_CONFIG),
        ("adapter_model.safetensors", "adapter_config.json")
    );
}

#[test]
fn the_widest_dtype_of_the_members_is_kept() {
    let cases = [
        ([Dtype::F16, Dtype::F16], SlotDtype::Widest, Dtype::F16),
        ([Dtype::Bf16, Dtype::Bf16], SlotDtype::Widest, Dtype::Bf16),
        ([Dtype::F16, Dtype::Bf16], SlotDtype::Widest, Dtype::F32),
        ([Dtype::Bf16, Dtype::F32], SlotDtype::Widest, Dtype::F32),
        ([Dtype::F32, Dtype::F32], SlotDtype::Bf16, Dtype::Bf16),
        ([Dtype::F16, Dtype::Bf16], SlotDtype::F16, Dtype::F16),
    ];
    for (members, rule, wanted) in cases {
        let mut policy = one_slot(Operator::KMergeLinear);
        policy.dtype = rule;
        let mut store = Store::default();
        for (seed, dtype) in (0..).zip(members) {
            store.arrive(&policy, &mixed(seed, dtype, 4.0)).unwrap();
        }
        assert_eq!(store.slots[&0].layout.dtype(), wanted, "{members:?} {rule}");
    }
}

#[test]
fn one_file_may_mix_dtypes() {
    let module = Module::random("0.self_attn.q_proj", [12, 12], 2, 1);
    let [mut a, mut b] = module.tensors(Dtype::F32);
    (a.dtype, b.dtype) = (Dtype::F16, Dtype::Bf16);
    let bytes = safetensors(&[a, b]);
    let config = json!({"r": 2, "lora_alpha": 2}).to_string();
    let layout = decode(config.as_bytes(), &bytes, &tiny_base())
        .unwrap()
        .layout;
    assert_eq!(layout.dtype(), Dtype::F32);
    let newcomer = Adapter { layout, bytes };
    let mut store = Store::default();
    store.arrive(&one_slot(Operator::Exact), &newcomer).unwrap();
    let found = updates(store.slots[&0].view());
    assert!(relative_difference(&found, &updates(newcomer.view())) < 1e-6);
}

#[test]
fn modules_of_one_side_only_shrink_by_their_weight() {
    let path = |layer: u32| format!("{layer}.self_attn.q_proj");
    let only = |layer, seed| {
        adapter(
            &[Module::random(&path(layer), [12, 12], 2, seed)],
            6.0,
            Dtype::F32,
        )
    };
    let (first, second) = (only(0, 1), only(1, 2));
    for operator in OPERATORS {
        let mut store = Store::default();
        store.arrive(&one_slot(operator), &first).unwrap();
        store.arrive(&one_slot(operator), &second).unwrap();
        let found = updates(store.slots[&0].view());
        for (adapter, layer) in [(&first, 0), (&second, 1)] {
            let path = format!("model.layers.{}", path(layer));
            let wanted = faer::Scale(0.5) * &updates(adapter.view())[&path];
            let difference = (&found[&path] - &wanted).norm_max();
            assert!(
                difference < 1e-6 * wanted.norm_max(),
                "{operator} layer {layer}"
            );
        }
    }
}

#[test]
fn a_value_that_does_not_fit_the_stored_type_is_named() {
    let mut module = Module::random("0.self_attn.q_proj", [12, 12], 2, 1);
    module.b[5] = 40_000.0;
    let newcomer = adapter(&[module], 32.0, Dtype::F32);
    let mut policy = one_slot(Operator::KMergeLinear);
    assert!(Store::default().arrive(&policy, &newcomer).is_ok());
    policy.dtype = SlotDtype::F16;
    let error = Store::default().arrive(&policy, &newcomer).unwrap_err();
    assert_eq!(error.reason(), "MERGE_NOT_FINITE");
    assert!(
        error
            .to_string()
            .contains("model.layers.0.self_attn.q_proj"),
        "{error}"
    );
    assert!(error.to_string().contains("F16"), "{error}");
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    for operator in OPERATORS {
        let run = |threads| {
            with_threads(threads, || {
                let mut store = Store::default();
                let policy = policy(2, AssignmentRule::KMerge, operator);
                let outcomes: Vec<_> = (0..5)
                    .map(|seed| {
                        store
                            .arrive(&policy, &mixed(seed, Dtype::F32, 4.0))
                            .unwrap()
                    })
                    .collect();
                let files: Vec<Vec<u8>> =
                    store.slots.into_values().map(|slot| slot.bytes).collect();
                (outcomes, files)
            })
        };
        let alone = run(1);
        for threads in [2, 4] {
            assert_eq!(run(threads), alone, "{operator}, {threads} threads");
        }
    }
}

#[test]
fn remembered_norms_and_measured_ones_decide_alike() {
    for operator in OPERATORS {
        let policy = policy(2, AssignmentRule::KMerge, operator);
        let mut store = Store::default();
        for seed in 0..4 {
            store
                .arrive(&policy, &mixed(seed, Dtype::F16, 4.0))
                .unwrap();
        }
        let newcomer = mixed(9, Dtype::F16, 4.0);
        let remembered = plan(&policy, &store.views(), newcomer.view(), &|_| ()).unwrap();
        assert_eq!(remembered.norms, []);
        let forgotten: Vec<SlotView<'_>> = store
            .views()
            .into_iter()
            .map(|view| SlotView {
                norms: None,
                ..view
            })
            .collect();
        let measured = plan(&policy, &forgotten, newcomer.view(), &|_| ()).unwrap();
        assert_eq!(
            measured.similarities, remembered.similarities,
            "to the last bit"
        );
        let wanted: Vec<_> = store
            .slots
            .iter()
            .map(|(&slot, stored)| (slot, stored.norms.clone()))
            .collect();
        assert_eq!(measured.norms, wanted, "to the last bit");
        let json = serde_json::to_string(&wanted[0].1).unwrap();
        assert_eq!(
            serde_json::from_str::<kmerge_merge::ModuleNorms>(&json).unwrap(),
            wanted[0].1
        );
    }
}

#[test]
fn norms_of_another_slot_are_measured_again() {
    let policy = policy(1, AssignmentRule::KMerge, Operator::KMergeLinear);
    let mut store = Store::default();
    store.arrive(&policy, &mixed(1, Dtype::F32, 4.0)).unwrap();
    for wrong in ["[1.0]", "[-1.0,1.0,1.0,1.0]"] {
        let wrong = serde_json::from_str(wrong).unwrap();
        let view = SlotView {
            norms: Some(&wrong),
            ..store.views()[0]
        };
        let made = plan(&policy, &[view], mixed(2, Dtype::F32, 4.0).view(), &|_| ()).unwrap();
        assert_eq!(made.norms, [(0, store.slots[&0].norms.clone())]);
    }
}

#[test]
fn a_written_file_decodes_to_its_own_layout_and_no_other_reader_is_needed() {
    let mut store = Store::default();
    store
        .arrive(&one_slot(Operator::Exact), &mixed(1, Dtype::Bf16, 4.0))
        .unwrap();
    let slot = &store.slots[&0];
    assert_eq!(decode_slot(&slot.bytes).unwrap(), slot.layout);
    assert_eq!(decode_slot(&&slot.bytes).unwrap(), slot.layout);
}
