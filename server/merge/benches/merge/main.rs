//! Similarity search and each operator's whole merge at Llama-3.2-1B attention shape, beside what
//! the machine can do: reading the same bytes once, copying them, and an f32 GEMM.
//!
//! `cargo bench -p kmerge-merge --bench merge`; the ratios alone, in seconds, are printed by
//! `cargo run --release -p kmerge-merge --example ratios`.

mod progressive;
mod workload;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kmerge_merge::{Operator, SlotDtype};
use workload::{GemmScratch, Memory, OPERATORS, Workload, gemm_round, search_flop};

fn yardsticks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("yardsticks");
    let mut scratch = GemmScratch::new();
    group.bench_function("f32 gemm", |bencher| {
        bencher.iter(|| black_box(gemm_round(&mut scratch)))
    });
    for slots in [1, 2, 4, 8] {
        let workload = Workload::new(slots, SlotDtype::F32);
        let bytes = workload.newcomer.layout.tensor_bytes() * (u64::from(slots) + 1);
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(BenchmarkId::new("read once", slots), |bencher| {
            bencher.iter(|| workload.read_once());
        });
    }
    for dtype in [SlotDtype::F32, SlotDtype::F16] {
        let workload = Workload::new(1, dtype);
        let mut to = [vec![], vec![]];
        group.throughput(Throughput::Bytes(
            2 * workload.newcomer.layout.tensor_bytes(),
        ));
        group.bench_function(
            BenchmarkId::new("copy slot and newcomer", dtype),
            |bencher| {
                bencher.iter(|| workload.copy(&mut to));
            },
        );
    }
    group.finish();
}

fn search(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("search");
    for slots in [1, 2, 4, 8] {
        let workload = Workload::new(slots, SlotDtype::F32);
        let flop = search_flop(workload.slots.len());
        group.throughput(Throughput::Elements(u64::try_from(flop).expect("64 bits")));
        group.bench_function(BenchmarkId::new("gram", slots), |bencher| {
            bencher.iter(|| black_box(workload.search(Operator::KMergeLinear)));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("search, the dense way");
    group.sample_size(10);
    let workload = Workload::new(8, SlotDtype::F32);
    group.bench_function("one module of 64, 8 slots", |bencher| {
        bencher.iter(|| black_box(workload.dense_module()));
    });
    group.finish();
}

fn merge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge");
    for dtype in [SlotDtype::F32, SlotDtype::F16] {
        let workload = Workload::new(1, dtype);
        for operator in OPERATORS {
            let plan = workload.search(operator);
            let mut sink = Memory::default();
            group.bench_function(BenchmarkId::new(operator.to_string(), dtype), |bencher| {
                bencher.iter(|| workload.merge(&plan, &mut sink).expect("finite"));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, yardsticks, search, merge, progressive::progressive);
criterion_main!(benches);
