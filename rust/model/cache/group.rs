//! Blocks of keys and values of the layers with one window: tables by sequence, reference counts, memory by
//! segments.

use crate::error::{Error, Result};
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
    pub references: Vec<u32>,
    pub free: Vec<u32>,
    /// Segments of blocks without memory.
    pub vacant: Vec<usize>,
    /// Blocks of each sequence, by its id.
    pub tables: Vec<Vec<u32>>,
    /// The first entry of each table that is not a hole.
    pub first: Vec<usize>,
    /// Pending copies of blocks: from, to.
    pub copies: Vec<(u32, u32)>,
}

impl Group {
    pub fn new(window: Option<usize>, layers: Vec<KvBlocks>) -> Group {
        let (references, free, vacant) = (Vec::new(), Vec::new(), Vec::new());
        Group {
            window,
            layers,
            references,
            free,
            vacant,
            tables: Vec::new(),
            first: Vec::new(),
            copies: Vec::new(),
        }
    }

    pub fn block_bytes(&self) -> usize {
        self.layers.iter().map(KvBlocks::block_bytes).sum()
    }

    pub fn allocate(&mut self) -> Result<u32> {
        if self.free.is_empty() {
            let segment = self.vacant.last().copied().unwrap_or(self.references.len() / SEGMENT);
            let end = u32::try_from((segment + 1) * SEGMENT)
                .map_err(|_| Error::Memory("the cache has no block numbers left".to_owned()))?;
            self.layers.iter_mut().try_for_each(|layer| layer.allocate_segment(segment))?;
            self.vacant.pop();
            self.references.resize(self.references.len().max(end as usize), 0);
            self.free.extend((end - SEGMENT as u32..end).rev());
        }
        let block = self.free.pop().expect("a segment was added");
        self.references[block as usize] = 1;
        Ok(block)
    }

    pub fn in_use(&self) -> usize {
        self.references.len() - self.free.len() - self.vacant.len() * SEGMENT
    }

    /// Frees segments in which no block is in use until the memory is at most `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let segment_bytes = SEGMENT * self.block_bytes();
        let mut memory = self.references.len() / SEGMENT - self.vacant.len();
        if segment_bytes == 0 || memory * segment_bytes <= bytes {
            return;
        }
        let mut free = vec![0; self.references.len() / SEGMENT];
        self.free.iter().for_each(|&block| free[block as usize / SEGMENT] += 1);
        for segment in (0..free.len()).rev().filter(|&segment| free[segment] == SEGMENT) {
            if memory * segment_bytes <= bytes {
                break;
            }
            self.layers.iter_mut().for_each(|layer| layer.release_segment(segment));
            self.vacant.push(segment);
            memory -= 1;
        }
        let vacant = &self.vacant;
        self.free.retain(|&block| !vacant.contains(&(block as usize / SEGMENT)));
    }

    pub fn release(&mut self, block: u32) {
        if block == HOLE {
            return;
        }
        let count = &mut self.references[block as usize];
        *count -= 1;
        if *count == 0 {
            self.free.push(block);
        }
    }

    /// Allocates blocks for `tokens` more tokens of a sequence of `length`. Replaces a shared last block by a
    /// copy.
    pub fn lengthen(&mut self, id: SequenceId, length: usize, tokens: usize) -> Result<()> {
        let last = self.tables[id].last().copied().filter(|&b| b != HOLE);
        if let Some(last) =
            last.filter(|&b| !length.is_multiple_of(KV_BLOCK) && self.references[b as usize] > 1)
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
        self.references.fill(0);
        self.free.clear();
        let Group { free, references, vacant, .. } = self;
        let blocks = (0..references.len() as u32).rev();
        free.extend(blocks.filter(|&block| !vacant.contains(&(block as usize / SEGMENT))));
    }
}
