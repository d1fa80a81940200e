use super::*;
use crate::threads::Pool;

const TYPES: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8];

/// Keys and values alike, keys longer, values longer, values in the keys (in part, and all of them).
const SHAPES: [KvShape; 5] = [
    KvShape { heads: 2, key_dim: 5, values: Values::Own(5) },
    KvShape { heads: 2, key_dim: 24, values: Values::Own(16) },
    KvShape { heads: 3, key_dim: 8, values: Values::Own(20) },
    KvShape { heads: 2, key_dim: 24, values: Values::InKeys(19) },
    KvShape { heads: 1, key_dim: 100, values: Values::InKeys(100) },
];

fn at(numbers: Numbers<'_>, index: usize) -> f32 {
    match numbers {
        Numbers::F32(x) => x[index],
        Numbers::F16(x) => half::f16::from_bits(x[index]).to_f32(),
    }
}

/// Numbers that f16 holds exactly.
fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 31 + seed) % 1000) as f32 / 8.0 - 60.0).collect()
}

/// Keys and values of `tokens` tokens.
fn states(shape: KvShape, tokens: usize) -> (Vec<f32>, Vec<f32>) {
    let values = match shape.values {
        Values::Own(dim) => numbers(tokens * shape.heads * dim, 7),
        Values::InKeys(_) => Vec::new(),
    };
    (numbers(tokens * shape.heads * shape.key_dim, 1), values)
}

fn sequence(table: usize, rows: Range<usize>, first: usize) -> Sequence {
    Sequence { table, length: first + rows.len(), rows, first }
}

/// Asserts that the block of each token holds its keys and values.
fn holds(kv: &KvBlocks, table: &[u32], (keys, values): &(Vec<f32>, Vec<f32>), tokens: usize) {
    let KvShape { heads, key_dim, values: place } = kv.shape();
    let value_dim = kv.shape().value_dim();
    let near = |got: f32, want: f32, head: &[f32]| match kv.kv_type {
        KvType::Q8 => {
            let max = head.iter().fold(0.0f32, |max, v| max.max(v.abs()));
            (got - want).abs() <= max / 253.0
        }
        _ => got == want,
    };
    let mut scratch = vec![f32::NAN; key_dim.max(value_dim) * KV_BLOCK];
    for (token, head) in (0..tokens).flat_map(|token| (0..heads).map(move |head| (token, head))) {
        let (block, slot) = (table[token / KV_BLOCK], token % KV_BLOCK);
        let key = &keys[(token * heads + head) * key_dim..][..key_dim];
        let value = match place {
            Values::Own(dim) => &values[(token * heads + head) * dim..][..dim],
            Values::InKeys(_) => key,
        };
        for d in 0..key_dim {
            let got = at(kv.keys(block, head, &mut scratch), d * KV_BLOCK + slot);
            assert!(near(got, key[d], key), "{:?} {got} {}", kv.shape(), key[d]);
        }
        for d in 0..value_dim {
            let got = at(kv.values(block, head, slot + 1, &mut scratch), slot * value_dim + d);
            assert!(near(got, value[d], value), "{:?} {got} {}", kv.shape(), value[d]);
        }
    }
}

#[test]
fn blocks_return_what_was_stored() {
    for (shape, kv_type) in SHAPES.into_iter().flat_map(|shape| TYPES.map(|kv_type| (shape, kv_type))) {
        let (tokens, mut kv) = (70, KvBlocks::new(shape, kv_type));
        kv.grow(40).expect("small");
        let states = states(shape, tokens);
        let mut tables = vec![vec![33, 2, 17]];
        let mut list = vec![sequence(0, 0..41, 0), sequence(0, 41..tokens, 41)];
        kv.store(Sequences { list: &list, tables: &tables }, &states.0, &states.1);
        holds(&kv, &tables[0], &states, tokens);
        // Copies within a segment and between two.
        for (from, to) in [(33, 34), (33, 5), (2, 36), (17, 18)] {
            kv.copy_block(from, to);
        }
        holds(&kv, &[34, 36, 18], &states, tokens);
        holds(&kv, &[5, 2, 17], &states, tokens);
        // Many sequences stored on two threads, in blocks of several segments.
        let mut all = KvBlocks::new(shape, kv_type);
        all.grow(40).expect("small");
        tables.extend((18..32).map(|block| vec![block]));
        list.extend((1..tables.len()).map(|table| sequence(table, 0..32, 0)));
        let sequences = Sequences { list: &list, tables: &tables };
        Pool::new(2).run_alone(|team| all.store_all(team, sequences, &states.0, &states.1));
        for table in &tables {
            holds(&all, table, &states, tokens.min(table.len() * KV_BLOCK));
        }
    }
}

#[test]
fn released_segments_take_no_memory_and_come_back_empty() {
    for (shape, kv_type) in SHAPES.into_iter().flat_map(|shape| TYPES.map(|kv_type| (shape, kv_type))) {
        let mut kv = KvBlocks::new(shape, kv_type);
        kv.grow(3 * SEGMENT).expect("small");
        let segment = SEGMENT * kv.block_bytes();
        assert_eq!(kv.bytes(), 3 * segment);
        let states = states(shape, 3 * KV_BLOCK);
        let tables = [vec![0, 16, 40]];
        let list = [sequence(0, 0..3 * KV_BLOCK, 0)];
        kv.store(Sequences { list: &list, tables: &tables }, &states.0, &states.1);
        kv.release_segment(1);
        assert_eq!(kv.bytes(), 2 * segment);
        holds(&kv, &tables[0][..1], &states, KV_BLOCK);
        kv.grow(3 * SEGMENT).expect("small");
        assert_eq!(kv.bytes(), 3 * segment);
        let mut scratch = vec![f32::NAN; shape.key_dim * KV_BLOCK];
        for index in 0..shape.key_dim * KV_BLOCK {
            assert_eq!(at(kv.keys(16, 0, &mut scratch), index), 0.0);
        }
        kv.store(Sequences { list: &list, tables: &tables }, &states.0, &states.1);
        holds(&kv, &tables[0], &states, 3 * KV_BLOCK);
    }
}

#[test]
#[should_panic(expected = "a released segment")]
fn reading_a_released_block_panics() {
    let mut kv = KvBlocks::new(SHAPES[0], KvType::F32);
    kv.grow(1).expect("small");
    kv.release_segment(0);
    kv.keys(0, 0, &mut []);
}
