//! How the work of an attention is cut.

use super::super::kv::BLOCK;
use super::{Call, TILE};
use std::ops::Range;

/// Rows of queries (positions times grouped heads) that a unit of work aims at.
const ROWS: usize = 32;

/// Rows for which the memory is slower than the products.
pub const FEW_ROWS: usize = 16;

/// Some successive queries with some successive key heads, and tiles that they see.
#[derive(Debug, Clone, Copy)]
pub struct Unit {
    /// The queries' sequence; of several members the first.
    pub sequence: usize,
    /// Successive sequences with one query each, which have their blocks in these tiles in common.
    pub members: usize,
    pub kv_head: usize,
    /// Key heads from that one on: blocks hold their heads one after the other, so few queries read memory in order.
    pub kv_heads: usize,
    /// First query, counted from the sequence's first, and how many.
    pub query: usize,
    pub queries: usize,
    first_tile: usize,
    end_tile: usize,
    /// The unit that has the tiles before these, and the member there that this one's sequence is.
    pub before: Option<(usize, usize)>,
    /// Where the results of its tiles lie, if they are kept until all are there.
    pub parts: usize,
}

impl Unit {
    pub fn tiles(&self) -> Range<usize> {
        self.first_tile..self.end_tile
    }
}

impl Call<'_> {
    /// Successive queries of a sequence with some key heads, and all that they see.
    pub fn unit(
        &self,
        sequence: usize,
        query: usize,
        queries: usize,
        kv_head: usize,
        kv_heads: usize,
    ) -> Unit {
        let span = self.span(sequence, query, queries);
        let (first_tile, end_tile) = (span.start / TILE, span.end.div_ceil(TILE));
        let (members, before, parts) = (1, None, 0);
        Unit { sequence, members, kv_head, kv_heads, query, queries, first_tile, end_tile, before, parts }
    }

    /// Positions that successive queries of a sequence see, taken together.
    fn span(&self, sequence: usize, query: usize, queries: usize) -> Range<usize> {
        let s = self.sequence(sequence);
        let first = self.scores.visible(s.first + query, s.length);
        let last = self.scores.visible(s.first + query + queries - 1, s.length);
        first.start.min(last.start)..first.end.max(last.end)
    }

    /// Position of a unit's query, and the keys there are for it.
    pub fn query(&self, unit: &Unit, query: usize) -> (usize, usize) {
        if unit.members > 1 {
            let s = self.sequence(unit.sequence + query);
            return (s.first, s.length);
        }
        let s = self.sequence(unit.sequence);
        (s.first + unit.query + query, s.length)
    }

    /// Where the positions end that a unit sees of a tile.
    pub fn end(&self, unit: &Unit, tile: usize) -> usize {
        let end = (tile + 1) * TILE;
        if unit.members > 1 { end } else { end.min(self.span(unit.sequence, unit.query, unit.queries).end) }
    }

    /// Values of the results of one tile of a unit: of each row its outputs, their maximum and their sum.
    pub fn part(&self, unit: &Unit) -> usize {
        unit.kv_heads * self.rows(unit) * (self.scores.value_dim + 2)
    }

    pub fn place_of_part(&self, unit: &Unit, tile: usize) -> usize {
        unit.parts + (tile - unit.first_tile) * self.part(unit)
    }

    /// Cuts the work into units, of about `ROWS` rows of queries each.
    pub fn units(&self, threads: usize, units: &mut Vec<Unit>) {
        let (g, kv_heads) = (self.group(), self.scores.kv_heads);
        let per_unit = (ROWS / g).max(1);
        // Key heads that few queries take together: all, if enough is left for every thread.
        let tiles: usize = self.sequences.list.iter().map(|s| s.length.div_ceil(TILE)).sum();
        let together = (kv_heads * tiles / (4 * threads)).clamp(1, kv_heads);
        units.clear();
        let mut sequence = 0;
        while sequence < self.sequences.list.len() {
            let (members, shared) = self.alike(sequence, per_unit);
            let queries = self.sequence(sequence).rows.len();
            let heads = if queries * members * g <= FEW_ROWS { together } else { 1 };
            for kv_head in (0..kv_heads).step_by(heads) {
                let kv_heads = heads.min(kv_heads - kv_head);
                if members > 1 {
                    let before = units.len();
                    let unit = self.unit(sequence, 0, 1, kv_head, kv_heads);
                    units.push(Unit { members, queries: members, end_tile: shared, ..unit });
                    units.extend((0..members).map(|member| {
                        let unit = self.unit(sequence + member, 0, 1, kv_head, kv_heads);
                        Unit { first_tile: shared, before: Some((before, member)), ..unit }
                    }));
                    continue;
                }
                units.extend((0..queries).step_by(per_unit).map(|query| {
                    self.unit(sequence, query, per_unit.min(queries - query), kv_head, kv_heads)
                }));
            }
            sequence += members;
        }
    }

    /// How many sequences from one on, up to `most`, see their first tiles together (beams and samples of one prompt), and how
    /// many tiles.
    fn alike(&self, sequence: usize, most: usize) -> (usize, usize) {
        let s = self.sequence(sequence);
        let alone = |s: &super::Sequence| s.rows.len() == 1;
        if !self.scores.causal || self.scores.window.is_some() || !alone(s) {
            return (1, 0);
        }
        let (mut members, mut shared) = (1, usize::MAX);
        let table = self.sequences.table(s);
        for next in self.sequences.list[sequence + 1..].iter().take(most - 1) {
            let blocks = table.iter().zip(self.sequences.table(next)).take_while(|(a, b)| a == b).count();
            // Tiles that every query sees all of.
            let tiles = (blocks * BLOCK).min(s.first + 1).min(next.first + 1) / TILE;
            let bytes = tiles * TILE / BLOCK * self.kv.block_bytes();
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
