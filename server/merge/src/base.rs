//! A base model's linear layers and their shapes, read from a Hugging Face `config.json`.
//!
//! Adapters are checked against these shapes, so a family is only listed where its module names and
//! shapes are certain. Always: every dimension is at least 1 and small enough that no product of
//! two overflows.

mod elsewhere;
mod families;
mod read;

use families::{Dimension, Family, Module};

/// Shape of one linear layer's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModuleShape {
    /// Rows of the weight, and of B.
    pub out_features: usize,
    /// Columns of the weight, and of A.
    pub in_features: usize,
}

/// The widths that all shapes of a model derive from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Widths {
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_size: usize,
}

/// A base model: adapters of one base model may be merged with each other.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseModel {
    family: &'static Family,
    layers: u32,
    widths: Widths,
    name_or_path: Option<String>,
}

impl BaseModel {
    /// The class that transformers loads, such as `LlamaForCausalLM`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        self.family.architecture
    }

    /// Number of blocks.
    #[must_use]
    pub fn layers(&self) -> u32 {
        self.layers
    }

    /// Width of the residual stream.
    #[must_use]
    pub fn hidden_size(&self) -> u32 {
        // Read from a u32 and bounded far below; see `read::Bounds`.
        u32::try_from(self.widths.hidden).unwrap_or(u32::MAX)
    }

    /// The label under which the model was saved; never a path to open.
    #[must_use]
    pub fn name_or_path(&self) -> Option<&str> {
        self.name_or_path.as_deref()
    }

    /// Shape of the linear layer at `path`, such as `model.layers.0.self_attn.q_proj`; `None` where
    /// the model has no such layer.
    #[must_use]
    pub fn module_shape(&self, path: &str) -> Option<ModuleShape> {
        let (_, module) = self.find(path, self.family.prefix)?;
        Some(ModuleShape {
            out_features: self.widths.of(module.out_features),
            in_features: self.widths.of(module.in_features),
        })
    }

    /// The layer and the module that a path of this prefix names.
    fn find(&self, path: &str, prefix: &str) -> Option<(u32, &'static Module)> {
        let (layer, name) = path.strip_prefix(prefix)?.split_once('.')?;
        let module = self
            .family
            .modules
            .iter()
            .find(|module| module.name == name)?;
        Some((self.layer(layer)?, module))
    }

    /// A layer's number. Only the canonical spelling is one: "01" or "+1" are other strings.
    fn layer(&self, text: &str) -> Option<u32> {
        let number: u32 = text.parse().ok()?;
        (number < self.layers && number.to_string() == text).then_some(number)
    }
}

impl Widths {
    fn of(self, dimension: Dimension) -> usize {
        let query = self.heads * self.head_size;
        let key_value = self.kv_heads * self.head_size;
        match dimension {
            Dimension::Hidden => self.hidden,
            Dimension::Intermediate => self.intermediate,
            Dimension::Query => query,
            Dimension::KeyValue => key_value,
            Dimension::QueryKeyValue => query + 2 * key_value,
            Dimension::GateUp => 2 * self.intermediate,
        }
    }
}

#[cfg(test)]
mod tests;
