//! Headers of models, right and wrong.

use serde_json::json;

use super::convert;
use super::header::Header;

/// A header: keys with their type and bytes, and tensors.
#[derive(Default, Clone)]
struct File {
    keys: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>)>,
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u64::try_from(bytes.len()).unwrap();
    [&length.to_le_bytes()[..], bytes].concat()
}

impl File {
    /// SmolLM2's numbers.
    fn smol() -> Self {
        let mut file = Self::default();
        for (key, number) in [
            ("block_count", 30_u32),
            ("embedding_length", 576),
            ("feed_forward_length", 1536),
            ("attention.head_count", 9),
            ("attention.head_count_kv", 3),
        ] {
            file = file.key(&format!("llama.{key}"), 4, &number.to_le_bytes());
        }
        let tokens = [
            &8_u32.to_le_bytes()[..],
            &2_u64.to_le_bytes(),
            &sized(b"a"),
            &sized(b"bc"),
        ];
        file.key("general.architecture", 8, &sized(b"llama"))
            .key("tokenizer.ggml.tokens", 9, &tokens.concat())
            .key("tokenizer.chat_template", 8, &sized(&[b'x'; 5000]))
            .tensor("blk.0.attn_q.weight", &[576, 576])
            .tensor("blk.0.attn_k.weight", &[576, 192])
            .tensor("blk.0.ffn_down.weight", &[1536, 576])
    }

    fn key(mut self, name: &str, kind: u32, value: &[u8]) -> Self {
        self.keys.retain(|(key, ..)| key != name);
        self.keys.push((name.to_owned(), kind, value.to_vec()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.keys.retain(|(key, ..)| key != name);
        self
    }

    fn tensor(mut self, name: &str, dimensions: &[u64]) -> Self {
        self.tensors.retain(|(known, _)| known != name);
        self.tensors.push((name.to_owned(), dimensions.to_vec()));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        for count in [self.tensors.len(), self.keys.len()] {
            bytes.extend(u64::try_from(count).unwrap().to_le_bytes());
        }
        for (name, kind, value) in &self.keys {
            bytes.extend(sized(name.as_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for (name, dimensions) in &self.tensors {
            bytes.extend(sized(name.as_bytes()));
            bytes.extend(u32::try_from(dimensions.len()).unwrap().to_le_bytes());
            for dimension in dimensions {
                bytes.extend(dimension.to_le_bytes());
            }
            bytes.extend([0; 12]);
        }
        bytes
    }

    fn config(&self) -> Result<serde_json::Value, String> {
        convert(&Header::read(self.bytes().as_slice())?)
    }
}

#[test]
fn a_llama_becomes_its_config() {
    let expected = json!({
        "architectures": ["LlamaForCausalLM"], "head_dim": 64, "hidden_size": 576,
        "intermediate_size": 1536, "model_type": "llama", "num_attention_heads": 9,
        "num_hidden_layers": 30, "num_key_value_heads": 3,
    });
    assert_eq!(File::smol().config().unwrap(), expected);
    // What is not said is what llama.cpp takes it for.
    let file = File::smol()
        .without("llama.attention.head_count_kv")
        .tensor("blk.0.attn_k.weight", &[576, 576]);
    assert_eq!(file.config().unwrap()["num_key_value_heads"], 9);
    let long = File::smol()
        .key("llama.attention.key_length", 4, &128_u32.to_le_bytes())
        .tensor("blk.0.attn_q.weight", &[576, 1152])
        .tensor("blk.0.attn_k.weight", &[576, 384]);
    assert_eq!(long.config().unwrap()["head_dim"], 128);
}

#[test]
fn what_is_not_certain_is_refused() {
    let three = [&4_u32.to_le_bytes()[..], &3_u64.to_le_bytes(), &[0; 12]].concat();
    let smol = File::smol;
    for (file, why) in [
        (
            smol().key("general.type", 8, &sized(b"adapter")),
            "not a model",
        ),
        (smol().without("general.architecture"), "does not say"),
        (
            smol().key("general.architecture", 8, &sized(b"llama4")),
            "not known here",
        ),
        (smol().without("llama.block_count"), "no llama.block_count"),
        (
            smol().key("llama.block_count", 5, &(-3_i32).to_le_bytes()),
            "no single number",
        ),
        (
            smol().key("llama.block_count", 6, &30_f32.to_le_bytes()),
            "no single number",
        ),
        (
            smol().key("llama.attention.head_count_kv", 9, &three),
            "no single number",
        ),
        (
            smol().key("llama.attention.head_count", 4, &[0; 4]),
            "0 heads",
        ),
        (
            smol().key("llama.expert_count", 4, &[8, 0, 0, 0]),
            "mixture",
        ),
        (
            smol().key("llama.attention.value_length", 4, &[7, 0, 0, 0]),
            "values of 7",
        ),
        (
            smol().tensor("blk.0.attn_q.weight", &[576, 512]),
            "has [576, 512]",
        ),
        (smol().tensor("blk.0.attn_k.weight", &[576]), "has [576]"),
        (smol().tensor("x", &[1; 5]), "5 dimensions"),
        (smol().key("x", 77, &[]), "unknown type 77"),
    ] {
        let error = file.config().unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn other_files_and_cut_ones_are_refused() {
    let whole = File::smol().bytes();
    for length in 0..whole.len() {
        let error = Header::read(&whole[..length]).unwrap_err();
        assert!(error.contains("ends inside"), "{length}: {error}");
    }
    let mut other = whole.clone();
    other[0] = b'X';
    assert_eq!(
        Header::read(other.as_slice()).unwrap_err(),
        "is not a GGUF file"
    );
    let mut old = whole.clone();
    old[4] = 2;
    assert!(
        Header::read(old.as_slice())
            .unwrap_err()
            .contains("version 2")
    );
    let mut endless = whole;
    endless[8..16].fill(0xff);
    assert!(
        Header::read(endless.as_slice())
            .unwrap_err()
            .contains("claims")
    );
}
