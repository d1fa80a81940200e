//! Keys and values of a layer in blocks of 32 tokens.
//!
//! A sequence owns a table of block numbers, so sharing a prefix, forking a beam and freeing a window are
//! edits of tables. Blocks are allocated and freed in segments of 16. A segment has a plane of keys,
//! transposed inside a block, `[head][key_dim][32]`, so that scores of successive tokens lie side by side,
//! and a plane of values, `[head][32][value_dim]`, unless the keys hold the values too. In 8 bits each token
//! of each head has a scale of its own, `[head][32]`, for keys and for values.

mod plane;
mod types;

use crate::error::Result;
use crate::threads::Team;
use plane::{Order, Plane};
use std::ops::Range;
pub use types::{KV_BLOCK, KvType, Numbers, SEGMENT};

/// Stores of fewer elements than this run on the caller alone.
const SERIAL_BELOW: usize = 16 * 1024;

/// What a token's keys and values are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    pub heads: usize,
    pub key_dim: usize,
    pub values: Values,
}

/// Where the values of a head are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// In a plane of their own, with this many dimensions.
    Own(usize),
    /// In the keys, whose first dimensions they are (latent attention).
    InKeys(usize),
}

impl KvShape {
    /// The shape with keys and values of `dim` dimensions each.
    pub const fn equal(heads: usize, dim: usize) -> Self {
        KvShape { heads, key_dim: dim, values: Values::Own(dim) }
    }

    pub fn value_dim(&self) -> usize {
        match self.values {
            Values::Own(dim) | Values::InKeys(dim) => dim,
        }
    }

    /// Bytes of a block of 32 tokens.
    fn block_bytes(&self, kv_type: KvType) -> usize {
        let bytes = |dim: usize| {
            let vectors = self.heads * KV_BLOCK;
            match kv_type {
                KvType::F32 => 4 * vectors * dim,
                KvType::F16 => 2 * vectors * dim,
                KvType::Q8 => vectors * dim + 4 * vectors,
            }
        };
        bytes(self.key_dim) + if let Values::Own(dim) = self.values { bytes(dim) } else { 0 }
    }
}

/// `SEGMENT` blocks.
struct Segment {
    keys: Plane,
    /// `None` if the keys hold the values.
    values: Option<Plane>,
}

impl Segment {
    fn zeroed(shape: KvShape, kv_type: KvType) -> Result<Self> {
        let values = match shape.values {
            Values::Own(dim) => Some(Plane::zeroed(kv_type, shape.heads, dim, Order::Rows)?),
            Values::InKeys(_) => None,
        };
        let keys = Plane::zeroed(kv_type, shape.heads, shape.key_dim, Order::Transposed)?;
        Ok(Segment { keys, values })
    }

    fn planes(&self) -> impl Iterator<Item = &Plane> {
        [Some(&self.keys), self.values.as_ref()].into_iter().flatten()
    }

    fn planes_mut(&mut self) -> impl Iterator<Item = &mut Plane> {
        [Some(&mut self.keys), self.values.as_mut()].into_iter().flatten()
    }

    fn copy_from(&mut self, other: &Segment, from: usize, to: usize) {
        self.planes_mut().zip(other.planes()).for_each(|(plane, other)| plane.copy_from(other, from, to));
    }
}

/// The blocks of one layer.
pub struct KvBlocks {
    shape: KvShape,
    kv_type: KvType,
    /// `None` if the memory has been released.
    segments: Vec<Option<Segment>>,
}

/// Why a segment must have memory.
const IN_USE: &str = "the blocks of a released segment are in no table";

impl KvBlocks {
    pub fn new(shape: KvShape, kv_type: KvType) -> Self {
        if let Values::InKeys(dim) = shape.values {
            assert!(dim <= shape.key_dim, "the keys hold the values");
        }
        KvBlocks { shape, kv_type, segments: Vec::new() }
    }

    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Allocates the memory of blocks `segment * SEGMENT..(segment + 1) * SEGMENT`, if they have none.
    pub fn allocate_segment(&mut self, segment: usize) -> Result<()> {
        self.segments.resize_with(self.segments.len().max(segment + 1), || None);
        if self.segments[segment].is_none() {
            self.segments[segment] = Some(Segment::zeroed(self.shape, self.kv_type)?);
        }
        Ok(())
    }

    /// Allocates the memory of blocks `0..blocks`.
    pub fn grow(&mut self, blocks: usize) -> Result<()> {
        (0..blocks.div_ceil(SEGMENT)).try_for_each(|segment| self.allocate_segment(segment))
    }

    /// Frees the memory of blocks `segment * SEGMENT..(segment + 1) * SEGMENT`, which must not be in any
    /// table.
    pub fn release_segment(&mut self, segment: usize) {
        self.segments[segment] = None;
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.segments.iter().flatten().count() * SEGMENT * self.block_bytes()
    }

    /// Bytes of one block.
    pub fn block_bytes(&self) -> usize {
        self.shape.block_bytes(self.kv_type)
    }

    fn segment(&self, block: u32) -> (&Segment, usize) {
        let block = block as usize;
        (self.segments[block / SEGMENT].as_ref().expect(IN_USE), block % SEGMENT)
    }

    /// Stores the rows of all sequences: `keys` are `[rows, heads * key_dim]`, `values`
    /// `[rows, heads * value_dim]` (not read where the keys hold them). No block belongs to two sequences.
    pub fn store(&mut self, sequences: Sequences<'_>, keys: &[f32], values: &[f32]) {
        let rows = Rows::of(self.shape, keys, values);
        sequences.each_block(|block, slot, range| {
            rows.store(self.segments[block / SEGMENT].as_mut().expect(IN_USE), block % SEGMENT, slot, range);
        });
    }

    /// [`KvBlocks::store`] on all threads if there are many rows.
    pub fn store_all(&mut self, team: &Team<'_>, sequences: Sequences<'_>, keys: &[f32], values: &[f32]) {
        let stored: usize = sequences.list.iter().map(|s| s.rows.len()).sum();
        if stored * self.shape.heads * self.shape.key_dim < SERIAL_BELOW {
            self.store(sequences, keys, values);
            return;
        }
        let rows = Rows::of(self.shape, keys, values);
        team.run_mut(&mut self.segments, 1, &|index, segment, _| {
            sequences.each_block(|block, slot, range| {
                if block / SEGMENT == index {
                    rows.store(segment[0].as_mut().expect(IN_USE), block % SEGMENT, slot, range);
                }
            });
        });
    }

    /// Copies a block onto another (before a shared one is written).
    pub fn copy_block(&mut self, from: u32, to: u32) {
        let (from, to) = (from as usize, to as usize);
        let (a, b, from, to) = (from / SEGMENT, to / SEGMENT, from % SEGMENT, to % SEGMENT);
        if a == b {
            let segment = self.segments[a].as_mut().expect(IN_USE);
            segment.planes_mut().for_each(|plane| plane.copy_within(from, to));
            return;
        }
        let [a, b] = self.segments.get_disjoint_mut([a, b]).expect(IN_USE);
        b.as_mut().expect(IN_USE).copy_from(a.as_ref().expect(IN_USE), from, to);
    }

    /// Prefetches the keys of one head of a block.
    pub fn prefetch_keys(&self, block: u32, head: usize) {
        let (segment, block) = self.segment(block);
        segment.keys.prefetch(block, head);
    }

    /// Prefetches the values of one head of a block. Keys that hold them have just been read.
    pub fn prefetch_values(&self, block: u32, head: usize) {
        if let (Segment { values: Some(values), .. }, block) = self.segment(block) {
            values.prefetch(block, head);
        }
    }

    /// Keys of one head of a block, `[key_dim][32]`: the stored ones, or as f32 in `scratch`.
    pub fn keys<'a>(&'a self, block: u32, head: usize, scratch: &'a mut [f32]) -> Numbers<'a> {
        let (segment, block) = self.segment(block);
        segment.keys.read(block, head, KV_BLOCK, scratch)
    }

    /// Values of the first `tokens` of a block, `[tokens][value_dim]`: the stored ones, or as f32 in
    /// `scratch`.
    pub fn values<'a>(
        &'a self,
        block: u32,
        head: usize,
        tokens: usize,
        scratch: &'a mut [f32],
    ) -> Numbers<'a> {
        let (segment, block) = self.segment(block);
        match &segment.values {
            Some(values) => values.read(block, head, tokens, scratch),
            None => {
                let dim = self.shape.value_dim();
                Numbers::F32(segment.keys.read_rows(block, head, tokens, dim, scratch))
            }
        }
    }
}

/// Keys and values of a batch, `[rows, width]` each.
#[derive(Clone, Copy)]
struct Rows<'a> {
    keys: &'a [f32],
    key_width: usize,
    values: &'a [f32],
    value_width: usize,
}

impl<'a> Rows<'a> {
    fn of(shape: KvShape, keys: &'a [f32], values: &'a [f32]) -> Self {
        let (key_width, value_width) = (shape.heads * shape.key_dim, shape.heads * shape.value_dim());
        Rows { keys, key_width, values, value_width }
    }

    /// Stores some of the rows in a block of a segment from `slot` on.
    fn store(&self, segment: &mut Segment, block: usize, slot: usize, rows: Range<usize>) {
        let of = |x: &'a [f32], width: usize| &x[rows.start * width..rows.end * width];
        segment.keys.store(block, slot, of(self.keys, self.key_width));
        if let Some(values) = &mut segment.values {
            values.store(block, slot, of(self.values, self.value_width));
        }
    }
}

/// Rows of a batch that belong to one sequence.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Index of the table of its blocks.
    pub table: usize,
    /// Its rows among all of the batch.
    pub rows: Range<usize>,
    /// Position of the first of these rows.
    pub first: usize,
    /// Number of its keys, from position 0 on.
    pub length: usize,
}

/// The sequences of a batch, with their tables. The list borrows no table, so its memory can be reused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sequences<'a> {
    pub list: &'a [Sequence],
    /// Block numbers of keys and values.
    pub tables: &'a [Vec<u32>],
}

impl<'a> Sequences<'a> {
    pub fn table(&self, sequence: &Sequence) -> &'a [u32] {
        &self.tables[sequence.table]
    }

    /// Calls `f(block, first slot, rows)` for each block that holds rows of a sequence.
    fn each_block(&self, mut f: impl FnMut(usize, usize, Range<usize>)) {
        for sequence in self.list {
            let mut row = sequence.rows.start;
            while row < sequence.rows.end {
                let position = sequence.first + row - sequence.rows.start;
                let (block, slot) = (self.table(sequence)[position / KV_BLOCK], position % KV_BLOCK);
                let end = sequence.rows.end.min(row + KV_BLOCK - slot);
                f(block as usize, slot, row..end);
                row = end;
            }
        }
    }
}

#[cfg(test)]
mod tests;
