//! Attention over blocks of keys and values. Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>
//!
//! One algorithm serves prefill, decoding, encoders and cross-attention. A query sees tiles of 128 absolute
//! positions. Inside a tile: scores (one multiply-add chain over the key dimensions each), scale, soft cap,
//! bias, mask; the maximum m, p = exp(score - m), their sum in sixteen lanes, and the outputs p V (one chain
//! over the tile's tokens each). Tiles are merged in order with the rescaling of online softmax (Milakov
//! and Gimelshein 2018, <https://arxiv.org/abs/1805.02867>). The results do not depend on which queries are
//! computed together, on the chunks of a prompt, or on the partition of the work among threads.
//!
//! Query heads that share a key head are computed together, so keys and values are read once.

mod call;
mod partition;
mod probabilities;
mod tile;

use super::kv::{KvBlocks, Sequences};
use crate::tensor::{Buffer, Disjoint, sized};
use crate::threads::Team;
use call::{Call, SHARED_FROM};
pub use call::{Scores, TILE};
use partition::WorkItem;
pub use probabilities::probabilities;
use std::sync::{Mutex, PoisonError};
use tile::{ThreadScratch, merge_rows};

/// Memory that calls reuse.
#[derive(Default)]
pub struct Scratch {
    threads: Vec<Mutex<ThreadScratch>>,
    items: Vec<WorkItem>,
    /// Single tiles: item and tile.
    jobs: Vec<(usize, usize)>,
    parts: Buffer<f32>,
}
/// Attends: `queries` are `[rows, heads * key_dim]`, `out` is `[rows, heads * value_dim]`. A query that sees
/// no key gets zeros.
///
/// Reads only blocks of tiles in which some query sees a position. Other entries of a table may be invalid,
/// such as `u32::MAX` for blocks that left a sliding window.
pub fn attention(
    team: &Team<'_>,
    scratch: &mut Scratch,
    queries: &[f32],
    sequences: Sequences<'_>,
    kv: &KvBlocks,
    scores: &Scores<'_>,
    out: &mut [f32],
) {
    attend(team, scratch, &Call { queries, sequences, kv, scores, shared_from: SHARED_FROM }, out);
}

fn attend(team: &Team<'_>, scratch: &mut Scratch, call: &Call<'_>, out: &mut [f32]) {
    let width = call.scores.value_dim + 2;
    let Scratch { threads, items, jobs, parts } = scratch;
    call.partition(team.threads(), items);
    threads.resize_with(team.threads().max(threads.len()), Mutex::default);
    let threads = &*threads;
    let lock = |thread: usize| threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
    let out = Disjoint::new(out);
    let max_tiles = items.iter().map(|i| i.tiles().len()).max().unwrap_or(0);

    let share = items.iter().any(|i| i.members > 1);
    if !share && (items.len() >= 2 * team.threads() || max_tiles <= 2 || team.threads() == 1) {
        let items = &*items;
        team.run(items.len(), &|i, thread| {
            let (t, item) = (&mut *lock(thread), &items[i]);
            let size = call.rows(item) * width;
            let (mut part, mut total) = (std::mem::take(&mut t.part), std::mem::take(&mut t.total));
            let parts = sized(&mut part, item.kv_heads * size);
            let totals = sized(&mut total, item.kv_heads * size);
            call.gather(item, &mut t.queries);
            reset(totals, width);
            for tile in item.tiles() {
                call.tile(item, tile, t, parts);
                merge_rows(totals, parts, width);
            }
            for (head, total) in totals.chunks_exact(size).enumerate() {
                call.finish(item, head, total, &out);
            }
            (t.part, t.total) = (part, total);
        });
        return;
    }
    // Few items with many tiles (decoding at long context), or some with a shared prefix: tiles are computed
    // in parallel.
    jobs.clear();
    let mut room = 0;
    for (i, item) in items.iter_mut().enumerate() {
        item.parts = room;
        jobs.extend(item.tiles().map(|tile| (i, tile)));
        room += item.tiles().len() * call.part_len(item);
    }
    let (items, jobs) = (&*items, &*jobs);
    let parts = Disjoint::new(sized(parts, room));
    team.run(jobs.len(), &|i, thread| {
        let (item, tile) = (&items[jobs[i].0], jobs[i].1);
        let t = &mut *lock(thread);
        call.gather(item, &mut t.queries);
        // SAFETY: each tile of an item has a part of its own.
        let part = unsafe { parts.slice(call.part_offset(item, tile), call.part_len(item)) };
        call.tile(item, tile, t, part);
    });
    let heads = items.iter().map(|i| i.kv_heads).max().unwrap_or(0);
    team.run(items.len() * heads, &|i, thread| {
        let (item, head) = (&items[i / heads], i % heads);
        if item.members > 1 || head >= item.kv_heads {
            return;
        }
        let (t, size) = (&mut *lock(thread), call.rows(item) * width);
        let total = sized(&mut t.total, size);
        reset(total, width);
        let mut merge = |item: &WorkItem, row: usize| {
            for tile in item.tiles() {
                let at = call.part_offset(item, tile) + (head * call.rows(item) + row) * width;
                // SAFETY: the parts are only read now, each by one chunk.
                merge_rows(total, unsafe { parts.slice(at, size) }, width);
            }
        };
        if let Some((shared, member)) = item.before {
            merge(&items[shared], member * call.group());
        }
        merge(item, 0);
        call.finish(item, head, total, &out);
    });
}

fn reset(total: &mut [f32], width: usize) {
    for row in total.chunks_exact_mut(width) {
        row.fill(0.0);
        row[width - 2] = f32::NEG_INFINITY;
    }
}

#[cfg(test)]
mod levels;
#[cfg(test)]
mod tests;
