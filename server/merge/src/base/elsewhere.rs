//! What other runtimes call a base model's modules, and in which order they keep their rows.

use super::BaseModel;

/// What comes before the layer number in llama.cpp.
const GGUF_BLOCKS: &str = "blk.";
/// What comes behind the module in llama.cpp, before `lora_a` or `lora_b`.
const GGUF_WEIGHT: &str = ".weight";

/// A module as llama.cpp has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GgufModule {
    /// The name of the weight, such as `blk.0.attn_q.weight`.
    pub(crate) tensor: String,
    /// The number of heads within each of which the rows are interleaved; none where they are as in
    /// transformers.
    pub(crate) heads: Option<usize>,
}

impl BaseModel {
    /// What llama.cpp calls the architecture.
    pub(crate) fn gguf_architecture(&self) -> &'static str {
        self.family.llama_cpp.architecture
    }

    /// The module at `path` in llama.cpp; `None` where the model has no such module, or llama.cpp's
    /// form of it is not known.
    pub(crate) fn gguf_module(&self, path: &str) -> Option<GgufModule> {
        let (layer, module) = self.find(path, self.family.prefix)?;
        Some(GgufModule {
            tensor: format!("{GGUF_BLOCKS}{layer}.{}{GGUF_WEIGHT}", module.gguf?),
            heads: self.interleaved_heads(module.name),
        })
    }

    /// The path of the module whose weight llama.cpp calls `tensor`.
    pub(crate) fn path_of_gguf(&self, tensor: &str) -> Option<String> {
        let (layer, name) = tensor
            .strip_prefix(GGUF_BLOCKS)?
            .strip_suffix(GGUF_WEIGHT)?
            .split_once('.')?;
        let layer = self.layer(layer)?;
        let family = self.family;
        let module = family
            .modules
            .iter()
            .find(|module| module.gguf == Some(name))?;
        Some(format!("{}{layer}.{}", family.prefix, module.name))
    }

    /// Whether there are modules whose form in llama.cpp is not known.
    pub(crate) fn lacks_gguf_forms(&self) -> bool {
        self.family
            .modules
            .iter()
            .any(|module| module.gguf.is_none())
    }

    fn interleaved_heads(&self, module: &str) -> Option<usize> {
        let heads = match module {
            "self_attn.q_proj" => self.widths.heads,
            "self_attn.k_proj" => self.widths.kv_heads,
            _ => return None,
        };
        self.family.llama_cpp.interleaved.then_some(heads)
    }

    /// The path of a module in mlx-lm, and the path inside its block; `None` where mlx-lm's form of
    /// the model is not known.
    pub(crate) fn mlx_path(&self, path: &str) -> Option<(String, &'static str)> {
        let (layer, module) = self.find(path, self.family.prefix)?;
        let prefix = self.family.mlx_prefix?;
        Some((format!("{prefix}{layer}.{}", module.name), module.name))
    }

    /// The path of the module that mlx-lm has at `path`, its layer, and the path inside its block.
    pub(crate) fn path_of_mlx(&self, path: &str) -> Option<(String, u32, &'static str)> {
        let (layer, module) = self.find(path, self.family.mlx_prefix?)?;
        let own = format!("{}{layer}.{}", self.family.prefix, module.name);
        Some((own, layer, module.name))
    }

    /// Whether mlx-lm's form of the model is known.
    pub(crate) fn is_in_mlx(&self) -> bool {
        self.family.mlx_prefix.is_some()
    }
}
