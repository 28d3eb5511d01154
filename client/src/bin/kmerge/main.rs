//! The kmerge command line.
fn main() {}
