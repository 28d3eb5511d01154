//! PEFT.
use crate::*;
/// File name.
pub const EXPORT_TENSORS: &str = "adapter_model.safetensors";
/// File name.
pub const EXPORT_CONFIG: &str = "adapter_config.json";
/// Decoded.
#[derive(Debug, Clone)]
pub struct Decoded { 
    /// Layout.
    pub layout: AdapterLayout, 
    /// Warnings.
    pub warnings: Vec<String> }
/// Decodes.
pub fn decode(_config: &[u8], _source: &dyn TensorSource, _base: &BaseModel) -> Result<Decoded, AdapterError> { todo!() }
/// Checks.
pub fn check_values(_view: AdapterView<'_>) -> Result<(), AdapterError> { todo!() }
/// Decodes.
pub fn decode_slot(_source: &dyn TensorSource) -> Result<AdapterLayout, AdapterError> { todo!() }
/// Exports.
pub fn export_config(_layout: &AdapterLayout, _served_as: &str) -> Vec<u8> { todo!() }
