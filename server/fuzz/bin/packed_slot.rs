//! The fuzzer of the target `packed_slot`; see `targets`.

#![no_main]

libfuzzer_sys::fuzz_target!(init: kmerge_fuzz::begin("packed_slot"), |input: &[u8]| {
    kmerge_fuzz::within_a_second(kmerge_fuzz::targets::packed_slot, input)
});
