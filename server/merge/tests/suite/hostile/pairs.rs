//! Tensor names, pairs of factors, and adapters of other base models.

use kmerge_merge::AdapterErrorKind::{Malformed, Unsupported, WrongBase};
use kmerge_merge::{AdapterErrorKind, Dtype, decode, decode_slot};

use super::{check, config, refused, tensors};
use crate::support::files::{Module, Tensor, safetensors};
use crate::support::tiny_base;

const STEM: &str = "base_model.model.model.layers.0.self_attn.q_proj";

fn tensor(name: &str, shape: &[usize]) -> Tensor {
    Tensor {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        values: vec![1.0; shape.iter().product()],
    }
}

/// The correct adapter and one more tensor.
fn and(name: &str, shape: &[usize]) -> Vec<Tensor> {
    [tensors(), vec![tensor(name, shape)]].concat()
}

/// Another pair alone, with A of `a` and B of `b`.
fn pair(stem: &str, a: &[usize], b: &[usize]) -> Vec<Tensor> {
    vec![
        tensor(&format!("{stem}.lora_A.weight"), a),
        tensor(&format!("{stem}.lora_B.weight"), b),
    ]
}

#[test]
fn what_is_no_pair_of_factors() {
    let lone = |index: usize| vec![tensors().swap_remove(index)];
    let renamed = |from: &str, to: &str| -> Vec<Tensor> {
        tensors()
            .into_iter()
            .map(|tensor| Tensor {
                name: tensor.name.replace(from, to),
                ..tensor
            })
            .collect()
    };
    let twice = |second: &str| [tensors(), renamed(".weight", second)].concat();
    let cases: Vec<(&str, Vec<Tensor>, AdapterErrorKind, &str)> = vec![
        ("no B", lone(0), Malformed, "MISSING_FACTOR"),
        ("no A", lone(1), Malformed, "MISSING_FACTOR"),
        (
            "both spellings",
            twice(".default.weight"),
            Malformed,
            "DUPLICATE_FACTOR",
        ),
        (
            "two adapters",
            [
                renamed(".weight", ".en.weight"),
                renamed("0.self_attn.q_proj", "1.self_attn.q_proj.x")
                    .into_iter()
                    .map(|t| Tensor {
                        name: t
                            .name
                            .replace(".x.lora_A.", ".lora_A.de.")
                            .replace(".x.lora_B.", ".lora_B.de."),
                        ..t
                    })
                    .collect(),
            ]
            .concat(),
            Malformed,
            "SEVERAL_ADAPTERS",
        ),
        (
            "a name of nothing",
            and("something.else", &[2]),
            Malformed,
            "UNKNOWN_TENSOR",
        ),
        (
            "no prefix",
            renamed("base_model.model.", ""),
            Malformed,
            "UNKNOWN_TENSOR",
        ),
        (
            "A of one dimension",
            pair(STEM, &[24], &[12, 2]),
            Malformed,
            "FACTOR_DIMENSIONS",
        ),
        (
            "B of four dimensions",
            pair(STEM, &[2, 12], &[12, 2, 1, 1]),
            Malformed,
            "FACTOR_DIMENSIONS",
        ),
        (
            "ranks that disagree",
            pair(STEM, &[2, 12], &[12, 3]),
            Malformed,
            "FACTOR_RANKS",
        ),
        (
            "transposed factors",
            pair(STEM, &[12, 2], &[2, 12]),
            WrongBase,
            "MODULE_SHAPE",
        ),
        (
            "rank beyond the limit",
            pair(STEM, &[1025, 12], &[12, 1025]),
            Malformed,
            "RANK_TOO_LARGE",
        ),
        (
            "factors of experts",
            pair(STEM, &[4, 2, 12], &[4, 12, 2]),
            Unsupported,
            "TARGET_PARAMETERS",
        ),
        (
            "a wrapped parameter",
            pair(
                "base_model.model.model.layers.0.mlp.experts.base_layer",
                &[2, 12],
                &[12, 2],
            ),
            Unsupported,
            "TARGET_PARAMETERS",
        ),
        (
            "a magnitude",
            and(&format!("{STEM}.lora_magnitude_vector"), &[12]),
            Unsupported,
            "DORA",
        ),
        (
            "a bias of B",
            and(&format!("{STEM}.lora_B.bias"), &[12]),
            Unsupported,
            "BIAS",
        ),
        (
            "a bias of the base",
            and(&format!("{STEM}.base_layer.bias"), &[12]),
            Unsupported,
            "BIAS",
        ),
        (
            "a full weight",
            and(&format!("{STEM}.weight"), &[12, 12]),
            Unsupported,
            "FULL_TENSOR",
        ),
        (
            "a saved head",
            and("base_model.model.lm_head.weight", &[12, 12]),
            Unsupported,
            "FULL_TENSOR",
        ),
        (
            "an embedding",
            and(
                "base_model.model.model.embed_tokens.lora_embedding_A",
                &[2, 9],
            ),
            Unsupported,
            "EMBEDDING_OR_HEAD",
        ),
        (
            "a head",
            pair("base_model.model.lm_head", &[2, 12], &[9, 2]),
            Unsupported,
            "EMBEDDING_OR_HEAD",
        ),
        (
            "trained tokens",
            and(
                "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
                &[2, 12],
            ),
            Unsupported,
            "TRAINABLE_TOKENS",
        ),
        (
            "a layer that the base does not have",
            pair(
                "base_model.model.model.layers.4.self_attn.q_proj",
                &[2, 12],
                &[12, 2],
            ),
            WrongBase,
            "MODULE_NOT_IN_BASE",
        ),
        (
            "a module of another architecture",
            pair(
                "base_model.model.transformer.h.0.attn.c_attn",
                &[2, 12],
                &[12, 2],
            ),
            WrongBase,
            "MODULE_NOT_IN_BASE",
        ),
        (
            "a norm",
            pair("base_model.model.model.norm", &[2, 12], &[12, 2]),
            WrongBase,
            "MODULE_NOT_IN_BASE",
        ),
        (
            "a wider base",
            pair(STEM, &[2, 16], &[12, 2]),
            WrongBase,
            "MODULE_SHAPE",
        ),
        (
            "a taller base",
            pair(STEM, &[2, 12], &[16, 2]),
            WrongBase,
            "MODULE_SHAPE",
        ),
    ];
    for (context, tensors, kind, reason) in cases {
        let error = refused(config().to_string().as_bytes(), &safetensors(&tensors));
        check(&error, kind, "tensors", reason, context);
    }
}

#[test]
fn spellings_met_in_the_wild_are_accepted() {
    for (from, to) in [
        (".weight", ".default.weight"),
        (".weight", ".my-adapter_2.weight"),
        ("base_model.model.", "base_model.model.base_model.model."),
    ] {
        let renamed: Vec<Tensor> = tensors()
            .into_iter()
            .map(|tensor| Tensor {
                name: tensor.name.replacen(from, to, 1),
                ..tensor
            })
            .collect();
        let bytes = safetensors(&renamed);
        let decoded = decode(config().to_string().as_bytes(), &bytes, &tiny_base()).unwrap();
        assert_eq!(
            decoded.layout.modules[0].path, "model.layers.0.self_attn.q_proj",
            "{to}"
        );
    }
}

#[test]
fn a_slot_file_must_be_in_normal_form() {
    let other =
        |rank, dtype| Module::random("1.self_attn.q_proj", [12, 12], rank, 2).tensors(dtype);
    let renamed: Vec<Tensor> = tensors()
        .into_iter()
        .map(|tensor| Tensor {
            name: tensor.name.replace(".weight", ".default.weight"),
            ..tensor
        })
        .collect();
    for (context, tensors, reason) in [
        (
            "another rank",
            [tensors(), other(3, Dtype::F32).to_vec()].concat(),
            "SLOT_RANK",
        ),
        (
            "another dtype",
            [tensors(), other(2, Dtype::F16).to_vec()].concat(),
            "SLOT_DTYPE",
        ),
        ("an adapter's name", renamed, "SLOT_NAME"),
        ("no B", vec![tensors().swap_remove(0)], "MISSING_FACTOR"),
        (
            "ranks that disagree",
            pair(STEM, &[2, 12], &[12, 3]),
            "FACTOR_RANKS",
        ),
    ] {
        let error = decode_slot(&safetensors(&tensors)).unwrap_err();
        check(&error, Malformed, "tensors", reason, context);
    }
}
