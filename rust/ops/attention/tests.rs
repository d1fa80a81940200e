use super::*;
use crate::ops::kv::{KV_BLOCK, Sequence};
use crate::ops::kv::{KvShape, KvType, Values};
use crate::threads::Pool;
use std::ops::Range;

/// Query heads, key heads, head dimension.
const SIZES: [(usize, usize, usize); 4] = [(8, 8, 16), (6, 3, 24), (8, 2, 64), (3, 1, 8)];

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 263) as f32 / 128.0 - 1.0).collect()
}

/// Stores random keys and values at some positions.
fn fill(kv: &mut KvBlocks, table: &[u32], positions: Range<usize>, seed: usize) {
    let shape = kv.shape();
    let keys = values(positions.len() * shape.heads * shape.key_dim, seed);
    let stored = values(positions.len() * shape.heads * shape.value_dim(), seed);
    let (first, length) = (positions.start, positions.end);
    let sequence = Sequence { table: 0, rows: 0..positions.len(), first, length };
    kv.store(Sequences { list: &[sequence], tables: &[table.to_vec()] }, &keys, &stored);
}

fn scores(shape: KvShape, heads: usize, window: Option<usize>) -> Scores<'static> {
    let (kv_heads, key_dim, value_dim) = (shape.heads, shape.key_dim, shape.value_dim());
    let (scale, causal, softcap, distance_bias) = (0.3, true, None, None);
    Scores { heads, kv_heads, key_dim, value_dim, scale, causal, window, softcap, distance_bias }
}

/// Outputs of `rows` rows.
fn run(
    threads: usize,
    queries: &[f32],
    sequences: Sequences<'_>,
    kv: &KvBlocks,
    scores: &Scores<'_>,
) -> Vec<f32> {
    let mut out = vec![f32::NAN; queries.len() / scores.key_dim * scores.value_dim];
    Pool::new(threads).run_alone(|team| {
        let call = Call { queries, sequences, kv, scores, shared_from: 0 };
        attend(team, &mut Scratch::default(), &call, &mut out);
    });
    out
}

/// Whether each query of a batch has the bits that it has alone on one thread, for several numbers of
/// threads.
fn equal_to_one_by_one(kv: &KvBlocks, heads: usize, window: Option<usize>, sequences: Sequences<'_>) -> bool {
    let scores = scores(kv.shape(), heads, window);
    let width = heads * scores.key_dim;
    let queries = values(sequences.list[sequences.list.len() - 1].rows.end * width, 1);
    let mut one_by_one = Vec::new();
    for s in sequences.list {
        for row in s.rows.clone() {
            let first = s.first + row - s.rows.start;
            let alone = Sequence { rows: 0..1, first, ..s.clone() };
            let alone = Sequences { list: &[alone], ..sequences };
            one_by_one.extend(run(1, &queries[row * width..][..width], alone, kv, &scores));
        }
    }
    assert!(one_by_one.iter().all(|v| v.is_finite()));
    [1, 2, 3, 8].into_iter().all(|threads| {
        let together = run(threads, &queries, sequences, kv, &scores);
        together.iter().zip(&one_by_one).all(|(a, b)| a.to_bits() == b.to_bits())
    })
}

#[test]
fn the_partition_of_the_work_does_not_change_results() {
    for (heads, kv_heads, head_dim) in SIZES {
        for (length, rows, window) in [(700, 1, None), (700, 5, Some(300)), (1100, 2, None), (90, 40, None)] {
            let mut kv = KvBlocks::new(KvShape::equal(kv_heads, head_dim), KvType::F16);
            kv.grow(2 * usize::div_ceil(length, KV_BLOCK)).expect("small");
            // Two sequences; the second one is shorter.
            let lengths = [length, length - 37];
            let tables = [0, 1].map(|i| -> Vec<u32> {
                (0..lengths[i].div_ceil(KV_BLOCK)).map(|block| (2 * block + i) as u32).collect()
            });
            let sequences = [0, 1].map(|i| {
                fill(&mut kv, &tables[i], 0..lengths[i], i);
                let (rows, length) = (i * rows..(i + 1) * rows, lengths[i]);
                Sequence { table: i, first: length - rows.len(), rows, length }
            });
            let sequences = Sequences { list: &sequences, tables: &tables };
            let equal = equal_to_one_by_one(&kv, heads, window, sequences);
            assert!(equal, "{heads} {kv_heads} {head_dim} {length} {rows}");
        }
    }
}

#[test]
fn a_shared_prefix_does_not_change_results() {
    for (heads, kv_heads, head_dim) in SIZES {
        for (shared, window) in [(9, None), (8, None), (4, None), (21, Some(90))] {
            let mut kv = KvBlocks::new(KvShape::equal(kv_heads, head_dim), KvType::F16);
            kv.grow(64).expect("small");
            // Sequences 1 to 5 share their first blocks, 0 and 6 share none; all have blocks of their own
            // behind them.
            let own = |i: usize| 22 + 6 * i as u32..28 + 6 * i as u32;
            let tables: Vec<Vec<u32>> = (0..7)
                .map(|i| if i % 6 == 0 { own(i).collect() } else { (0..shared).chain(own(i)).collect() })
                .collect();
            let start = shared as usize * KV_BLOCK;
            fill(&mut kv, &tables[1], 0..start, 11);
            let sequences: Vec<Sequence> = (0..7)
                .map(|i| {
                    let from = if i % 6 == 0 { 0 } else { start };
                    // The third one ends where the shared blocks end, so it has no block of its own.
                    let length = from + if i == 3 { 0 } else { 19 * i + 40 };
                    fill(&mut kv, &tables[i], from..length, i);
                    Sequence { table: i, rows: i..i + 1, first: length - 1, length }
                })
                .collect();
            let sequences = Sequences { list: &sequences, tables: &tables };
            let equal = equal_to_one_by_one(&kv, heads, window, sequences);
            assert!(equal, "{heads} {kv_heads} {head_dim} {shared}");
        }
    }
}

#[test]
fn blocks_of_tiles_without_a_visible_position_are_not_read() {
    let (length, window) = (1500, 200);
    for (heads, kv_heads, head_dim) in SIZES {
        for kv_type in [KvType::F32, KvType::F16, KvType::Q8] {
            let mut kv = KvBlocks::new(KvShape::equal(kv_heads, head_dim), kv_type);
            kv.grow(2 * usize::div_ceil(length, KV_BLOCK)).expect("small");
            let whole: Vec<u32> =
                (0..length.div_ceil(KV_BLOCK)).map(|block| (block * 7 % 47) as u32).collect();
            fill(&mut kv, &whole, 0..length, 3);
            let scores = scores(kv.shape(), heads, Some(window));
            // One query, a few, and more than a work item; also in the middle, where tiles follow behind the
            // visible ones.
            for (rows, end) in [(1, length), (3, length), (90, length), (1, 900), (40, 900)] {
                let first = end - rows;
                let seen = (first + 1 - window) / TILE..end.div_ceil(TILE);
                let holes = whole.iter().enumerate().map(|(block, &number)| {
                    if seen.contains(&(block * KV_BLOCK / TILE)) { number } else { u32::MAX }
                });
                let tables = [whole.clone(), holes.collect()];
                assert!(tables[1].contains(&u32::MAX));
                let queries = values(rows * heads * head_dim, 2);
                for threads in [1, 2, 8] {
                    let [all, needed] = [0, 1].map(|table| {
                        let list = [Sequence { table, rows: 0..rows, first, length: end }];
                        let sequences = Sequences { list: &list, tables: &tables };
                        run(threads, &queries, sequences, &kv, &scores)
                    });
                    assert_eq!(all, needed, "{heads} {kv_heads} {rows} {end} {threads}");
                }
                let [all, needed] = [0, 1].map(|table| {
                    let list = [Sequence { table, rows: 0..rows, first, length: end }];
                    probabilities(&queries, Sequences { list: &list, tables: &tables }, &kv, &scores)
                });
                assert_eq!(all, needed);
            }
        }
    }
}

/// Latent attention: all query heads share one key head, whose first dimensions are the values.
#[test]
fn values_in_keys_equal_a_naive_reference() {
    let shape = KvShape { heads: 1, key_dim: 24, values: Values::InKeys(16) };
    for (heads, length, rows) in [(6, 300usize, 1), (6, 300, 7), (16, 150, 150), (1, 40, 3)] {
        let mut kv = KvBlocks::new(shape, KvType::F32);
        kv.grow(length.div_ceil(KV_BLOCK)).expect("small");
        let tables = [(0..length.div_ceil(KV_BLOCK) as u32).rev().collect::<Vec<_>>()];
        fill(&mut kv, &tables[0], 0..length, 5);
        let keys = values(length * shape.key_dim, 5);
        let list = [Sequence { table: 0, rows: 0..rows, first: length - rows, length }];
        let queries = values(rows * heads * shape.key_dim, 4);
        let sequences = Sequences { list: &list, tables: &tables };
        let got = run(2, &queries, sequences, &kv, &scores(shape, heads, None));
        for ((i, q), out) in queries.chunks(shape.key_dim).enumerate().zip(got.chunks(16)) {
            let visible = keys.chunks(shape.key_dim).take(length - rows + i / heads + 1);
            let weights: Vec<f64> = visible
                .clone()
                .map(|k| {
                    (0.3 * k.iter().zip(q).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum::<f64>()).exp()
                })
                .collect();
            for (d, &v) in out.iter().enumerate() {
                let weighted: f64 = visible.clone().zip(&weights).map(|(k, w)| w * f64::from(k[d])).sum();
                // Chains of 24 products of at most 1.1, whose sums are scaled by 0.3, err by 1e-5;
                // exponentials and their sums over 300 tokens double it, twice.
                assert!((f64::from(v) - weighted / weights.iter().sum::<f64>()).abs() < 4e-5);
            }
        }
    }
}
