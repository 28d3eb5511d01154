//! The fuzzer of the target `upload`; see `targets`.

#![no_main]

libfuzzer_sys::fuzz_target!(init: kmerge_fuzz::begin("upload"), |input: &[u8]| {
    kmerge_fuzz::within_a_second(kmerge_fuzz::targets::upload, input)
});
