//! From configuration and header to a layout: pairs, ranks, shapes, scaling. No value is read.

use std::collections::BTreeMap;

use super::MAX_RANK;
use super::config::LoraConfig;
use super::names::{self, Factor};
use crate::header::{self, TensorEntry};
use crate::{
    AdapterError, AdapterLayout, Arrangement, BaseModel, Evidence, ModuleLayout, TensorSource,
    compare_paths,
};

/// An adapter that passed every check that needs no values.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Where its factors are and how they are scaled.
    pub layout: AdapterLayout,
    /// What is odd but does no harm, in words for people.
    pub warnings: Vec<String>,
    /// How the file is to be read so that its factors are in the layout's order.
    pub arrangement: Arrangement,
}

/// Reads an adapter's `adapter_config.json` and the header of its `adapter_model.safetensors`.
///
/// The modules are those that the tensors name; `target_modules` is not trusted. A module's rank is
/// that of its tensors, and must be the one that the configuration gives it, because scaling
/// depends on it.
///
/// # Errors
///
/// Everything that is malformed, unsupported or made for another base model; see [`AdapterError`].
pub fn decode(
    config: &[u8],
    source: &dyn TensorSource,
    base: &BaseModel,
) -> Result<Decoded, AdapterError> {
    let config = LoraConfig::parse(config, base)?;
    let tensors = header::read(source)?;
    let mut modules = Vec::new();
    for (path, pair) in pairs(&tensors)? {
        modules.push(module(path, &pair.complete(path)?, &config, base)?);
    }
    if modules.is_empty() {
        return Err(AdapterError::NoModules);
    }
    modules.sort_by(|l, r| compare_paths(&l.path, &r.path));
    Ok(Decoded {
        layout: AdapterLayout { modules },
        warnings: config.warnings,
        arrangement: Arrangement::default(),
    })
}

/// The factors found for one module.
#[derive(Debug, Default)]
pub(crate) struct Pair<'a> {
    pub(crate) a: Option<&'a TensorEntry>,
    pub(crate) b: Option<&'a TensorEntry>,
}

/// Both factors, matrices that agree on their rank.
#[derive(Debug)]
pub(crate) struct Complete<'a> {
    pub(crate) a: &'a TensorEntry,
    pub(crate) b: &'a TensorEntry,
    pub(crate) rank: usize,
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
}

impl<'a> Pair<'a> {
    /// Files a tensor under its factor.
    pub(crate) fn add(
        &mut self,
        module: &str,
        factor: Factor,
        tensor: &'a TensorEntry,
    ) -> Result<(), AdapterError> {
        let place = match factor {
            Factor::A => &mut self.a,
            Factor::B => &mut self.b,
        };
        if place.replace(tensor).is_some() {
            let module = module.to_owned();
            return Err(AdapterError::DuplicateFactor {
                module,
                factor: factor.name(),
            });
        }
        Ok(())
    }

    /// Checks that both are there and belong together.
    pub(crate) fn complete(&self, module: &str) -> Result<Complete<'a>, AdapterError> {
        let need = |tensor: Option<&'a TensorEntry>, factor: Factor| {
            tensor.ok_or_else(|| AdapterError::MissingFactor {
                module: module.to_owned(),
                missing: factor.name(),
            })
        };
        let a = need(self.a, Factor::A)?;
        let b = need(self.b, Factor::B)?;
        let [rank, in_features] = matrix(a)?;
        let [out_features, b_rank] = matrix(b)?;
        if rank != b_rank {
            return Err(AdapterError::FactorRanks {
                module: module.to_owned(),
                a: rank,
                b: b_rank,
            });
        }
        if rank > MAX_RANK {
            let module = module.to_owned();
            return Err(AdapterError::RankTooLarge {
                module,
                got: rank,
                limit: MAX_RANK,
            });
        }
        Ok(Complete {
            a,
            b,
            rank,
            in_features,
            out_features,
        })
    }
}

impl Complete<'_> {
    /// The module at `path`, checked to be one that the base model has.
    pub(crate) fn module(
        &self,
        path: String,
        scaling: f64,
        base: &BaseModel,
    ) -> Result<ModuleLayout, AdapterError> {
        let &Self {
            a,
            b,
            rank,
            in_features,
            out_features,
        } = self;
        let Some(shape) = base.module_shape(&path) else {
            return Err(AdapterError::ModuleNotInBase {
                module: path,
                architecture: base.architecture().to_owned(),
                layers: base.layers(),
            });
        };
        if (shape.out_features, shape.in_features) != (out_features, in_features) {
            return Err(AdapterError::ModuleShape {
                module: path,
                out_features,
                in_features,
                base_out: shape.out_features,
                base_in: shape.in_features,
            });
        }
        Ok(ModuleLayout {
            path,
            in_features,
            out_features,
            rank,
            scaling,
            a: a.range,
            b: b.range,
        })
    }
}

fn matrix(tensor: &TensorEntry) -> Result<[usize; 2], AdapterError> {
    match *tensor.shape.as_slice() {
        [rows, columns] => Ok([rows, columns]),
        // One matrix per expert.
        [_, _, _] => Err(AdapterError::TargetParameters {
            evidence: Evidence::Tensor(tensor.name.clone()),
        }),
        ref other => Err(AdapterError::FactorDimensions {
            name: tensor.name.clone(),
            got: other.len(),
        }),
    }
}

fn pairs(tensors: &[TensorEntry]) -> Result<BTreeMap<&str, Pair<'_>>, AdapterError> {
    let mut pairs = BTreeMap::<&str, Pair<'_>>::new();
    let mut adapter: Option<&str> = None;
    for tensor in tensors {
        let name = names::parse(&tensor.name)?;
        match (adapter, name.adapter) {
            (Some(first), Some(second)) if first != second => {
                return Err(AdapterError::SeveralAdapters {
                    first: first.to_owned(),
                    second: second.to_owned(),
                });
            }
            (_, Some(found)) => adapter = Some(found),
            (_, None) => {}
        }
        pairs
            .entry(name.module)
            .or_default()
            .add(name.module, name.factor, tensor)?;
    }
    Ok(pairs)
}

fn module(
    path: &str,
    pair: &Complete<'_>,
    config: &LoraConfig,
    base: &BaseModel,
) -> Result<ModuleLayout, AdapterError> {
    let (configured, key) = config.rank(path);
    // What the base model has is said first.
    let module = pair.module(path.to_owned(), config.scaling(path, pair.rank), base)?;
    if configured != module.rank {
        return Err(AdapterError::ConfigRank {
            module: module.path,
            tensors: module.rank,
            config: configured,
            key,
        });
    }
    Ok(module)
}
