//! An adapter in normal form, written for another runtime: which file, under which name, and what it
//! says of itself. Used where exports are published and where they are made on demand.

use kmerge_merge::{
    AdapterView, BaseModel, Format, TensorSink, TensorSource, decode_slot, gguf, mlx,
};
use kmerge_storage::{BaseModelRecord, GenerationRecord, TaskName};

use crate::error::ServerError;

/// A format whose files are others than those of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Foreign {
    /// llama.cpp's.
    Gguf,
    /// mlx-lm's.
    Mlx,
}

impl Foreign {
    /// The format, unless it is the slot's own.
    pub fn of(format: Format) -> Option<Self> {
        match format {
            Format::Peft => None,
            Format::Gguf => Some(Self::Gguf),
            Format::Mlx => Some(Self::Mlx),
        }
    }

    /// A plain word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gguf => Format::Gguf.name(),
            Self::Mlx => Format::Mlx.name(),
        }
    }

    /// The name of the file that has the factors.
    pub fn tensor_name(self) -> &'static str {
        match self {
            Self::Gguf => gguf::EXPORT_FILE,
            Self::Mlx => mlx::EXPORT_TENSORS,
        }
    }
}

/// A file that is small, by name.
pub type SmallFile = (&'static str, Vec<u8>);

/// Writes the adapter in `source`, which is in normal form, to `sink`; gives the files that belong
/// beside it. `task` says that it is one task's and not its slot's.
///
/// # Errors
/// If the source is damaged, the base model's form in that format is not known, or the bytes cannot
/// be read or written.
pub fn write(
    format: Foreign,
    source: &dyn TensorSource,
    (base_model, generation): (&BaseModelRecord, &GenerationRecord),
    task: Option<&TaskName>,
    sink: &mut dyn TensorSink,
) -> Result<Vec<SmallFile>, ServerError> {
    let layout = decode_slot(source).map_err(ServerError::StoredAdapter)?;
    let base = BaseModel::from_config_json(base_model.config.as_bytes())?;
    let served_as = base_model.served_as.as_str();
    let view = AdapterView {
        layout: &layout,
        source,
    };
    match format {
        Foreign::Gguf => {
            let whose =
                task.map_or_else(|| format!("slot-{}", generation.slot), TaskName::to_string);
            let facts = gguf::GgufFacts {
                name: &whose,
                task_name: &format!("{whose}@{}", generation.generation),
                base_model: served_as,
            };
            gguf::export(view, &base, facts, sink)?;
            Ok(Vec::new())
        }
        Foreign::Mlx => {
            let facts = mlx::MlxFacts {
                base_model: served_as,
            };
            let config = mlx::export_config(&layout, &base, facts)?;
            mlx::export(view, &base, sink)?;
            Ok(vec![(mlx::EXPORT_CONFIG, config)])
        }
    }
}

/// The files as storage takes them.
pub fn borrowed(files: &[SmallFile]) -> Vec<(&str, &[u8])> {
    files
        .iter()
        .map(|(name, bytes)| (*name, bytes.as_slice()))
        .collect()
}
