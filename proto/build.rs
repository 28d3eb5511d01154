//! Compiles the protos with protox, so that no protoc is needed.

use std::path::PathBuf;

use prost::Message as _;

const PROTOS: &[&str] = &[
    "kmerge/v1/common.proto",
    "kmerge/v1/adapter.proto",
    "kmerge/v1/job.proto",
    "kmerge/v1/slot.proto",
    "kmerge/v1/base_model.proto",
    "kmerge/v1/runtime.proto",
    "kmerge/v1/admin.proto",
];

#[expect(
    clippy::disallowed_methods,
    reason = "a build script writes to OUT_DIR"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    for proto in PROTOS {
        println!("cargo::rerun-if-changed={proto}");
    }
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("kmerge_v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Chunks are handed on without a copy.
        .bytes(".kmerge.v1.UploadAdapterRequest")
        .bytes(".kmerge.v1.BackupChunk")
        .bytes(".kmerge.v1.ExportChunk")
        .compile_fds(descriptors)?;
    Ok(())
}
