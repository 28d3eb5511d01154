//! A copy of a base model with one adapter worked into its weights, for runtimes that load no
//! adapters at all.
//!
//! 1. The adapter and the headers of all of the base's files are read, and compared: every module
//!    must be there once, in the right shape.
//! 2. Each file is copied front to back into a temporary directory beside the target; the weights of
//!    adapted modules become W + B·A, computed in f32 and rounded to the type that they had.
//! 3. The temporary directory takes the target's name by rename.
//!
//! What always holds: headers are copied as they are, so every tensor keeps its name, type, shape
//! and place; besides the two factors of one module no more than a block of rows is in memory; a
//! failure leaves nothing.

mod numbers;
mod safetensors;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::failure::Failure;
use crate::files;
use numbers::Kind;
use safetensors::{Container, Entry};

/// Bytes of a weight, or of what is only copied, that are in memory at once.
const BLOCK: usize = 1 << 20;
/// How the names of files with weights end.
const SAFETENSORS: &str = "safetensors";
/// Weights in forms that are not read: to copy them would be to give the base back as it was.
const OTHER_WEIGHTS: [&str; 7] = ["bin", "gguf", "h5", "msgpack", "onnx", "pt", "pth"];

/// What was made.
#[derive(Debug)]
pub(crate) struct Baked {
    /// Where it is.
    pub(crate) directory: PathBuf,
    /// How many weights have changed.
    pub(crate) modules: usize,
    /// How many tensors there are in all.
    pub(crate) tensors: usize,
    /// Bytes of all files with weights.
    pub(crate) bytes: u64,
}

/// One module's factors, in the adapter's file.
#[derive(Debug)]
struct Factors {
    a: Entry,
    b: Entry,
}

/// Works the adapter in a PEFT directory into a copy of `base`, a safetensors file or a directory
/// of them, which becomes the directory `into`.
pub(crate) fn bake(adapter: &Path, base: &Path, into: &Path) -> Result<Baked, Failure> {
    check_config(&adapter.join("adapter_config.json"))?;
    let adapter = Container::open(&adapter.join("adapter_model.safetensors"))?;
    let factors = factors(&adapter)?;
    let (weights, others) = list(base)?;
    let shards = weights
        .iter()
        .map(|path| Container::open(path))
        .collect::<Result<Vec<_>, _>>()?;
    check(&factors, &shards, base)?;

    let target = std::path::absolute(into).map_err(|error| failed("find", into, &error))?;
    if target.exists() {
        return Err(
            Failure::failed("TARGET_EXISTS", format!("{} exists", target.display()))
                .hint("name a directory that does not exist"),
        );
    }
    let parent = target
        .parent()
        .ok_or_else(|| Failure::usage("the target has no name"))?;
    files::create_directories(parent)?;
    let room = tempfile::Builder::new()
        .prefix(".kmerge-pull-")
        .tempdir_in(parent)
        .map_err(|error| failed("create a directory in", parent, &error))?;
    let whole = room.path().join("model");
    files::create_directories(&whole)?;
    let mut baked = Baked {
        directory: target.clone(),
        modules: factors.len(),
        tensors: 0,
        bytes: 0,
    };
    for (path, shard) in weights.iter().zip(&shards) {
        let name = path.file_name().unwrap_or_default();
        copy(shard, &adapter, &factors, &whole.join(name))?;
        baked.tensors += shard.entries.len();
        baked.bytes += shard.bytes;
    }
    for path in others {
        files::copy(&path, &whole.join(path.file_name().unwrap_or_default()))?;
    }
    files::rename(&whole, &target)?;
    Ok(baked)
}

fn failed(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::system(&format!("{verb} {}", path.display()), error)
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::failed("WEIGHTS", format!("{}: {why}", path.display()))
}

/// What the daemon serves is in normal form: the scaling is in the factors.
fn check_config(path: &Path) -> Result<(), Failure> {
    let config: Value = serde_json::from_slice(&files::read(path)?)
        .map_err(|error| unusable(path, format!("is not JSON: {error}")))?;
    let is_plain = |key: &str| {
        config[key]
            .as_object()
            .is_none_or(serde_json::Map::is_empty)
    };
    let normal = config["r"].as_u64().is_some()
        && config["r"] == config["lora_alpha"]
        && config["use_rslora"] != true
        && is_plain("rank_pattern")
        && is_plain("alpha_pattern");
    if normal {
        Ok(())
    } else {
        Err(unusable(path, "is not an adapter as kmerged serves it"))
    }
}

/// The adapter's modules by path.
fn factors(adapter: &Container) -> Result<BTreeMap<String, Factors>, Failure> {
    let mut factors = BTreeMap::new();
    for entry in &adapter.entries {
        let name = entry.name.strip_prefix("base_model.model.");
        let Some(path) = name.and_then(|name| name.strip_suffix(".lora_A.weight")) else {
            continue;
        };
        let b = format!("base_model.model.{path}.lora_B.weight");
        let pair = adapter.entry(&b).map(|b| Factors {
            a: entry.clone(),
            b: b.clone(),
        });
        let pair = pair.filter(|pair| pair.rank().is_some());
        let pair = pair
            .ok_or_else(|| unusable(&adapter.path, format!("has no pair of factors for {path}")))?;
        factors.insert(path.to_owned(), pair);
    }
    if factors.len() * 2 != adapter.entries.len() || factors.is_empty() {
        let why = "has other tensors than pairs of factors";
        return Err(unusable(&adapter.path, why));
    }
    Ok(factors)
}

impl Factors {
    /// The rank, if A and B are matrices that agree on it.
    fn rank(&self) -> Option<usize> {
        match (self.a.shape.as_slice(), self.b.shape.as_slice()) {
            (&[rank, inner], &[outer, other]) if rank == other && rank * inner * outer > 0 => {
                Some(rank)
            }
            _ => None,
        }
    }

    /// The shape of the weight that they change.
    fn weight(&self) -> [usize; 2] {
        [self.b.shape[0], self.a.shape[1]]
    }
}

/// The base's files with weights, in order of name, and the others that belong to the model.
fn list(base: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Failure> {
    if !base.is_dir() {
        return Ok((vec![base.to_owned()], Vec::new()));
    }
    let extension = |path: &Path| {
        let extension = path.extension().unwrap_or_default();
        extension.to_string_lossy().to_ascii_lowercase()
    };
    let (weights, others): (Vec<_>, Vec<_>) = files::list(base)?
        .into_iter()
        .filter(|path| path.is_file())
        .filter(|path| !OTHER_WEIGHTS.contains(&extension(path).as_str()))
        .partition(|path| extension(path) == SAFETENSORS);
    if weights.is_empty() {
        return Err(unusable(base, "has no safetensors files")
            .hint("name the directory of the model's weights with --base-weights"));
    }
    Ok((weights, others))
}

/// Every module must be there once, in the right shape and in a type that can be computed with.
fn check(
    factors: &BTreeMap<String, Factors>,
    shards: &[Container],
    base: &Path,
) -> Result<(), Failure> {
    for (path, pair) in factors {
        let name = format!("{path}.weight");
        let found: Vec<&Entry> = shards
            .iter()
            .filter_map(|shard| shard.entry(&name))
            .collect();
        let why = match found.as_slice() {
            [] => format!("has no {name}"),
            [entry] if entry.shape != pair.weight() => format!(
                "has {name} of {:?}, and the adapter fits {:?}",
                entry.shape,
                pair.weight()
            ),
            [entry] if Kind::of(&entry.dtype).is_none() => format!(
                "has {name} as {}; F32, F16 and BF16 can be worked into",
                entry.dtype
            ),
            [_] => continue,
            _ => format!("has {name} more than once"),
        };
        return Err(unusable(base, why).hint("name the weights of the adapter's own base model"));
    }
    Ok(())
}

/// Copies one file, with the weights of adapted modules changed.
fn copy(
    shard: &Container,
    adapter: &Container,
    factors: &BTreeMap<String, Factors>,
    to: &Path,
) -> Result<(), Failure> {
    let file = files::create(to)?;
    let mut out = BufWriter::with_capacity(BLOCK, &file);
    let write = |out: &mut BufWriter<&File>, bytes: &[u8]| {
        out.write_all(bytes)
            .map_err(|error| failed("write", to, &error))
    };
    write(&mut out, &shard.head)?;
    let mut block = Vec::new();
    for entry in &shard.entries {
        let pair = entry
            .name
            .strip_suffix(".weight")
            .and_then(|path| factors.get(path));
        let Some((pair, kind)) = pair.zip(Kind::of(&entry.dtype)) else {
            let mut done = 0;
            while done < entry.bytes {
                let left = usize::try_from(entry.bytes - done).unwrap_or(BLOCK);
                block.resize(left.min(BLOCK), 0);
                shard.read(entry, done, &mut block)?;
                write(&mut out, &block)?;
                done += u64::try_from(block.len()).expect("a block is small");
            }
            continue;
        };
        let [rows, columns] = pair.weight();
        let (a, b) = (adapter.values(&pair.a)?, adapter.values(&pair.b)?);
        let rank = pair.a.shape[0];
        let row_bytes = columns * kind.size();
        let at_once = (BLOCK / row_bytes.max(1)).max(1);
        let mut values = Vec::new();
        let mut update = vec![0.0; columns];
        for first in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - first);
            block.resize(count * row_bytes, 0);
            let place = u64::try_from(first * row_bytes).expect("inside a file");
            shard.read(entry, place, &mut block)?;
            kind.widen(&block, &mut values);
            for (row, values) in (first..).zip(values.chunks_exact_mut(columns.max(1))) {
                update.fill(0.0);
                for (weight, a) in b[row * rank..][..rank].iter().zip(a.chunks_exact(columns)) {
                    for (update, a) in update.iter_mut().zip(a) {
                        *update += weight * a;
                    }
                }
                for (value, update) in values.iter_mut().zip(&update) {
                    *value += update;
                }
            }
            if !kind.narrow(&values, &mut block) {
                let why = format!("{} would hold what {} cannot", entry.name, entry.dtype);
                return Err(unusable(&shard.path, why));
            }
            write(&mut out, &block)?;
        }
    }
    out.flush().map_err(|error| failed("write", to, &error))?;
    drop(out);
    file.sync_all().map_err(|error| failed("sync", to, &error))
}
