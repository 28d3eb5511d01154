//! Values that training or an attacker left behind.

use kmerge_merge::AdapterErrorKind::Malformed;
use kmerge_merge::{
    AdapterError, AdapterView, Dtype, MergeError, check_values, decode, similarity,
};

use super::{check, config};
use crate::support::files::{Adapter, Module, Tensor, safetensors};
use crate::support::{tiny_base, with_threads};

fn decoded(tensors: &[Tensor]) -> Adapter {
    let bytes = safetensors(tensors);
    let layout = decode(config().to_string().as_bytes(), &bytes, &tiny_base())
        .unwrap()
        .layout;
    Adapter { layout, bytes }
}

/// Two modules of rank 2, changed by `change`.
fn changed(dtype: Dtype, change: impl Fn(&mut [Tensor])) -> Adapter {
    let modules = ["0.self_attn.q_proj", "1.self_attn.q_proj"];
    let mut tensors: Vec<Tensor> = modules
        .iter()
        .flat_map(|path| Module::random(path, [12, 12], 2, 1).tensors(dtype))
        .collect();
    change(&mut tensors);
    decoded(&tensors)
}

fn checked(adapter: &Adapter) -> Result<(), AdapterError> {
    check_values(adapter.view())
}

#[test]
fn ordinary_values_pass_in_every_dtype() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        checked(&changed(dtype, |_| ())).unwrap();
    }
    // Small values are ordinary in f16, where they are subnormal.
    let small = changed(Dtype::F16, |tensors| {
        tensors
            .iter_mut()
            .for_each(|t| t.values.iter_mut().for_each(|value| *value *= 1e-6));
    });
    checked(&small).unwrap();
}

#[test]
fn not_finite_values_are_named() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        for (value, word) in [
            (f32::NAN, "NaN"),
            (f32::INFINITY, "infinity"),
            (f32::NEG_INFINITY, "infinity"),
        ] {
            for place in 0..4 {
                let broken = changed(dtype, |tensors| {
                    *tensors[place].values.last_mut().unwrap() = value;
                });
                let error = checked(&broken).unwrap_err();
                check(&error, Malformed, "tensors", "NOT_FINITE", "value");
                let factor = ["lora_A", "lora_B"][place % 2];
                let expected = format!(
                    "layers.{}.self_attn.q_proj.{factor} holds {word}",
                    place / 2
                );
                assert!(error.to_string().contains(&expected), "{error}");
            }
        }
    }
}

#[test]
fn the_first_defect_is_reported_whatever_the_threads() {
    let broken = changed(Dtype::F32, |tensors| {
        for tensor in tensors {
            tensor.values[0] = f32::NAN;
        }
    });
    for threads in [1, 2, 4] {
        let error = with_threads(threads, || checked(&broken).unwrap_err().to_string());
        assert!(
            error.contains("layers.0.self_attn.q_proj.lora_A"),
            "{error}"
        );
    }
}

#[test]
fn masses_of_subnormal_values_are_refused() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let crafted = changed(dtype, |tensors| tensors[1].values.fill(1e-39));
        let error = checked(&crafted).unwrap_err();
        check(&error, Malformed, "tensors", "SUBNORMAL", "crafted");
    }
    // A wide module may hold a few of them.
    let wide = Module::random("0.mlp.up_proj", [20, 12], 8, 1);
    let mut tensors = wide.tensors(Dtype::F32);
    tensors[1].values[0] = 1e-39;
    let bytes = safetensors(&tensors);
    let layout = decode(b"{}", &bytes, &tiny_base()).unwrap().layout;
    check_values(AdapterView {
        layout: &layout,
        source: &bytes,
    })
    .unwrap();
}

#[test]
fn an_adapter_that_does_nothing_is_refused() {
    let zero = |places: &'static [usize]| {
        changed(Dtype::F32, move |tensors| {
            places
                .iter()
                .for_each(|&place| tensors[place].values.fill(-0.0));
        })
    };
    for places in [&[1, 3][..], &[0, 2], &[0, 3], &[0, 1, 2, 3]] {
        let error = checked(&zero(places)).unwrap_err();
        check(&error, Malformed, "tensors", "NO_EFFECT", "zero");
    }
    for places in [&[1][..], &[0], &[2, 3]] {
        checked(&zero(places)).unwrap();
    }
}

#[test]
fn a_zero_update_counts_as_nothing_in_the_mean() {
    let plain = changed(Dtype::F32, |_| ());
    let half = changed(Dtype::F32, |tensors| tensors[1].values.fill(0.0));
    let found = similarity(plain.view(), half.view()).unwrap();
    assert!(
        (found - 0.5).abs() < 1e-6,
        "one module of two agrees: {found}"
    );
    let other = decoded(&Module::random("2.self_attn.q_proj", [12, 12], 2, 1).tensors(Dtype::F32));
    assert_eq!(
        similarity(plain.view(), other.view()).unwrap(),
        0.0,
        "no module in common"
    );
}

#[test]
fn values_that_overflow_the_comparison_are_named() {
    let huge = changed(Dtype::F32, |tensors| {
        tensors
            .iter_mut()
            .for_each(|t| t.values.iter_mut().for_each(|value| *value *= 1e30));
    });
    checked(&huge).unwrap();
    let error = similarity(huge.view(), huge.view()).unwrap_err();
    assert!(
        matches!(
            error,
            MergeError::NotFinite {
                dtype: Dtype::F32,
                ..
            }
        ),
        "{error}"
    );
}
