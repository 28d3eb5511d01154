//! Small models with adapters worked in, against W + B·A computed in f64.
#![expect(clippy::disallowed_methods, reason = "tests make their own files")]

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use serde_json::json;

use super::bake;

const ROWS: usize = 5;
const COLUMNS: usize = 7;
const RANK: usize = 2;
const MODULE: &str = "model.layers.0.self_attn.q_proj";

/// Numbers that differ, as f32.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    (0..u16::try_from(count).unwrap())
        .map(|at| ((f32::from(at) + 1.0) * (f32::from(u16::try_from(seed).unwrap()) + 0.37)).sin())
        .collect()
}

fn bytes(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let each = |value: &f32| {
        if dtype == Dtype::F16 {
            f16::from_f32(*value).to_le_bytes().to_vec()
        } else if dtype == Dtype::BF16 {
            bf16::from_f32(*value).to_le_bytes().to_vec()
        } else {
            value.to_le_bytes().to_vec()
        }
    };
    values.iter().flat_map(each).collect()
}

fn values(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    if dtype == Dtype::F16 {
        pairs()
            .map(|pair| f16::from_le_bytes(pair).to_f32())
            .collect()
    } else if dtype == Dtype::BF16 {
        pairs()
            .map(|pair| bf16::from_le_bytes(pair).to_f32())
            .collect()
    } else {
        bytes
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
            .collect()
    }
}

fn write(path: &Path, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (
            *name,
            TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
        )
    });
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

fn write_adapter(folder: &Path, module: &str) {
    let name = |factor| format!("base_model.model.{module}.lora_{factor}.weight");
    let (a, b) = (name("A"), name("B"));
    write(
        &folder.join("adapter_model.safetensors"),
        &[
            (
                &a,
                Dtype::F16,
                vec![RANK, COLUMNS],
                bytes(Dtype::F16, &numbers(RANK * COLUMNS, 3)),
            ),
            (
                &b,
                Dtype::F16,
                vec![ROWS, RANK],
                bytes(Dtype::F16, &numbers(ROWS * RANK, 4)),
            ),
        ],
    );
    let config = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": RANK});
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
}

/// A base of two files, one of which has the module.
fn write_base(folder: &Path, dtype: Dtype) {
    let weight = format!("{MODULE}.weight");
    write(
        &folder.join("model-00001-of-00002.safetensors"),
        &[
            (
                "model.norm.weight",
                dtype,
                vec![3],
                bytes(dtype, &numbers(3, 1)),
            ),
            (
                &weight,
                dtype,
                vec![ROWS, COLUMNS],
                bytes(dtype, &numbers(ROWS * COLUMNS, 2)),
            ),
        ],
    );
    let ids = (0..40).collect();
    write(
        &folder.join("model-00002-of-00002.safetensors"),
        &[("ids", Dtype::U8, vec![40], ids)],
    );
    fs::write(folder.join("config.json"), "{}").unwrap();
    fs::write(folder.join("pytorch_model.bin"), "pickle").unwrap();
}

#[test]
fn the_update_is_added_and_all_else_is_copied() {
    for (dtype, digits) in [(Dtype::F32, 1e-6), (Dtype::F16, 1e-3), (Dtype::BF16, 8e-3)] {
        let room = tempfile::tempdir().unwrap();
        let path = |name: &str| room.path().join(name);
        write_adapter(&path("adapter"), MODULE);
        write_base(&path("base"), dtype);
        let baked = bake(&path("adapter"), &path("base"), &path("deep/out")).unwrap();
        assert_eq!((baked.modules, baked.tensors), (1, 3));
        let mut names: Vec<_> = fs::read_dir(path("deep/out"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let [first, second] = [1, 2].map(|n| format!("model-0000{n}-of-00002.safetensors"));
        assert_eq!(names, ["config.json", first.as_str(), second.as_str()]);
        let read = |folder: &str, name: &str| fs::read(path(folder).join(name)).unwrap();
        assert_eq!(read("base", &second), read("deep/out", &second));

        let (before, after) = (read("base", &first), read("deep/out", &first));
        assert_eq!(before.len(), after.len());
        let (before, after) = (
            SafeTensors::deserialize(&before).unwrap(),
            SafeTensors::deserialize(&after).unwrap(),
        );
        let tensor =
            |file: &SafeTensors<'_>, name: &str| file.tensor(name).unwrap().data().to_vec();
        let norm = "model.norm.weight";
        assert_eq!(tensor(&before, norm), tensor(&after, norm));
        let weight = format!("{MODULE}.weight");
        let old = values(dtype, &tensor(&before, &weight));
        let new = values(dtype, &tensor(&after, &weight));
        let half = |values: Vec<f32>| values.into_iter().map(|v| f16::from_f32(v).to_f64());
        let a: Vec<f64> = half(numbers(RANK * COLUMNS, 3)).collect();
        let b: Vec<f64> = half(numbers(ROWS * RANK, 4)).collect();
        let mut changed = 0;
        for (at, (old, new)) in old.iter().zip(&new).enumerate() {
            let (row, column) = (at / COLUMNS, at % COLUMNS);
            let update: f64 = (0..RANK)
                .map(|k| b[row * RANK + k] * a[k * COLUMNS + column])
                .sum();
            let expected = f64::from(*old) + update;
            let error = (f64::from(*new) - expected).abs();
            assert!(
                error <= digits * expected.abs().max(1.0),
                "{at}: {new} {expected}"
            );
            changed += usize::from(old != new);
        }
        assert!(changed > ROWS * COLUMNS / 2);
        // One file will do where that is all there is.
        bake(
            &path("adapter"),
            &path("base").join(&first),
            &path("single"),
        )
        .unwrap();
        assert_eq!(read("single", &first), read("deep/out", &first));
        let again = bake(&path("adapter"), &path("base"), &path("single")).unwrap_err();
        assert_eq!(again.reason, "TARGET_EXISTS");
    }
}

#[test]
fn what_does_not_belong_together_is_refused_and_leaves_nothing() {
    let room = tempfile::tempdir().unwrap();
    let path = |name: &str| room.path().join(name);
    write_base(&path("base"), Dtype::F32);
    let refused = |why: &str| {
        let error = bake(&path("adapter"), &path("base"), &path("out")).unwrap_err();
        assert!(error.message.contains(why), "{why}: {}", error.message);
        assert!(!path("out").exists());
        assert_eq!(fs::read_dir(room.path()).unwrap().count(), 2, "{why}");
    };
    write_adapter(&path("adapter"), "model.layers.1.self_attn.q_proj");
    refused("has no model.layers.1.self_attn.q_proj.weight");
    write_adapter(&path("adapter"), MODULE);
    let config = json!({"r": RANK, "lora_alpha": 2 * RANK});
    let file = path("adapter").join("adapter_config.json");
    fs::write(&file, config.to_string()).unwrap();
    refused("not an adapter as kmerged serves it");
    write_adapter(&path("adapter"), MODULE);

    let shard = path("base").join("model-00001-of-00002.safetensors");
    let good = fs::read(&shard).unwrap();
    let weight = format!("{MODULE}.weight");
    write(
        &shard,
        &[(
            &weight,
            Dtype::F32,
            vec![COLUMNS, ROWS],
            vec![0; ROWS * COLUMNS * 4],
        )],
    );
    refused("of [7, 5], and the adapter fits [5, 7]");
    write(
        &shard,
        &[(
            &weight,
            Dtype::I8,
            vec![ROWS, COLUMNS],
            vec![0; ROWS * COLUMNS],
        )],
    );
    refused("as I8; F32, F16 and BF16 can be worked into");
    let huge = bytes(Dtype::F16, &[65_504.0; ROWS * COLUMNS]);
    let huge: Vec<u8> = huge.into_iter().collect();
    write(&shard, &[(&weight, Dtype::F16, vec![ROWS, COLUMNS], huge)]);
    // An update below half a step of 65,504 changes nothing; that is no overflow.
    bake(&path("adapter"), &path("base"), &path("out")).unwrap();
    fs::remove_dir_all(path("out")).unwrap();
    let infinite = bytes(Dtype::F16, &[f32::INFINITY; ROWS * COLUMNS]);
    write(
        &shard,
        &[(&weight, Dtype::F16, vec![ROWS, COLUMNS], infinite)],
    );
    refused("would hold what F16 cannot");
    fs::write(&shard, &good[..good.len() - 1]).unwrap();
    refused("do not end where it does");
    fs::write(&shard, &good[..7]).unwrap();
    refused("too short");
    fs::write(&shard, [&u64::MAX.to_le_bytes()[..], &good[8..]].concat()).unwrap();
    refused("header is longer");
    fs::write(&shard, &good).unwrap();
    let copy = path("base").join("model-00003.safetensors");
    fs::write(&copy, &good).unwrap();
    refused("more than once");
}
