//! Attention probabilities as one matrix, for inspection.

use super::call::{Call, SHARED_FROM, Scores, TILE};
use super::tile::{ThreadScratch, exp_one};
use crate::ops::kv::{KvBlocks, Sequences};

/// The probabilities of the sequences in order, `[heads, queries, length]` each.
pub fn probabilities(
    queries: &[f32],
    sequences: Sequences<'_>,
    kv: &KvBlocks,
    scores: &Scores<'_>,
) -> Vec<f32> {
    let call = Call { queries, sequences, kv, scores, shared_from: SHARED_FROM };
    (0..sequences.list.len()).flat_map(|sequence| of_sequence(&call, sequence)).collect()
}

fn of_sequence(call: &Call<'_>, index: usize) -> Vec<f32> {
    let (scores, sequence) = (call.scores, call.sequence(index));
    let (g, n, length) = (call.group(), sequence.rows.len(), sequence.length);
    let mut out = vec![0.0; scores.heads * n * length];
    let mut t = ThreadScratch::default();
    let mut maxima = Vec::new();
    for kv_head in 0..scores.kv_heads {
        for query in 0..n {
            let item = call.item(index, query, 1, kv_head, 1);
            call.gather(&item, &mut t.queries);
            maxima.clear();
            for tile in item.tiles() {
                let mut found = vec![(0.0, 0.0); g];
                call.tile_scores(&item, tile, &mut t, |row, m, sum| found[row] = (m, sum));
                for row in 0..g {
                    let at = ((kv_head * g + row) * n + query) * length + tile * TILE;
                    let count = call.end(&item, tile) - tile * TILE;
                    out[at..at + count].copy_from_slice(&t.scores[row * TILE..][..count]);
                }
                maxima.push((tile, found));
            }
            for row in 0..g {
                let max = maxima
                    .iter()
                    .fold(f32::NEG_INFINITY, |m, (_, f)| if f[row].0 > m { f[row].0 } else { m });
                let sum: f32 = maxima.iter().map(|(_, f)| f[row].1 * exp_one(f[row].0 - max)).sum();
                for (tile, found) in &maxima {
                    let at = ((kv_head * g + row) * n + query) * length + tile * TILE;
                    let count = TILE.min(length - tile * TILE);
                    let factor = exp_one(found[row].0 - max) / sum;
                    out[at..at + count].iter_mut().for_each(|p| *p *= factor);
                }
            }
        }
    }
    out
}
