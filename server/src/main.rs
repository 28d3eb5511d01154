//! The kmerge daemon.
fn main() {}
