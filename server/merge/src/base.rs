//! A base model's shapes.
use crate::BaseModelError;
/// Shape of one linear layer's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleShape { 
    /// Rows.
    pub out_features: usize, 
    /// Columns.
    pub in_features: usize }
/// A base model.
#[derive(Debug, Clone)]
pub struct BaseModel {}
impl BaseModel {
    /// Reads.
    pub fn from_config_json(_: &[u8]) -> Result<Self, BaseModelError> { todo!() }
    /// Name.
    pub fn architecture(&self) -> &str { todo!() }
    /// Layers.
    pub fn layers(&self) -> u32 { todo!() }
    /// Width.
    pub fn hidden_size(&self) -> u32 { todo!() }
    /// Label.
    pub fn name_or_path(&self) -> Option<&str> { todo!() }
    /// Shape.
    pub fn module_shape(&self, _path: &str) -> Option<ModuleShape> { todo!() }
}
