//! PEFT → GGUF → PEFT → MLX → PEFT: every factor comes back bit for bit.

use kmerge_merge::{AdapterView, Dtype, Format, decode};
use proptest::prelude::*;
use serde_json::json;

use super::{Exported, export, factors};
use crate::support::files::{Adapter, Module, golden, golden_adapter, safetensors};
use crate::support::tiny_base;

/// Modules of the tiny base with their shapes; q and k are interleaved, and with rank 12 the factors
/// of q are square.
const MODULES: [(&str, [usize; 2]); 7] = [
    ("0.self_attn.q_proj", [12, 12]),
    ("0.self_attn.k_proj", [4, 12]),
    ("1.self_attn.v_proj", [4, 12]),
    ("2.self_attn.o_proj", [12, 12]),
    ("3.mlp.gate_proj", [20, 12]),
    ("3.mlp.up_proj", [20, 12]),
    ("3.mlp.down_proj", [12, 20]),
];

/// An adapter with any non-empty set of modules, one rank and one alpha, and its PEFT files.
fn any_adapter() -> impl Strategy<Value = Exported> {
    let chosen = proptest::collection::vec(any::<bool>(), MODULES.len());
    let dtype = prop_oneof![Just(Dtype::F32), Just(Dtype::F16), Just(Dtype::Bf16)];
    let alpha = prop_oneof![Just(1.0), Just(16.0), Just(24.0), Just(0.5)];
    (chosen, any::<u64>(), 1_usize..=12, dtype, alpha).prop_filter_map(
        "no module",
        |(chosen, seed, rank, dtype, alpha)| {
            let tensors: Vec<_> = MODULES
                .iter()
                .zip(chosen)
                .filter(|(_, chosen)| *chosen)
                .flat_map(|(&(path, shape), _)| {
                    Module::random(path, shape, rank, seed).tensors(dtype)
                })
                .collect();
            let config = json!({"peft_type": "LORA", "r": rank, "lora_alpha": alpha});
            (!tensors.is_empty()).then(|| Exported {
                format: Format::Peft,
                config: config.to_string().into_bytes(),
                tensors: safetensors(&tensors),
            })
        },
    )
}

/// The same adapter in another format.
fn convert(from: &Exported, to: Format) -> Exported {
    let base = tiny_base();
    let decoded = from.decode(&base);
    let source = decoded.arrangement.apply(&from.tensors);
    let view = AdapterView {
        layout: &decoded.layout,
        source: &source,
    };
    export(view, &base, to)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chain_of_formats_keeps_every_bit(original in any_adapter()) {
        let base = tiny_base();
        let expected = original.decode(&base);
        let wanted = factors(&expected, &original.tensors);
        let gguf = convert(&original, Format::Gguf);
        let mlx = convert(&gguf, Format::Mlx);
        let again = convert(&mlx, Format::Gguf);
        prop_assert_eq!(&again.tensors, &gguf.tensors);
        for step in [&gguf, &mlx, &again] {
            let found = step.decode(&base);
            prop_assert_eq!(factors(&found, &step.tensors), wanted.clone());
            for (found, expected) in found.layout.modules.iter().zip(&expected.layout.modules) {
                prop_assert_eq!(&found.path, &expected.path);
                // GGUF has alpha, mlx-lm the quotient; the last digit may differ.
                let error = (found.scaling / expected.scaling - 1.0).abs();
                prop_assert!(error <= 1e-15, "{} {}", found.scaling, expected.scaling);
            }
        }
    }
}

/// In normal form, as slots are, each step is a whole PEFT file again.
fn through_slots(start: Adapter, base: &kmerge_merge::BaseModel) {
    let first = export(start.view(), base, Format::Peft).into_peft(base);
    let gguf = export(first.view(), base, Format::Gguf).into_peft(base);
    assert_eq!(gguf.bytes, first.bytes, "by way of GGUF");
    let mlx = export(gguf.view(), base, Format::Mlx).into_peft(base);
    assert_eq!(mlx.bytes, first.bytes, "by way of MLX");
}

#[test]
fn the_golden_adapters_survive_every_format_as_slots() {
    let base = kmerge_merge::BaseModel::from_config_json(&golden("base/config.json")).unwrap();
    for name in ["a0", "a1-f16", "a1-bf16", "a4", "a9"] {
        let adapter = golden_adapter(name);
        let bytes = crate::support::opened(adapter.view());
        let config =
            kmerge_merge::export_config(&kmerge_merge::decode_slot(&bytes).unwrap(), "org/base");
        let layout = decode(&config, &bytes, &base).unwrap().layout;
        through_slots(Adapter { layout, bytes }, &base);
    }
}
