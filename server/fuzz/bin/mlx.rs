//! The fuzzer of the target `mlx`; see `targets`.

#![no_main]

libfuzzer_sys::fuzz_target!(init: kmerge_fuzz::begin("mlx"), |input: &[u8]| {
    kmerge_fuzz::within_a_second(kmerge_fuzz::targets::mlx, input)
});
