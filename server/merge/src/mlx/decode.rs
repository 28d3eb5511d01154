//! From an adapter of mlx-lm to a layout: pairs, shapes, scaling. No value is read.

use std::collections::BTreeMap;

use super::config::Config;
use crate::arrange::{Arrangement, Order};
use crate::header::{self, Shape, TensorEntry};
use crate::peft::{Factor, Pair};
use crate::{
    AdapterError, AdapterLayout, BaseModel, Decoded, Evidence, MlxError, ModuleLayout, TensorRange,
    TensorSource, compare_paths,
};

/// Reads mlx-lm's `adapter_config.json` and the header of its `adapters.safetensors`.
///
/// # Errors
///
/// Everything that is malformed, unsupported or made for another base model, and everything that
/// mlx-lm itself would not load; see [`AdapterError`].
pub fn decode(
    config: &[u8],
    source: &dyn TensorSource,
    base: &BaseModel,
) -> Result<Decoded, AdapterError> {
    let config = Config::parse(config)?;
    if !base.is_in_mlx() {
        return Err(MlxError::UnknownBase {
            architecture: base.architecture().to_owned(),
        }
        .into());
    }
    let mut tensors = header::read(source)?;
    tensors.iter_mut().for_each(turn);
    let mut pairs = BTreeMap::<&str, Pair<'_>>::new();
    for tensor in &tensors {
        let (path, factor) = parse(&tensor.name)?;
        pairs.entry(path).or_default().add(path, factor, tensor)?;
    }
    let mut modules = Vec::new();
    let mut orders = Vec::new();
    for (path, pair) in pairs {
        let module = module(path, &pair, &config, base)?;
        let ModuleLayout {
            rank,
            in_features,
            out_features,
            ..
        } = module;
        orders.push(transposed(module.a, [in_features, rank]));
        orders.push(transposed(module.b, [rank, out_features]));
        modules.push(module);
    }
    if modules.is_empty() {
        return Err(AdapterError::NoModules);
    }
    modules.sort_by(|l, r| compare_paths(&l.path, &r.path));
    Ok(Decoded {
        layout: AdapterLayout { modules },
        warnings: Vec::new(),
        arrangement: Arrangement::new(orders),
    })
}

/// Gives a matrix the shape that PEFT gives it.
fn turn(tensor: &mut TensorEntry) {
    if let &[rows, columns] = tensor.shape.as_slice() {
        tensor.shape = Shape::new(&[columns, rows]);
    }
}

fn transposed(range: TensorRange, [rows, columns]: [usize; 2]) -> (TensorRange, Order) {
    let element = range.dtype.size_bytes();
    let order = Order::Transposed {
        rows,
        columns,
        element,
    };
    (range, order)
}

/// Takes a name apart, or says what it is instead of a factor.
fn parse(name: &str) -> Result<(&str, Factor), AdapterError> {
    let unknown = || MlxError::UnknownTensor {
        name: name.to_owned(),
    };
    let (path, leaf) = name.rsplit_once('.').ok_or_else(unknown)?;
    let factor = match leaf {
        "lora_a" => Factor::A,
        "lora_b" => Factor::B,
        "m" => {
            return Err(AdapterError::Dora {
                evidence: Evidence::Tensor(name.to_owned()),
            });
        }
        "weight" | "bias" => {
            return Err(AdapterError::FullTensor {
                name: name.to_owned(),
            });
        }
        _ => return Err(unknown().into()),
    };
    match path.rsplit('.').next() {
        Some("embed_tokens" | "lm_head" | "embed_in" | "embed_out") => {
            Err(AdapterError::EmbeddingOrHead {
                name: name.to_owned(),
            })
        }
        _ if path.is_empty() => Err(unknown().into()),
        _ => Ok((path, factor)),
    }
}

fn module(
    path: &str,
    pair: &Pair<'_>,
    config: &Config,
    base: &BaseModel,
) -> Result<ModuleLayout, AdapterError> {
    let pair = pair.complete(path)?;
    let Some((own, layer, inside)) = base.path_of_mlx(path) else {
        return Err(AdapterError::ModuleNotInBase {
            module: path.to_owned(),
            architecture: base.architecture().to_owned(),
            layers: base.layers(),
        });
    };
    let module = pair.module(own, config.scale, base)?;
    if module.rank != config.rank {
        return Err(AdapterError::ConfigRank {
            module: module.path,
            tensors: module.rank,
            config: config.rank,
            key: "lora_parameters.rank",
        });
    }
    if !config.has(inside, path) {
        return Err(MlxError::OutsideKeys {
            module: path.to_owned(),
        }
        .into());
    }
    match config.layers {
        Some(num_layers) if u64::from(base.layers() - layer) > num_layers => {
            Err(MlxError::OutsideLayers {
                module: path.to_owned(),
                num_layers,
            }
            .into())
        }
        _ => Ok(module),
    }
}
