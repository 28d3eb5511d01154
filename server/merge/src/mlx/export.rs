//! Writing an adapter for mlx-lm: the same bytes for the same input, one tensor in memory.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::arrange::{Arrangement, Order};
use crate::{
    AdapterLayout, AdapterView, BaseModel, FormatError, ModuleLayout, TensorRange, TensorSink,
    TensorSource,
};

/// The data starts at a multiple of this, so that mapped factors are aligned.
const ALIGNMENT: usize = 8;

/// What an adapter for mlx-lm says of itself beside its factors.
#[derive(Debug, Clone, Copy)]
pub struct MlxFacts<'a> {
    /// The name under which runtimes serve the base model.
    pub base_model: &'a str,
}

/// Writes `adapter_config.json`: sorted keys, indented by 2, a newline at the end.
///
/// # Errors
///
/// [`FormatError::NoMlxModule`] and [`FormatError::SeveralScales`].
pub fn export_config(
    layout: &AdapterLayout,
    base: &BaseModel,
    facts: MlxFacts<'_>,
) -> Result<Vec<u8>, FormatError> {
    let mut keys = BTreeSet::new();
    for module in &layout.modules {
        keys.insert(mlx_path(module, base)?.1);
    }
    let (rank, scale) = one_scale(layout)?;
    // serde_json keeps the order of insertion here; the macro's keys are sorted by hand.
    let config = json!({
        "fine_tune_type": "lora",
        "lora_parameters": {
            "dropout": 0.0,
            "keys": keys.into_iter().map(Value::from).collect::<Vec<_>>(),
            "rank": rank,
            "scale": scale,
        },
        "model": facts.base_model,
        "num_layers": base.layers(),
    });
    let mut text =
        serde_json::to_vec_pretty(&config).expect("strings and numbers always serialise");
    text.push(b'\n');
    Ok(text)
}

/// Writes `adapters.safetensors`.
///
/// # Errors
///
/// As [`export_config`], before anything is written; [`FormatError::Source`] and
/// [`FormatError::Sink`] from reading and writing.
pub fn export(
    view: AdapterView<'_>,
    base: &BaseModel,
    sink: &mut dyn TensorSink,
) -> Result<(), FormatError> {
    one_scale(view.layout)?;
    let mut header = String::from(r#"{"__metadata__":{"format":"mlx"}"#);
    let mut end = 0;
    for module in &view.layout.modules {
        let (path, _) = mlx_path(module, base)?;
        let &ModuleLayout {
            rank,
            in_features,
            out_features,
            ..
        } = module;
        for (leaf, range, shape) in [
            ("lora_a", &module.a, [in_features, rank]),
            ("lora_b", &module.b, [rank, out_features]),
        ] {
            let begin = end;
            end += range.bytes;
            let name = Value::String(format!("{path}.{leaf}"));
            let ([rows, columns], dtype) = (shape, range.dtype);
            header.push_str(&format!(
                r#",{name}:{{"dtype":"{dtype}","shape":[{rows},{columns}],"data_offsets":[{begin},{end}]}}"#,
            ));
        }
    }
    header.push('}');
    while !header.len().is_multiple_of(ALIGNMENT) {
        header.push(' ');
    }
    let length = u64::try_from(header.len()).expect("usize has at most 64 bits");
    let mut write = |bytes: &[u8]| sink.write(bytes).map_err(FormatError::Sink);
    write(&length.to_le_bytes())?;
    write(header.as_bytes())?;
    for module in &view.layout.modules {
        let &ModuleLayout {
            rank,
            in_features,
            out_features,
            ..
        } = module;
        write(&transposed(view.source, &module.a, [rank, in_features])?)?;
        write(&transposed(view.source, &module.b, [out_features, rank])?)?;
    }
    Ok(())
}

/// The module's whole path in mlx-lm and the path inside its block.
fn mlx_path(
    module: &ModuleLayout,
    base: &BaseModel,
) -> Result<(String, &'static str), FormatError> {
    base.mlx_path(&module.path)
        .ok_or_else(|| FormatError::NoMlxModule {
            architecture: base.architecture().to_owned(),
        })
}

/// The rank and scaling that all modules share.
fn one_scale(layout: &AdapterLayout) -> Result<(usize, f64), FormatError> {
    let of = |module: &ModuleLayout| (module.rank, module.scaling);
    let Some(first) = layout.modules.first().map(of) else {
        return Ok((1, 1.0));
    };
    match layout.modules.iter().find(|module| of(module) != first) {
        None => Ok(first),
        Some(other) => Err(FormatError::SeveralScales {
            module: other.path.clone(),
            rank: other.rank,
            scaling: other.scaling,
            format: "mlx-lm",
        }),
    }
}

/// A matrix of that shape with its rows and columns exchanged.
fn transposed(
    source: &dyn TensorSource,
    range: &TensorRange,
    [rows, columns]: [usize; 2],
) -> Result<Vec<u8>, FormatError> {
    let element = range.dtype.size_bytes();
    let order = Order::Transposed {
        rows,
        columns,
        element,
    };
    let mut bytes = vec![0; rows * columns * element];
    Arrangement::new([(*range, order)])
        .apply(source)
        .read_at(range.offset, &mut bytes)
        .map_err(FormatError::Source)?;
    Ok(bytes)
}
