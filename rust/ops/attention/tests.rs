use super::*;
use crate::ops::kv::KvType;
use crate::threads::Pool;

/// Heads, key heads and their width.
const SIZES: [(usize, usize, usize); 4] = [(8, 8, 16), (6, 3, 24), (8, 2, 64), (3, 1, 8)];

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 263) as f32 / 128.0 - 1.0).collect()
}

/// Stores rows from a position on.
fn fill(kv: &mut KvBlocks, table: &[u32], positions: Range<usize>, seed: usize) {
    let states = values(positions.len() * kv.kv_heads() * kv.head_dim(), seed);
    let (first, length) = (positions.start, positions.end);
    let sequence = Sequence { table: 0, rows: 0..positions.len(), first, length };
    kv.store(Sequences { list: &[sequence], tables: &[table.to_vec()] }, &states, &states);
}

/// However the work is cut, which depends on the threads and on what is computed together, each query has the bits
/// that it has alone on one thread.
fn equal_to_one_by_one(kv: &KvBlocks, heads: usize, window: Option<usize>, sequences: Sequences<'_>) -> bool {
    let (kv_heads, head_dim, scale) = (kv.kv_heads(), kv.head_dim(), 0.3);
    let (causal, softcap, distance_bias) = (true, None, None);
    let scores = Scores { heads, kv_heads, head_dim, scale, causal, window, softcap, distance_bias };
    let width = heads * head_dim;
    let queries = values(sequences.list[sequences.list.len() - 1].rows.end * width, 1);
    let run = |threads: usize, queries: &[f32], sequences: Sequences<'_>| {
        let mut out = vec![f32::NAN; queries.len()];
        Pool::new(threads).run_alone(|team| {
            let call = Call { queries, sequences, kv, scores: &scores, shared_from: 0 };
            attend(team, &mut Scratch::default(), &call, &mut out);
        });
        out
    };
    let mut one_by_one = Vec::new();
    for s in sequences.list {
        for row in s.rows.clone() {
            let first = s.first + row - s.rows.start;
            let alone = Sequence { rows: 0..1, first, ..s.clone() };
            let alone = Sequences { list: &[alone], ..sequences };
            one_by_one.extend(run(1, &queries[row * width..][..width], alone));
        }
    }
    assert!(one_by_one.iter().all(|v| v.is_finite()));
    [1, 2, 3, 8].into_iter().all(|threads| {
        let together = run(threads, &queries, sequences);
        together.iter().zip(&one_by_one).all(|(a, b)| a.to_bits() == b.to_bits())
    })
}

#[test]
fn cutting_the_work_changes_nothing() {
    for (heads, kv_heads, head_dim) in SIZES {
        for (length, rows, window) in [(700, 1, None), (700, 5, Some(300)), (1100, 2, None), (90, 40, None)] {
            let mut kv = KvBlocks::new(kv_heads, head_dim, KvType::F16);
            kv.grow(2 * usize::div_ceil(length, BLOCK)).expect("small");
            // Two sequences, of which the second is shorter.
            let lengths = [length, length - 37];
            let tables = [0, 1].map(|i| -> Vec<u32> {
                (0..lengths[i].div_ceil(BLOCK)).map(|block| (2 * block + i) as u32).collect()
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
fn sequences_that_begin_alike_change_nothing() {
    for (heads, kv_heads, head_dim) in SIZES {
        for (shared, window) in [(9, None), (8, None), (4, None), (21, Some(90))] {
            let mut kv = KvBlocks::new(kv_heads, head_dim, KvType::F16);
            kv.grow(64).expect("small");
            // Of sequences 1 to 5 the first blocks are the same, of 0 and 6 none; each has its own behind them.
            let own = |i: usize| 22 + 6 * i as u32..28 + 6 * i as u32;
            let tables: Vec<Vec<u32>> = (0..7)
                .map(|i| if i % 6 == 0 { own(i).collect() } else { (0..shared).chain(own(i)).collect() })
                .collect();
            let start = shared as usize * BLOCK;
            fill(&mut kv, &tables[1], 0..start, 11);
            let sequences: Vec<Sequence> = (0..7)
                .map(|i| {
                    let from = if i % 6 == 0 { 0 } else { start };
                    // The third ends at the border, so that it has nothing of its own.
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
