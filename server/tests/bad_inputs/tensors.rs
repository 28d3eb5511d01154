//! Well-formed files whose tensors are no factors, no pairs, not of this base model, or hold
//! values that no training meant.

use serde_json::Value;
use tonic::Code::{self, FailedPrecondition, InvalidArgument};

use crate::support::adapters::{self, Tensor, Tensors, factor};
use crate::{Case, good_config};

const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";

/// A good adapter after a change.
fn changed(change: impl FnOnce(&mut Vec<Tensor>)) -> Vec<u8> {
    let mut tensors = Tensors::fitting(4, 1);
    change(&mut tensors.0);
    tensors.file()
}

/// A good adapter with one tensor more.
fn with(name: &str, shape: &[u64]) -> Vec<u8> {
    changed(|tensors| tensors.push(Tensor::random(name.to_owned(), shape, 99)))
}

/// A good adapter with one value replaced: `index` into the tensor at `place`.
fn valued(place: usize, index: usize, value: f32) -> Vec<u8> {
    changed(|tensors| tensors[place].set(index, value))
}

/// A good adapter whose first factor is stored in halves of these bits.
fn halves(dtype: &str, bits: u16) -> Vec<u8> {
    changed(|tensors| {
        let count = tensors[0].bytes.len() / 4;
        dtype.clone_into(&mut tensors[0].dtype);
        tensors[0].bytes = [0x2e66_u16.to_le_bytes()].repeat(count).concat();
        tensors[0].bytes[..2].copy_from_slice(&bits.to_le_bytes());
    })
}

/// All A, or all B, are zero.
fn zero(suffix: &str) -> Vec<u8> {
    changed(|tensors| {
        for tensor in tensors
            .iter_mut()
            .filter(|tensor| tensor.name.ends_with(suffix))
        {
            tensor.bytes.fill(0);
        }
    })
}

fn row(name: &str, answer: (Code, &'static str, &'static str), file: &[u8]) -> Case {
    Case::of_files(name, answer, &good_config(), file)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = names();
    cases.extend(pairs());
    cases.extend(bases());
    cases.extend(values());
    cases
}

/// Tensors that only refused variants have, or nobody knows.
fn names() -> Vec<Case> {
    let unsupported = |reason, word| (FailedPrecondition, reason, word);
    vec![
        row(
            "a magnitude of DoRA",
            unsupported("DORA", "lora_magnitude_vector"),
            &with(&format!("{Q}.lora_magnitude_vector"), &[64]),
        ),
        row(
            "a bias tensor of B",
            unsupported("BIAS", "lora_B.bias"),
            &with(&format!("{Q}.lora_B.bias"), &[64]),
        ),
        row(
            "a bias tensor of the base",
            unsupported("BIAS", "q_proj.bias"),
            &with(&format!("{Q}.bias"), &[64]),
        ),
        row(
            "a full weight",
            unsupported("FULL_TENSOR", "full weight"),
            &with("base_model.model.model.norm.weight", &[64]),
        ),
        row(
            "factors of an embedding",
            unsupported("EMBEDDING_OR_HEAD", "embedding"),
            &with(
                "base_model.model.model.embed_tokens.lora_embedding_A",
                &[4, 128],
            ),
        ),
        row(
            "a linear factor of an embedding",
            unsupported("EMBEDDING_OR_HEAD", "embed_tokens"),
            &with(
                "base_model.model.model.embed_tokens.lora_A.weight",
                &[4, 64],
            ),
        ),
        row(
            "a factor of the head",
            unsupported("EMBEDDING_OR_HEAD", "lm_head"),
            &with("base_model.model.lm_head.lora_A.weight", &[4, 64]),
        ),
        row(
            "a delta of tokens",
            unsupported("TRAINABLE_TOKENS", "trainable_tokens_delta"),
            &with(
                "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
                &[2, 64],
            ),
        ),
        row(
            "a factor of experts",
            unsupported("TARGET_PARAMETERS", "experts"),
            &with(
                "base_model.model.model.layers.0.mlp.experts.base_layer.lora_A.weight",
                &[4, 64],
            ),
        ),
        row(
            "a factor of three dimensions",
            unsupported("TARGET_PARAMETERS", "q_proj"),
            &changed(|tensors| tensors[0].shape = vec![1, 4, 64]),
        ),
        row(
            "a tensor that is nothing",
            (InvalidArgument, "UNKNOWN_TENSOR", "lora_A.weight"),
            &with(&format!("{Q}.lora_C"), &[4]),
        ),
        row(
            "a factor without PEFT's prefix",
            (InvalidArgument, "UNKNOWN_TENSOR", "not a LoRA factor"),
            &with("model.layers.0.self_attn.k_proj.lora_A.weight", &[4, 64]),
        ),
    ]
}

/// Halves, doubles, and halves that do not fit each other.
fn pairs() -> Vec<Case> {
    let malformed = |reason, word| (InvalidArgument, reason, word);
    let large = {
        let tensors = vec![
            Tensor::random(factor(0, "self_attn.v_proj", "A"), &[1025, 64], 1),
            Tensor::random(factor(0, "self_attn.v_proj", "B"), &[32, 1025], 2),
        ];
        // In halves, so that only its rank is too large.
        let halved = tensors.into_iter().map(|tensor| Tensor {
            dtype: "BF16".to_owned(),
            bytes: tensor
                .bytes
                .chunks_exact(4)
                .flat_map(|bytes| [bytes[2], bytes[3]])
                .collect(),
            ..tensor
        });
        Tensors(halved.collect()).file()
    };
    vec![
        row(
            "no B",
            malformed("MISSING_FACTOR", "lora_B"),
            &changed(|tensors| drop(tensors.remove(1))),
        ),
        row(
            "no A",
            malformed("MISSING_FACTOR", "lora_A"),
            &changed(|tensors| drop(tensors.remove(0))),
        ),
        row(
            "two adapters in one file",
            malformed("SEVERAL_ADAPTERS", "second"),
            &changed(|tensors| {
                tensors[0].name = format!("{Q}.lora_A.first.weight");
                tensors[1].name = format!("{Q}.lora_B.second.weight");
            }),
        ),
        row(
            "a factor under two spellings",
            malformed("DUPLICATE_FACTOR", "two spellings"),
            &with(&format!("{Q}.lora_A.default.weight"), &[4, 64]),
        ),
        row(
            "a factor of one dimension",
            malformed("FACTOR_DIMENSIONS", "1 dimensions"),
            &changed(|tensors| tensors[0].shape = vec![256]),
        ),
        row(
            "a factor of four dimensions",
            malformed("FACTOR_DIMENSIONS", "4 dimensions"),
            &changed(|tensors| tensors[0].shape = vec![1, 1, 4, 64]),
        ),
        row(
            "ranks that disagree",
            malformed("FACTOR_RANKS", "rank 4 and B has rank 2"),
            &changed(|tensors| {
                tensors[1] = Tensor::random(format!("{Q}.lora_B.weight"), &[64, 2], 5)
            }),
        ),
        row(
            "a rank of 1025 in the tensors",
            malformed("RANK_TOO_LARGE", "1024"),
            &large,
        ),
    ]
}

/// Adapters of other base models.
fn bases() -> Vec<Case> {
    let wrong = |reason, word| (FailedPrecondition, reason, word);
    let module = |layer, module: &str, a: &[u64], b: &[u64]| {
        Tensors(vec![
            Tensor::random(factor(layer, module, "A"), a, 1),
            Tensor::random(factor(layer, module, "B"), b, 2),
        ])
        .file()
    };
    let wide = {
        // The shapes of a model of hidden size 128, as a whole adapter.
        let mut config = adapters::config(4);
        config.insert(
            "base_model_name_or_path".into(),
            Value::from("another/model"),
        );
        let file = module(0, "self_attn.q_proj", &[4, 128], &[128, 4]);
        Case::of_files(
            "an adapter of a wider model",
            wrong("MODULE_SHAPE", "128 x 128"),
            Value::Object(config).to_string().as_bytes(),
            &file,
        )
    };
    vec![
        wide,
        row(
            "a layer too many",
            wrong("MODULE_NOT_IN_BASE", "3 layers"),
            &module(3, "self_attn.q_proj", &[4, 64], &[64, 4]),
        ),
        row(
            "a module of another architecture",
            wrong("MODULE_NOT_IN_BASE", "LlamaForCausalLM"),
            &module(0, "attention.query_key_value", &[4, 64], &[192, 4]),
        ),
        row(
            "a wrong output width",
            wrong("MODULE_SHAPE", "another base model"),
            &module(0, "self_attn.k_proj", &[4, 64], &[64, 4]),
        ),
        row(
            "a wrong input width",
            wrong("MODULE_SHAPE", "another base model"),
            &module(0, "mlp.down_proj", &[4, 64], &[64, 4]),
        ),
    ]
}

/// Values that would spoil a slot, or do nothing to it.
fn values() -> Vec<Case> {
    let malformed = |reason, word| (InvalidArgument, reason, word);
    let subnormal = changed(|tensors| {
        for index in 0..tensors[0].bytes.len() / 4 {
            tensors[0].set(index, f32::MIN_POSITIVE / 2.0);
        }
    });
    vec![
        row(
            "NaN in A",
            malformed("NOT_FINITE", "NaN"),
            &valued(0, 17, f32::NAN),
        ),
        row(
            "NaN in the last value of B",
            malformed("NOT_FINITE", "lora_B"),
            &valued(11, 127, f32::NAN),
        ),
        row(
            "infinity",
            malformed("NOT_FINITE", "infinity"),
            &valued(1, 0, f32::INFINITY),
        ),
        row(
            "negative infinity",
            malformed("NOT_FINITE", "infinity"),
            &valued(2, 3, f32::NEG_INFINITY),
        ),
        row(
            "infinity in F16",
            malformed("NOT_FINITE", "infinity"),
            &halves("F16", 0x7c00),
        ),
        row(
            "NaN in BF16",
            malformed("NOT_FINITE", "NaN"),
            &halves("BF16", 0x7fc0),
        ),
        row(
            "every B zero",
            malformed("NO_EFFECT", "before training"),
            &zero("lora_B.weight"),
        ),
        row(
            "every A zero",
            malformed("NO_EFFECT", "do nothing"),
            &zero("lora_A.weight"),
        ),
        row(
            "subnormal numbers",
            malformed("SUBNORMAL", "subnormal"),
            &subnormal,
        ),
    ]
}
