//! Blocks of keys and values of the layers with one window: tables by sequence, reference counts, memory by
//! segments.

use crate::error::Result;
use crate::model::counted::Counted;
use crate::ops::attention::TILE;
use crate::ops::kv::{KV_BLOCK, KvBlocks, SEGMENT};
use crate::threads::Team;

/// A sequence of a cache.
pub type SequenceId = usize;

/// Table entry of a released block.
pub const HOLE: u32 = u32::MAX;

/// The blocks of layers with the same window.
pub struct Group {
    pub window: Option<usize>,
    pub layers: Vec<KvBlocks>,
    /// The numbers of blocks.
    pub counted: Counted,
    /// Blocks of each sequence, by its id.
    pub tables: Vec<Vec<u32>>,
    /// The first entry of each table that is not a hole.
    pub first: Vec<usize>,
    /// Pending copies of blocks: from, to.
    pub copies: Vec<(u32, u32)>,
}

impl Group {
    pub fn new(window: Option<usize>, layers: Vec<KvBlocks>) -> Group {
        let counted = Counted::new("block", SEGMENT);
        Group { window, layers, counted, tables: Vec::new(), first: Vec::new(), copies: Vec::new() }
    }

    pub fn block_bytes(&self) -> usize {
        self.layers.iter().map(KvBlocks::block_bytes).sum()
    }

    fn allocate(&mut self) -> Result<u32> {
        let Group { counted, layers, .. } = self;
        counted.allocate(|segment| layers.iter_mut().try_for_each(|layer| layer.allocate_segment(segment)))
    }

    pub fn in_use(&self) -> usize {
        self.counted.in_use()
    }

    /// Frees segments in which no block is in use until the memory is at most `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let most = bytes / (SEGMENT * self.block_bytes()).max(1);
        let Group { counted, layers, .. } = self;
        counted.shrink(most, |segment| layers.iter_mut().for_each(|layer| layer.release_segment(segment)));
    }

    /// Adds the references of a table that another sequence copies.
    pub fn reference_all(&mut self, id: SequenceId) {
        let Group { counted, tables, .. } = self;
        tables[id].iter().filter(|&&block| block != HOLE).for_each(|&block| counted.reference(block));
    }

    pub fn release(&mut self, block: u32) {
        if block != HOLE {
            self.counted.release(block);
        }
    }

    /// Allocates blocks for `tokens` more tokens of a sequence of `length`. Replaces a shared last block by a
    /// copy.
    pub fn lengthen(&mut self, id: SequenceId, length: usize, tokens: usize) -> Result<()> {
        let last = self.tables[id].last().copied().filter(|&b| b != HOLE);
        if let Some(last) =
            last.filter(|&b| !length.is_multiple_of(KV_BLOCK) && self.counted.references()[b as usize] > 1)
        {
            let copy = self.allocate()?;
            self.copies.push((last, copy));
            self.release(last);
            *self.tables[id].last_mut().expect("it has a last block") = copy;
        }
        while self.tables[id].len() * KV_BLOCK < length + tokens {
            let block = self.allocate()?;
            self.tables[id].push(block);
        }
        Ok(())
    }

    /// The first table entry of a sequence that tokens from position `length` on read.
    pub fn visible_from(&self, length: usize) -> usize {
        let window = self.window.unwrap_or(usize::MAX);
        (length + 1).saturating_sub(window) / TILE * (TILE / KV_BLOCK)
    }

    /// Number of blocks of a sequence that have left the window.
    pub fn left(&self, id: SequenceId, length: usize) -> usize {
        self.visible_from(length).min(self.tables[id].len()).saturating_sub(self.first[id])
    }

    /// Releases the first `count` blocks of a sequence.
    pub fn give_back(&mut self, id: SequenceId, count: usize) {
        for at in self.first[id]..self.first[id] + count {
            let block = std::mem::replace(&mut self.tables[id][at], HOLE);
            self.release(block);
        }
        self.first[id] += count;
    }

    pub fn copy_shared(&mut self, team: Option<&Team<'_>>) {
        let Group { layers, copies, .. } = self;
        let copy = |layer: &mut KvBlocks| copies.iter().for_each(|&(from, to)| layer.copy_block(from, to));
        match team {
            // No new block is the source of a copy: copied blocks have other owners.
            Some(team) if !copies.is_empty() => {
                team.run_mut(layers, 1, &|_, layer, _| copy(&mut layer[0]));
                // An interrupt skips layers, and the tables already name the copies.
                if team.check().is_err() {
                    layers.iter_mut().for_each(copy);
                }
            }
            _ => layers.iter_mut().for_each(copy),
        }
        self.copies.clear();
    }

    pub fn clear(&mut self) {
        self.tables.iter_mut().for_each(Vec::clear);
        self.first.fill(0);
        self.counted.clear();
    }
}
