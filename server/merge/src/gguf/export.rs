//! Writing an adapter as a GGUF LoRA: the same bytes for the same input, streamed tensor by tensor.
//!
//! The keys are those that llama.cpp reads, in a fixed order, and the base model's name for people.
//! Tensors follow in the order of the layout, A before B, in the type in which they are stored.

use super::{DEFAULT_ALIGNMENT, MAGIC, VERSION, key, value_type};
use crate::arrange::original_row;
use crate::{
    AdapterView, BaseModel, Dtype, FormatError, ModuleLayout, TensorRange, TensorSink, TensorSource,
};

/// Bytes copied at once.
const CHUNK: usize = 256 << 10;

/// What a GGUF LoRA says of itself beside its factors.
#[derive(Debug, Clone, Copy)]
pub struct GgufFacts<'a> {
    /// What it is called.
    pub name: &'a str,
    /// What llama-server shows as the task.
    pub task_name: &'a str,
    /// The name under which runtimes serve the base model.
    pub base_model: &'a str,
}

/// One module, ready to be written.
struct Written<'a> {
    module: &'a ModuleLayout,
    tensor: String,
    /// Rows of one head, where llama.cpp interleaves them.
    rows: Option<usize>,
}

/// Writes an adapter in which every module's rank times its scaling is the same, as it is in
/// normal form: that product is the file's alpha.
///
/// # Errors
///
/// [`FormatError::NoGgufModule`] and [`FormatError::OddHead`] where llama.cpp's form of a module is
/// not known, [`FormatError::SeveralScales`], and [`FormatError::Source`] and [`FormatError::Sink`]
/// from reading and writing. Nothing is written before everything else is certain.
pub fn export(
    view: AdapterView<'_>,
    base: &BaseModel,
    facts: GgufFacts<'_>,
    sink: &mut dyn TensorSink,
) -> Result<(), FormatError> {
    let modules = view
        .layout
        .modules
        .iter()
        .map(|module| written(module, base))
        .collect::<Result<Vec<_>, _>>()?;
    let alpha = alpha(&view.layout.modules)?;
    let file_type = match view.layout.dtype() {
        Dtype::F32 => 0,
        Dtype::F16 => 1,
        Dtype::Bf16 => 32,
    };
    let mut head = Head::default();
    head.text(key::ARCHITECTURE, base.gguf_architecture());
    head.text(key::TYPE, "adapter");
    head.text(key::NAME, facts.name);
    head.u32(key::FILE_TYPE, file_type);
    head.u32(key::BASE_COUNT, 1);
    head.text(key::BASE_NAME, facts.base_model);
    head.text(key::ADAPTER_TYPE, "lora");
    head.f32(key::ALPHA, alpha);
    head.text(key::TASK_NAME, facts.task_name);
    for Written { module, tensor, .. } in &modules {
        let &ModuleLayout {
            rank,
            in_features,
            out_features,
            ..
        } = *module;
        head.tensor(&format!("{tensor}.lora_a"), [rank, in_features], &module.a);
        head.tensor(&format!("{tensor}.lora_b"), [out_features, rank], &module.b);
    }
    let mut file = Padded { sink, written: 0 };
    file.write(&head.finish())?;
    file.pad()?;
    for Written { module, rows, .. } in &modules {
        file.copy(view.source, &module.a)?;
        file.pad()?;
        match rows {
            None => file.copy(view.source, &module.b)?,
            Some(rows) => {
                let row_bytes = module.rank * module.b.dtype.size_bytes();
                file.interleave(view.source, &module.b, *rows, row_bytes)?;
            }
        }
        file.pad()?;
    }
    Ok(())
}

fn written<'a>(module: &'a ModuleLayout, base: &BaseModel) -> Result<Written<'a>, FormatError> {
    let found = base
        .gguf_module(&module.path)
        .ok_or_else(|| FormatError::NoGgufModule {
            module: module.path.clone(),
            architecture: base.architecture().to_owned(),
        })?;
    let rows = found.heads.map(|heads| module.out_features / heads);
    match rows {
        Some(rows) if !rows.is_multiple_of(2) => Err(FormatError::OddHead {
            module: module.path.clone(),
            rows,
        }),
        _ => Ok(Written {
            module,
            tensor: found.tensor,
            rows,
        }),
    }
}

/// The alpha that gives every module its scaling.
#[expect(
    clippy::cast_possible_truncation,
    reason = "what does not survive it is refused"
)]
fn alpha(modules: &[ModuleLayout]) -> Result<f32, FormatError> {
    let of = |module: &ModuleLayout| {
        let rank = u32::try_from(module.rank).expect("bounded by MAX_RANK");
        (module.scaling * f64::from(rank)) as f32
    };
    let Some(first) = modules.first() else {
        return Ok(1.0);
    };
    let alpha = of(first);
    match modules.iter().find(|module| of(module) != alpha) {
        None => Ok(alpha),
        Some(other) => Err(FormatError::SeveralScales {
            module: other.path.clone(),
            rank: other.rank,
            scaling: other.scaling,
            format: "GGUF",
        }),
    }
}

/// A header in the making.
#[derive(Default)]
struct Head {
    keys: Vec<u8>,
    key_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    /// Where the next tensor's data begins.
    offset: u64,
}

impl Head {
    fn key(&mut self, key: &str, kind: u32) {
        put_text(&mut self.keys, key);
        self.keys.extend_from_slice(&kind.to_le_bytes());
        self.key_count += 1;
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, value_type::TEXT);
        put_text(&mut self.keys, value);
    }

    fn u32(&mut self, key: &str, value: u32) {
        self.key(key, value_type::U32);
        self.keys.extend_from_slice(&value.to_le_bytes());
    }

    fn f32(&mut self, key: &str, value: f32) {
        self.key(key, value_type::F32);
        self.keys.extend_from_slice(&value.to_le_bytes());
    }

    fn tensor(&mut self, name: &str, [rows, columns]: [usize; 2], range: &TensorRange) {
        let kind: u32 = match range.dtype {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            Dtype::Bf16 => 30,
        };
        put_text(&mut self.tensors, name);
        self.tensors.extend_from_slice(&2_u32.to_le_bytes());
        for dimension in [columns, rows] {
            self.tensors
                .extend_from_slice(&wide(dimension).to_le_bytes());
        }
        self.tensors.extend_from_slice(&kind.to_le_bytes());
        self.tensors.extend_from_slice(&self.offset.to_le_bytes());
        self.tensor_count += 1;
        self.offset = (self.offset + range.bytes).next_multiple_of(DEFAULT_ALIGNMENT);
    }

    fn finish(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.tensor_count.to_le_bytes());
        bytes.extend_from_slice(&self.key_count.to_le_bytes());
        bytes.extend(self.keys);
        bytes.extend(self.tensors);
        bytes
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&wide(text.len()).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// A file in the making that knows how long it is.
struct Padded<'a> {
    sink: &'a mut dyn TensorSink,
    written: u64,
}

impl Padded<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        self.written += wide(bytes.len());
        self.sink.write(bytes).map_err(FormatError::Sink)
    }

    /// Zeros up to the next alignment.
    fn pad(&mut self) -> Result<(), FormatError> {
        let missing = self.written.next_multiple_of(DEFAULT_ALIGNMENT) - self.written;
        let missing = usize::try_from(missing).expect("less than the alignment");
        self.write(&vec![0; missing])
    }

    fn copy(&mut self, source: &dyn TensorSource, range: &TensorRange) -> Result<(), FormatError> {
        let mut buffer = Vec::new();
        let mut done = 0;
        while done < range.bytes {
            let left = usize::try_from(range.bytes - done).unwrap_or(CHUNK);
            buffer.resize(left.min(CHUNK), 0);
            source
                .read_at(range.offset + done, &mut buffer)
                .map_err(FormatError::Source)?;
            self.write(&buffer)?;
            done += wide(buffer.len());
        }
        Ok(())
    }

    /// Copies a matrix with the halves of each head's rows interleaved.
    fn interleave(
        &mut self,
        source: &dyn TensorSource,
        range: &TensorRange,
        rows: usize,
        row_bytes: usize,
    ) -> Result<(), FormatError> {
        let mut head = vec![0; rows * row_bytes];
        let mut turned = Vec::with_capacity(head.len());
        for start in (0..range.bytes).step_by(head.len()) {
            source
                .read_at(range.offset + start, &mut head)
                .map_err(FormatError::Source)?;
            turned.clear();
            for stored in 0..rows {
                let from = original_row(stored, rows) * row_bytes;
                turned.extend_from_slice(&head[from..from + row_bytes]);
            }
            self.write(&turned)?;
        }
        Ok(())
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).expect("usize has at most 64 bits")
}
