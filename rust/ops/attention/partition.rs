//! Partition of the work of attention.

use super::call::{Call, TILE};
use crate::ops::kv::{KV_BLOCK, Sequence};
use std::ops::Range;

/// Target number of query rows (positions times grouped heads) of a work item.
const ROWS: usize = 32;

/// Up to this many rows a tile is bound by memory, not by its products.
pub const MAX_MEMORY_BOUND_ROWS: usize = 16;

/// Some successive queries with some successive key heads, and the tiles that they see.
#[derive(Debug, Clone, Copy)]
pub struct WorkItem {
    /// The queries' sequence; the first one of several members.
    pub sequence: usize,
    /// Number of successive sequences with one query each that share the blocks of these tiles.
    pub members: usize,
    pub kv_head: usize,
    /// Number of key heads from `kv_head` on: blocks hold their heads in order, so few queries read memory in
    /// order.
    pub kv_heads: usize,
    /// First query, counted from the sequence's first, and their number.
    pub query: usize,
    pub queries: usize,
    first_tile: usize,
    end_tile: usize,
    /// The item with the tiles before these, and this item's member number there.
    pub before: Option<(usize, usize)>,
    /// Offset of the results of its tiles, where they are kept until all are computed.
    pub parts: usize,
}

impl WorkItem {
    pub fn tiles(&self) -> Range<usize> {
        self.first_tile..self.end_tile
    }
}

impl Call<'_> {
    /// The blocks of an item's sequence.
    pub fn table(&self, item: &WorkItem) -> &[u32] {
        self.sequences.table(self.sequence(item.sequence))
    }

    /// Query rows of an item per key head.
    pub fn rows(&self, item: &WorkItem) -> usize {
        item.queries * self.group()
    }

    /// Index in `queries` and `out` of the first query head that shares a key head, for one query of an item.
    pub fn first_head(&self, item: &WorkItem, head: usize, query: usize) -> usize {
        let s = self.sequence(item.sequence);
        (s.rows.start + item.query + query) * self.scores.heads + (item.kv_head + head) * self.group()
    }

    /// Successive queries of a sequence with some key heads, and all tiles that they see.
    pub fn item(
        &self,
        sequence: usize,
        query: usize,
        queries: usize,
        kv_head: usize,
        kv_heads: usize,
    ) -> WorkItem {
        let span = self.span(sequence, query, queries);
        let (first_tile, end_tile) = (span.start / TILE, span.end.div_ceil(TILE));
        let (members, before, parts) = (1, None, 0);
        WorkItem { sequence, members, kv_head, kv_heads, query, queries, first_tile, end_tile, before, parts }
    }

    /// Union of the positions that successive queries of a sequence see.
    fn span(&self, sequence: usize, query: usize, queries: usize) -> Range<usize> {
        let s = self.sequence(sequence);
        let first = self.scores.visible(s.first + query, s.length);
        let last = self.scores.visible(s.first + query + queries - 1, s.length);
        first.start.min(last.start)..first.end.max(last.end)
    }

    /// Position of a query of an item, and the number of keys of its sequence.
    pub fn query(&self, item: &WorkItem, query: usize) -> (usize, usize) {
        if item.members > 1 {
            let s = self.sequence(item.sequence + query);
            return (s.first, s.length);
        }
        let s = self.sequence(item.sequence);
        (s.first + item.query + query, s.length)
    }

    /// End of the positions of a tile that an item sees.
    pub fn end(&self, item: &WorkItem, tile: usize) -> usize {
        let end = (tile + 1) * TILE;
        if item.members > 1 { end } else { end.min(self.span(item.sequence, item.query, item.queries).end) }
    }

    /// Length of the results of one tile of an item: outputs, maximum and sum of each row.
    pub fn part_len(&self, item: &WorkItem) -> usize {
        item.kv_heads * self.rows(item) * (self.scores.value_dim + 2)
    }

    /// Offset of the results of one tile of an item.
    pub fn part_offset(&self, item: &WorkItem, tile: usize) -> usize {
        item.parts + (tile - item.first_tile) * self.part_len(item)
    }

    /// Partitions the work into items of about `ROWS` query rows each.
    pub fn partition(&self, threads: usize, items: &mut Vec<WorkItem>) {
        let (g, kv_heads) = (self.group(), self.scores.kv_heads);
        let per_item = (ROWS / g).max(1);
        // Key heads of an item of few queries: all, if enough work is left for every thread.
        let tiles: usize = self.sequences.list.iter().map(|s| s.length.div_ceil(TILE)).sum();
        let together = (kv_heads * tiles / (4 * threads)).clamp(1, kv_heads);
        items.clear();
        let mut sequence = 0;
        while sequence < self.sequences.list.len() {
            let (members, shared) = self.shared_prefix(sequence, per_item);
            let queries = self.sequence(sequence).rows.len();
            let heads = if queries * members * g <= MAX_MEMORY_BOUND_ROWS { together } else { 1 };
            for kv_head in (0..kv_heads).step_by(heads) {
                let kv_heads = heads.min(kv_heads - kv_head);
                if members > 1 {
                    let before = items.len();
                    let item = self.item(sequence, 0, 1, kv_head, kv_heads);
                    items.push(WorkItem { members, queries: members, end_tile: shared, ..item });
                    items.extend((0..members).map(|member| {
                        let item = self.item(sequence + member, 0, 1, kv_head, kv_heads);
                        WorkItem { first_tile: shared, before: Some((before, member)), ..item }
                    }));
                    continue;
                }
                items.extend((0..queries).step_by(per_item).map(|query| {
                    self.item(sequence, query, per_item.min(queries - query), kv_head, kv_heads)
                }));
            }
            sequence += members;
        }
    }

    /// The number of sequences from one on, up to `max`, whose first tiles hold the same blocks (beams and
    /// samples of one prompt), and the number of these tiles.
    fn shared_prefix(&self, sequence: usize, max: usize) -> (usize, usize) {
        let s = self.sequence(sequence);
        let alone = |s: &Sequence| s.rows.len() == 1;
        if !self.scores.causal || self.scores.window.is_some() || !alone(s) {
            return (1, 0);
        }
        let (mut members, mut shared) = (1, usize::MAX);
        let table = self.sequences.table(s);
        for next in self.sequences.list[sequence + 1..].iter().take(max - 1) {
            let blocks = table.iter().zip(self.sequences.table(next)).take_while(|(a, b)| a == b).count();
            // Tiles that are visible to every query from end to end.
            let tiles = (blocks * KV_BLOCK).min(s.first + 1).min(next.first + 1) / TILE;
            let bytes = tiles * TILE / KV_BLOCK * self.kv.block_bytes();
            if tiles == 0
                || bytes < self.shared_from
                || !alone(next)
                || next.rows.start != s.rows.start + members
            {
                break;
            }
            (members, shared) = (members + 1, shared.min(tiles));
        }
        (members, shared)
    }
}
