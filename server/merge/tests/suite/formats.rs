//! Adapters through the formats of other runtimes and back: every factor keeps its bits, and what
//! is written is what those runtimes read.

mod goldens;
mod round_trips;
mod written;

use kmerge_merge::{
    AdapterView, BaseModel, Decoded, Format, TensorSource, decode_slot, export_config, gguf, mlx,
};

use crate::support::files::Adapter;

/// An adapter's files in one format.
#[derive(Debug)]
pub(crate) struct Exported {
    pub(crate) format: Format,
    pub(crate) config: Vec<u8>,
    pub(crate) tensors: Vec<u8>,
}

pub(crate) const FACTS: gguf::GgufFacts<'_> = gguf::GgufFacts {
    name: "slug-en",
    task_name: "slug-en@3",
    base_model: "org/base",
};

pub(crate) fn export(view: AdapterView<'_>, base: &BaseModel, format: Format) -> Exported {
    let mut tensors = Vec::new();
    let config = match format {
        Format::Peft => {
            tensors.resize(usize::try_from(view.source.len()).unwrap(), 0);
            view.source.read_at(0, &mut tensors).unwrap();
            export_config(view.layout, "org/base")
        }
        Format::Gguf => {
            gguf::export(view, base, FACTS, &mut tensors).unwrap();
            Vec::new()
        }
        Format::Mlx => {
            mlx::export(view, base, &mut tensors).unwrap();
            let facts = mlx::MlxFacts {
                base_model: "org/base",
            };
            mlx::export_config(view.layout, base, facts).unwrap()
        }
    };
    Exported {
        format,
        config,
        tensors,
    }
}

impl Exported {
    pub(crate) fn decode(&self, base: &BaseModel) -> Decoded {
        self.format
            .decode(&self.config, &self.tensors, base)
            .unwrap()
    }

    /// As a file in normal form, which is what a slot of this one member is stored as.
    pub(crate) fn into_peft(self, base: &BaseModel) -> Adapter {
        let decoded = self.decode(base);
        let source = decoded.arrangement.apply(&self.tensors);
        let view = AdapterView {
            layout: &decoded.layout,
            source: &source,
        };
        let bytes = crate::support::opened(view);
        let layout = decode_slot(&bytes).unwrap();
        Adapter { layout, bytes }
    }
}

/// Every factor's bytes by module, A before B, read in the order of the layout.
pub(crate) fn factors(decoded: &Decoded, file: &dyn TensorSource) -> Vec<(String, [Vec<u8>; 2])> {
    let source = decoded.arrangement.apply(file);
    let read = |range: &kmerge_merge::TensorRange| {
        let mut bytes = vec![0; usize::try_from(range.bytes).unwrap()];
        source.read_at(range.offset, &mut bytes).unwrap();
        bytes
    };
    decoded
        .layout
        .modules
        .iter()
        .map(|module| (module.path.clone(), [read(&module.a), read(&module.b)]))
        .collect()
}
