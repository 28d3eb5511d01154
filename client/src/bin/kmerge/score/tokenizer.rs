//! Text to token ids: from a `tokenizer.json`, or from what a GGUF file says of its tokenizer.
//!
//! A GGUF names its pre-tokenizer by a word (`tokenizer.ggml.pre`); what each word stands for is
//! written down here as the tokenizer.json of the models that use it has it. A word that is not
//! known is refused: another split gives other tokens and so other scores.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::error::Error;

/// The pattern of Llama 3's tokenizer.json; Qwen2's differs in taking digits one by one.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Kinds of tokens (`tokenizer.ggml.token_type`) that are found in text as they stand.
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;

/// What a GGUF says of its tokenizer.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    /// The word for how text is cut before the merges apply.
    pub(crate) cut: String,
    /// By id.
    pub(crate) tokens: Vec<String>,
    /// One for each token.
    pub(crate) kinds: Vec<u32>,
    /// First to be applied first, as `left right`.
    pub(crate) merges: Vec<String>,
}

/// A tokenizer that adds no special tokens and finds those that the text spells out.
#[derive(Debug)]
pub(crate) struct Tokenizer(tokenizers::Tokenizer);

impl Tokenizer {
    /// From the content of a tokenizer.json; `path` is for errors.
    pub(crate) fn from_json(path: &Path, content: &[u8]) -> Result<Self, Error> {
        tokenizers::Tokenizer::from_bytes(content)
            .map(Self)
            .map_err(|error| Error::unusable(path, error))
    }

    /// From a GGUF's metadata; `path` is for errors.
    pub(crate) fn from_vocabulary(path: &Path, vocabulary: &Vocabulary) -> Result<Self, Error> {
        let Some(split) = Split::of(&vocabulary.cut) else {
            let why = format!(
                "its pre-tokenizer {} is not known; use the model's directory with its \
                 tokenizer.json",
                vocabulary.cut
            );
            return Err(Error::unusable(path, why));
        };
        Self::from_json(path, &described(&split, vocabulary))
    }

    /// The token ids of a text, or why it has none.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self.0.encode_fast(text, false);
        let encoding = encoding.map_err(|error| format!("it cannot be tokenised: {error}"))?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// How text is cut before the merges apply.
struct Split {
    normalizer: Json,
    before: Option<Json>,
    /// Whether GPT-2's own pattern cuts what is left.
    gpt2: bool,
    ignore_merges: bool,
}

impl Split {
    fn of(pre: &str) -> Option<Self> {
        let plain = Self {
            normalizer: Json::Null,
            before: None,
            gpt2: true,
            ignore_merges: false,
        };
        let pattern = |regex: &str| {
            json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated",
                   "invert": false})
        };
        Some(match pre {
            "" | "default" | "gpt-2" => plain,
            "smollm" => Self {
                before: Some(json!({"type": "Digits", "individual_digits": true})),
                ..plain
            },
            "llama-bpe" | "llama3" => Self {
                before: Some(pattern(LLAMA3)),
                gpt2: false,
                ignore_merges: true,
                ..plain
            },
            "qwen2" => Self {
                normalizer: json!({"type": "NFC"}),
                before: Some(pattern(QWEN2)),
                gpt2: false,
                ..plain
            },
            _ => return None,
        })
    }
}

/// The tokenizer.json that says the same.
fn described(split: &Split, vocabulary: &Vocabulary) -> Vec<u8> {
    let ids = (0_u32..).zip(&vocabulary.tokens);
    let tokens: serde_json::Map<String, Json> = ids
        .clone()
        .map(|(id, token)| (token.clone(), json!(id)))
        .collect();
    let added: Vec<Json> = ids
        .zip(&vocabulary.kinds)
        .filter(|(_, kind)| [CONTROL, USER_DEFINED].contains(kind))
        .map(|((id, token), &kind)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": kind == CONTROL})
        })
        .collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                       "use_regex": split.gpt2});
    let steps: Vec<_> = split.before.iter().cloned().chain([bytes]).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": split.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false,
                  "ignore_merges": split.ignore_merges,
                  "vocab": tokens, "merges": vocabulary.merges},
    })
    .to_string()
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes a, b, 1, a blank (Ġ), their merges, and one special token.
    fn tokenizer(cut: &str) -> Result<Tokenizer, Error> {
        let tokens = ["<|x|>", "a", "b", "1", "Ġ", "ab", "Ġa", "Ġab", "11", "Ġ1"];
        let merges = ["a b", "Ġ ab", "Ġ a", "1 1", "Ġ 1"];
        let vocabulary = Vocabulary {
            cut: cut.to_owned(),
            tokens: tokens.map(str::to_owned).into(),
            kinds: vec![3, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            merges: merges.map(str::to_owned).into(),
        };
        Tokenizer::from_vocabulary(Path::new("model.gguf"), &vocabulary)
    }

    #[test]
    fn special_tokens_in_the_text_are_found_and_none_is_added() {
        let ids = tokenizer("gpt-2").unwrap().encode("ab<|x|>ab ab").unwrap();
        assert_eq!(ids, [5, 0, 5, 7]);
    }

    #[test]
    fn each_pre_tokenizer_cuts_digits_in_its_own_way() {
        let ids = |pre| tokenizer(pre).unwrap().encode("a 11").unwrap();
        // Together with the blank before them (where merging 1 1 comes first).
        assert_eq!(ids("gpt-2"), [1, 4, 8]);
        // One by one, the blank apart.
        assert_eq!(ids("smollm"), [1, 4, 3, 3]);
        // Up to three, the blank apart.
        assert_eq!(ids("llama-bpe"), [1, 4, 8]);
        assert_eq!(ids("qwen2"), [1, 4, 3, 3]);
    }

    #[test]
    fn an_unknown_pre_tokenizer_is_refused() {
        let error = tokenizer("tekken").unwrap_err().to_string();
        assert!(error.contains("tekken"), "{error}");
    }
}
