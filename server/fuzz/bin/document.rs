//! The fuzzer of the target `document`; see `targets`.

#![no_main]

libfuzzer_sys::fuzz_target!(init: kmerge_fuzz::begin("document"), |input: &[u8]| {
    kmerge_fuzz::within_a_second(kmerge_fuzz::targets::document, input)
});
