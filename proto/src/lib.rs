//! The contract between `kmerged` and everyone who talks to it.
//!
//! The protos under `kmerge/v1/` are the source; this crate holds the code generated from them,
//! their descriptor set, and the limits that both sides must agree on. It has no logic.

pub mod limits;

/// Messages, clients and servers of the package `kmerge.v1`.
#[allow(missing_docs, missing_debug_implementations, clippy::all)]
pub mod v1 {
    tonic::include_proto!("kmerge.v1");
}

/// The compiled `FileDescriptorSet` of `kmerge.v1`, for reflection and for generic rendering.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("kmerge_v1");
