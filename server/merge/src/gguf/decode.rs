//! From a GGUF LoRA to a layout: what it is for, pairs, ranks, shapes, scaling. No value is read.

use std::collections::BTreeMap;

use super::header::{Header, Keys};
use super::key;
use crate::arrange::{Arrangement, Order};
use crate::header::TensorEntry;
use crate::json::printable;
use crate::peft::{Factor, MAX_ALPHA, MIN_ALPHA, Pair};
use crate::{
    AdapterError, AdapterLayout, BaseModel, Decoded, GgufError, ModuleLayout, TensorSource,
    compare_paths,
};

/// What follows the name of the base model's tensor.
const SUFFIXES: [(&str, Factor); 2] = [(".lora_a", Factor::A), (".lora_b", Factor::B)];

/// Reads the header of a GGUF LoRA.
///
/// The scaling of a module is alpha divided by its own rank; an alpha of 0 or none is llama.cpp's
/// way to say 1.
///
/// # Errors
///
/// Everything that is malformed, unsupported or made for another base model; see [`AdapterError`].
pub fn decode(source: &dyn TensorSource, base: &BaseModel) -> Result<Decoded, AdapterError> {
    let Header { keys, tensors } = Header::read(source)?;
    check_kind(&keys, base)?;
    let alpha = alpha(&keys)?;
    let mut pairs = BTreeMap::<&str, Pair<'_>>::new();
    for tensor in &tensors {
        let (weight, factor) = parse(&tensor.name)?;
        pairs
            .entry(weight)
            .or_default()
            .add(weight, factor, tensor)?;
    }
    let mut modules = Vec::new();
    let mut orders = Vec::new();
    for (weight, pair) in pairs {
        let (module, order) = module(weight, &pair, alpha, base)?;
        orders.extend(order.map(|order| (module.b, order)));
        modules.push(module);
    }
    if modules.is_empty() {
        return Err(AdapterError::NoModules);
    }
    modules.sort_by(|l, r| compare_paths(&l.path, &r.path));
    Ok(Decoded {
        layout: AdapterLayout { modules },
        warnings: warnings(&keys)?,
        arrangement: Arrangement::new(orders),
    })
}

fn check_kind(keys: &Keys, base: &BaseModel) -> Result<(), AdapterError> {
    let need = |key: &'static str, remedy: &'static str| {
        keys.text(key)?.ok_or_else(|| GgufError::MissingKey {
            key: key.to_owned(),
            remedy,
        })
    };
    match need(key::TYPE, "send a LoRA that llama.cpp can load")? {
        "adapter" => {}
        other => {
            let got = printable(other, 32);
            return Err(GgufError::NotAnAdapter { got }.into());
        }
    }
    match need(
        key::ADAPTER_TYPE,
        "convert the LoRA with a current llama.cpp",
    )? {
        "lora" => {}
        other => {
            let got = printable(other, 32);
            return Err(GgufError::AdapterType { got }.into());
        }
    }
    if keys.has(key::INVOCATION) {
        return Err(GgufError::Activated.into());
    }
    let got = need(
        key::ARCHITECTURE,
        "convert the LoRA with a current llama.cpp",
    )?;
    let expected = base.gguf_architecture();
    if got != expected {
        let got = printable(got, 32);
        return Err(GgufError::Architecture { got, expected }.into());
    }
    Ok(())
}

/// Alpha; none stands for a scaling of 1.
fn alpha(keys: &Keys) -> Result<Option<f64>, GgufError> {
    match keys.float(key::ALPHA)? {
        None | Some(0.0) => Ok(None),
        Some(alpha) if (MIN_ALPHA..=MAX_ALPHA).contains(&alpha) => Ok(Some(alpha)),
        Some(got) => Err(GgufError::Alpha {
            got,
            lowest: MIN_ALPHA,
            highest: MAX_ALPHA,
        }),
    }
}

/// Takes a name apart, or says what it is instead of a factor.
fn parse(name: &str) -> Result<(&str, Factor), AdapterError> {
    let found = SUFFIXES
        .into_iter()
        .find_map(|(suffix, factor)| Some((name.strip_suffix(suffix)?, factor)));
    let Some((weight, factor)) = found else {
        let name = name.to_owned();
        // llama.cpp steps over the norms that some adapters carry, and with them over what they do.
        return Err(if name.ends_with(".weight") || name.ends_with(".bias") {
            AdapterError::FullTensor { name }
        } else {
            GgufError::UnknownTensor { name }.into()
        });
    };
    match weight {
        "token_embd.weight" | "output.weight" => Err(AdapterError::EmbeddingOrHead {
            name: name.to_owned(),
        }),
        "" => Err(GgufError::UnknownTensor {
            name: name.to_owned(),
        }
        .into()),
        _ => Ok((weight, factor)),
    }
}

/// One module, and how the rows of its B are stored.
fn module(
    weight: &str,
    pair: &Pair<'_>,
    alpha: Option<f64>,
    base: &BaseModel,
) -> Result<(ModuleLayout, Option<Order>), AdapterError> {
    let pair = pair.complete(weight)?;
    let Some(path) = base.path_of_gguf(weight) else {
        let (name, architecture) = (weight.to_owned(), base.architecture().to_owned());
        return Err(if base.lacks_gguf_forms() {
            GgufError::NoForm { name, architecture }.into()
        } else {
            AdapterError::ModuleNotInBase {
                module: name,
                architecture,
                layers: base.layers(),
            }
        });
    };
    let rank = f64::from(u32::try_from(pair.rank).expect("bounded by MAX_RANK"));
    let scaling = alpha.map_or(1.0, |alpha| alpha / rank);
    let module = pair.module(path, scaling, base)?;
    let heads = base.gguf_module(&module.path).and_then(|found| found.heads);
    let order = heads
        .map(|heads| interleaved(&module, heads, pair.b))
        .transpose()?;
    Ok((module, order))
}

fn interleaved(module: &ModuleLayout, heads: usize, b: &TensorEntry) -> Result<Order, GgufError> {
    let rows = module.out_features / heads;
    if !rows.is_multiple_of(2) {
        let module = module.path.clone();
        return Err(GgufError::OddHead { module, rows });
    }
    Ok(Order::Interleaved {
        rows,
        row_bytes: module.rank * b.range.dtype.size_bytes(),
    })
}

fn warnings(keys: &Keys) -> Result<Vec<String>, GgufError> {
    let prompt = keys.text(key::PROMPT_PREFIX)?;
    Ok(prompt
        .filter(|prompt| !prompt.is_empty())
        .map(|prompt| {
            format!(
                "the GGUF LoRA asks for the prompt prefix \"{}\", which is not kept",
                printable(prompt, 64)
            )
        })
        .into_iter()
        .collect())
}
