//! The fuzzer of the target `base_model`; see `targets`.

#![no_main]

libfuzzer_sys::fuzz_target!(init: kmerge_fuzz::begin("base_model"), |input: &[u8]| {
    kmerge_fuzz::within_a_second(kmerge_fuzz::targets::base_model, input)
});
