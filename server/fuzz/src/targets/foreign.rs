//! Adapters of llama.cpp and mlx-lm: what is accepted goes to normal form and comes back from both
//! formats as the same factors, bit for bit.

use kmerge_merge::{AdapterLayout, AdapterView, BaseModel, Decoded, TensorSource, gguf, mlx};

use super::support;

pub fn check_gguf(input: &[u8]) {
    let file = input.to_vec();
    let base = support::base();
    match gguf::decode(&file, base) {
        Ok(decoded) => accepted(&decoded, &file, base),
        Err(error) => support::refused(&error),
    }
}

pub fn check_mlx(input: &[u8]) {
    let (config, tensors) = support::split(input);
    let tensors = tensors.to_vec();
    let base = support::base();
    match mlx::decode(config, &tensors, base) {
        Ok(decoded) => {
            safetensors::SafeTensors::deserialize(&tensors)
                .expect("what ours accepts, theirs accepts");
            accepted(&decoded, &tensors, base);
        }
        Err(error) => support::refused(&error),
    }
}

fn accepted(decoded: &Decoded, file: &Vec<u8>, base: &BaseModel) {
    assert!(
        decoded
            .warnings
            .iter()
            .all(|warning| !warning.contains(char::is_control))
    );
    support::layout(&decoded.layout, TensorSource::len(file));
    let arranged = decoded.arrangement.apply(file);
    let view = AdapterView {
        layout: &decoded.layout,
        source: &arranged,
    };
    let Some((layout, slot)) = support::merged(view, base) else {
        return;
    };
    let view = AdapterView {
        layout: &layout,
        source: &slot,
    };
    back_from_gguf(view, base);
    back_from_mlx(view, base);
}

fn back_from_gguf(view: AdapterView<'_>, base: &BaseModel) {
    let facts = gguf::GgufFacts {
        name: "fuzz",
        task_name: "fuzz",
        base_model: "tiny",
    };
    let mut file = Vec::new();
    gguf::export(view, base, facts, &mut file).expect("normal form can be written as GGUF");
    let decoded = gguf::decode(&file, base).expect("what was exported is read");
    same(view, &decoded, &file);
    // And what was read is written again to the last byte.
    let arranged = decoded.arrangement.apply(&file);
    let view = AdapterView {
        layout: &decoded.layout,
        source: &arranged,
    };
    let mut again = Vec::new();
    gguf::export(view, base, facts, &mut again).expect("what was read can be written");
    assert!(again == file, "GGUF changes from file to file");
}

fn back_from_mlx(view: AdapterView<'_>, base: &BaseModel) {
    let facts = mlx::MlxFacts { base_model: "tiny" };
    let config = mlx::export_config(view.layout, base, facts).expect("normal form has one scale");
    let mut file = Vec::new();
    mlx::export(view, base, &mut file).expect("normal form can be written for mlx-lm");
    let decoded = mlx::decode(&config, &file, base).expect("what was exported is read");
    same(view, &decoded, &file);
}

/// The same modules with the same bits in their factors.
fn same(view: AdapterView<'_>, decoded: &Decoded, file: &Vec<u8>) {
    let arranged = decoded.arrangement.apply(file);
    let names = |layout: &AdapterLayout| -> Vec<(String, usize, f64)> {
        let modules = layout.modules.iter();
        modules
            .map(|module| (module.path.clone(), module.rank, module.scaling))
            .collect()
    };
    assert_eq!(names(view.layout), names(&decoded.layout));
    for (old, new) in view.layout.modules.iter().zip(&decoded.layout.modules) {
        for (old, new) in [(&old.a, &new.a), (&old.b, &new.b)] {
            assert_eq!((old.dtype, old.bytes), (new.dtype, new.bytes));
            let read = |source: &dyn TensorSource, offset: u64| {
                let mut bytes = vec![0; usize::try_from(old.bytes).expect("it is in memory")];
                source.read_at(offset, &mut bytes).expect("it is in memory");
                bytes
            };
            let (before, after) = (read(view.source, old.offset), read(&arranged, new.offset));
            assert!(before == after, "a factor changes");
        }
    }
}
