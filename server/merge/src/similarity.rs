//! Similarity.
use crate::{AdapterView, MergeError};
use serde::{Deserialize, Serialize};
/// ‖D‖ of each module of one stored slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModuleNorms(Vec<f32>);
/// Similarity.
pub fn similarity(_a: AdapterView<'_>, _b: AdapterView<'_>) -> Result<f64, MergeError> { todo!() }
