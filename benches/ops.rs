//! The operations between matrix products: `cargo bench -p lapwing-benches --bench ops [-- FILTER]`, on one
//! thread at the best instruction set (`LAPWING_ISA` names another). Throughput counts values, or scores for
//! attention.

use _core::ops::attention::{Scores, Scratch, attention};
use _core::ops::kv::{KV_BLOCK, KvBlocks, KvShape, KvType, Sequence, Sequences};
use _core::ops::norm::{Norm, NormKind};
use _core::ops::rotary::{Angles, rotate};
use _core::simd::{Activation, activate};
use _core::threads::Pool;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}

fn norm(c: &mut Criterion) {
    let (pool, mut group) = (Pool::new(1), c.benchmark_group("norm"));
    for (name, kind) in [("rms", NormKind::Rms), ("layer", NormKind::Layer)] {
        for width in [384, 2048] {
            let bias = if kind == NormKind::Layer { values(width) } else { Vec::new() };
            let norm = Norm { kind, eps: 1e-5, weight: values(width), bias };
            let (x, mut out) = (values(16 * width), vec![0.0; 16 * width]);
            group.throughput(Throughput::Elements(x.len() as u64));
            group.bench_function(BenchmarkId::new(name, width), |b| {
                pool.run_alone(|team| b.iter(|| norm.normalize(team, &x, width, &mut out)));
            });
        }
    }
}

fn activation(c: &mut Criterion) {
    let mut group = c.benchmark_group("activation");
    let x = values(8192);
    group.throughput(Throughput::Elements(x.len() as u64));
    for kind in [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu] {
        let mut out = x.clone();
        group.bench_function(format!("{kind:?}"), |b| {
            b.iter(|| {
                out.copy_from_slice(&x);
                activate(kind, &mut out);
            });
        });
    }
}

fn rotary(c: &mut Criterion) {
    let (pool, mut group) = (Pool::new(1), c.benchmark_group("rotary"));
    let (rows, heads, dim) = (16, 32, 64);
    let frequencies: Vec<f64> = (0..dim / 2).map(|j| 10_000f64.powf(-2.0 * j as f64 / dim as f64)).collect();
    for (name, interleaved) in [("halves", false), ("pairs", true)] {
        let mut angles = Angles::default();
        angles.clear(dim / 2, interleaved);
        (0..rows).for_each(|position| angles.push(position, &frequencies, 1.0));
        let mut x = values(rows * heads * dim);
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function(name, |b| {
            pool.run_alone(|team| b.iter(|| rotate(team, &mut x, heads, dim, &angles)));
        });
    }
}

/// Queries after a context: one is decoding, many are a prompt.
fn attend(c: &mut Criterion) {
    let (pool, mut group) = (Pool::new(1), c.benchmark_group("attention"));
    let (heads, kv_heads, dim) = (32, 8, 64);
    for kv_type in [KvType::F32, KvType::F16, KvType::Q8] {
        for (queries, length) in [(1, 512), (1, 4096), (512, 512)] {
            let blocks = usize::div_ceil(length, KV_BLOCK);
            let mut kv = KvBlocks::new(KvShape::equal(kv_heads, dim), kv_type);
            kv.grow(blocks).expect("small");
            let tables = [(0..blocks as u32).collect()];
            let states = values(length * kv_heads * dim);
            let all = [Sequence { table: 0, rows: 0..length, first: 0, length }];
            kv.store(Sequences { list: &all, tables: &tables }, &states, &states);
            let last = [Sequence { table: 0, rows: 0..queries, first: length - queries, length }];
            let sequences = Sequences { list: &last, tables: &tables };
            let scores = Scores {
                heads,
                kv_heads,
                key_dim: dim,
                value_dim: dim,
                scale: 0.125,
                causal: true,
                window: None,
                softcap: None,
                distance_bias: None,
            };
            let q = values(queries * heads * dim);
            let (mut out, mut scratch) = (vec![0.0; q.len()], Scratch::default());
            let seen = (0..queries).map(|i| length - queries + i + 1).sum::<usize>();
            group.throughput(Throughput::Elements((heads * seen) as u64));
            let name = format!("{queries} queries after {}", length - queries);
            group.bench_function(BenchmarkId::new(name, kv_type.name()), |b| {
                pool.run_alone(|team| {
                    b.iter(|| attention(team, &mut scratch, &q, sequences, &kv, &scores, &mut out));
                });
            });
        }
    }
}

criterion_group!(benches, norm, activation, rotary, attend);
criterion_main!(benches);
