//! Which device computes the Gram products.
//!
//! The CPU unless the crate was built with `cuda` or `metal` and such a device is there. Everything
//! else (reading, operators, rounding) is memory-bound and stays on the CPU.

use std::sync::OnceLock;

use candle_core::Device;

/// The device, looked for once for the whole process.
pub(crate) fn compute() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let found = if cfg!(feature = "cuda") {
            Device::cuda_if_available(0)
        } else if cfg!(feature = "metal") {
            Device::metal_if_available(0)
        } else {
            Ok(Device::Cpu)
        };
        // A device that is there but unusable must not stop merges.
        found.unwrap_or(Device::Cpu)
    })
}
