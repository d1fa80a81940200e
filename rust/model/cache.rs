//! Keys and values of running sequences: blocks shared by reference counts, one table per sequence.

use super::spec;
use crate::error::{Error, Result};
use crate::ops::kv::{BLOCK, KvBlocks, KvShape, KvType, SEGMENT};
use crate::threads::Team;
use std::ops::Range;

/// A sequence of a cache.
pub type SequenceId = usize;

/// What a layer keeps between steps. Attention keeps keys and values; other mixers will keep other states.
pub enum LayerState {
    KeysAndValues(KvBlocks),
}

impl LayerState {
    /// The blocks of an attention layer.
    pub fn kv(&mut self) -> &mut KvBlocks {
        let LayerState::KeysAndValues(kv) = self;
        kv
    }
}

/// The cache of a stack: every layer has the same block numbers.
pub struct Cache {
    layers: Vec<LayerState>,
    references: Vec<u32>,
    free: Vec<u32>,
    /// Tokens of each sequence, and the numbers of its blocks; none where there is no sequence, which leaves its memory to
    /// the next one of this number.
    lengths: Vec<Option<usize>>,
    tables: Vec<Vec<u32>>,
    /// Blocks that are still to be copied, and onto which.
    copies: Vec<(u32, u32)>,
}

impl Cache {
    /// An empty cache for the self-attention of `stack`, or for its cross-attention.
    pub fn new(stack: &spec::Stack, kv_type: KvType, cross: bool) -> Self {
        let layers = stack.layers.iter().map(|layer| {
            let a = if cross { layer.cross_attention.as_ref() } else { None }.unwrap_or(&layer.attention);
            LayerState::KeysAndValues(KvBlocks::new(KvShape::equal(a.kv_heads, a.head_dim), kv_type))
        });
        Cache {
            layers: layers.collect(),
            references: Vec::new(),
            free: Vec::new(),
            lengths: Vec::new(),
            tables: Vec::new(),
            copies: Vec::new(),
        }
    }

    /// A cache for sequences that go through the stack in one pass: a layer's keys and values serve until the next
    /// layer's, so where all layers are alike they share their memory, which stays near.
    pub fn passing(stack: &spec::Stack, kv_type: KvType) -> Self {
        let mut cache = Cache::new(stack, kv_type, false);
        let size = |layer: &spec::Layer| (layer.attention.kv_heads, layer.attention.head_dim);
        if stack.layers.windows(2).all(|pair| size(&pair[0]) == size(&pair[1])) {
            cache.layers.truncate(1);
        }
        cache
    }

    /// Forgets all sequences; their memory stays.
    pub fn clear(&mut self) {
        self.lengths.clear();
        self.tables.iter_mut().for_each(Vec::clear);
        self.references.fill(0);
        self.free.clear();
        self.free.extend((0..self.references.len() as u32).rev());
    }

    /// Starts an empty sequence.
    pub fn start(&mut self) -> SequenceId {
        let free = self.lengths.iter().position(Option::is_none);
        let id = free.unwrap_or_else(|| {
            self.lengths.push(None);
            self.tables.resize(self.tables.len().max(self.lengths.len()), Vec::new());
            self.lengths.len() - 1
        });
        self.lengths[id] = Some(0);
        id
    }

    /// Tokens stored.
    pub fn length(&self, id: SequenceId) -> usize {
        self.lengths[id].expect("the sequence is alive")
    }

    /// Another sequence with the same tokens, sharing their blocks.
    pub fn fork(&mut self, id: SequenceId) -> SequenceId {
        let fork = self.start();
        self.lengths[fork] = Some(self.length(id));
        let mut table = std::mem::take(&mut self.tables[fork]);
        table.extend_from_slice(&self.tables[id]);
        for &block in &table {
            self.references[block as usize] += 1;
        }
        self.tables[fork] = table;
        fork
    }

    /// Forgets a sequence.
    pub fn release(&mut self, id: SequenceId) {
        if self.lengths[id].is_some() {
            self.truncate(id, 0);
            self.lengths[id] = None;
        }
    }

    fn unreference(&mut self, block: u32) {
        let count = &mut self.references[block as usize];
        *count -= 1;
        if *count == 0 {
            self.free.push(block);
        }
    }

    /// Shortens a sequence to `length` tokens.
    pub fn truncate(&mut self, id: SequenceId, length: usize) {
        let length = self.length(id).min(length);
        self.lengths[id] = Some(length);
        while self.tables[id].len() > length.div_ceil(BLOCK) {
            let block = self.tables[id].pop().expect("it is longer");
            self.unreference(block);
        }
    }

    fn allocate(&mut self) -> Result<u32> {
        if let Some(block) = self.free.pop() {
            self.references[block as usize] = 1;
            return Ok(block);
        }
        let block = u32::try_from(self.references.len())
            .map_err(|_| Error::Memory("the cache has no block numbers left".to_owned()))?;
        for layer in &mut self.layers {
            layer.kv().grow(block as usize + 1)?;
        }
        self.references.push(1);
        Ok(block)
    }

    /// Makes room for `tokens` more, which the caller then stores in every layer. A last block that is
    /// shared is copied first.
    pub fn extend(&mut self, id: SequenceId, tokens: usize) -> Result<()> {
        if let Some((from, to)) = self.lengthen(id, tokens)? {
            self.layers.iter_mut().for_each(|layer| layer.kv().copy_block(from, to));
        }
        Ok(())
    }

    /// The same for several sequences, each of which is named once, on all threads.
    pub fn extend_all(
        &mut self,
        team: &Team<'_>,
        more: impl Iterator<Item = (SequenceId, usize)>,
    ) -> Result<()> {
        self.copies.clear();
        for (id, tokens) in more {
            let copy = self.lengthen(id, tokens)?;
            self.copies.extend(copy);
        }
        let copies = &self.copies;
        if !copies.is_empty() {
            // A copy is of a block that others hold too, so none of the new blocks is copied from.
            team.run_mut(&mut self.layers, 1, &|_, layer, _| {
                copies.iter().for_each(|&(from, to)| layer[0].kv().copy_block(from, to));
            });
        }
        Ok(())
    }

    /// Gives a sequence its blocks; returns the one that is still to be copied, and onto which.
    fn lengthen(&mut self, id: SequenceId, tokens: usize) -> Result<Option<(u32, u32)>> {
        let (length, last) = (self.length(id), self.tables[id].last().copied());
        let mut copied = None;
        if let Some(last) = last.filter(|&b| length % BLOCK != 0 && self.references[b as usize] > 1) {
            let copy = self.allocate()?;
            copied = Some((last, copy));
            self.unreference(last);
            *self.tables[id].last_mut().expect("it has a last block") = copy;
        }
        while self.tables[id].len() * BLOCK < length + tokens {
            let block = self.allocate()?;
            self.tables[id].push(block);
        }
        self.lengths[id] = Some(length + tokens);
        Ok(copied)
    }

    /// The blocks of all layers, and beside them the tables of all sequences, by their ids.
    pub fn parts(&mut self) -> (Layers<'_>, &[Vec<u32>]) {
        (Layers(&mut self.layers), &self.tables)
    }

    /// Copies blocks of another cache's sequence to the same places of a sequence that has room for them. Both are of
    /// the same model.
    pub fn copy_blocks(&mut self, id: SequenceId, other: &Cache, from: SequenceId, blocks: Range<usize>) {
        for (layer, source) in self.layers.iter_mut().zip(&other.layers) {
            let (LayerState::KeysAndValues(to), LayerState::KeysAndValues(kv)) = (layer, source);
            let (into, out) = (&self.tables[id], &other.tables[from]);
            for block in blocks.clone() {
                to.copy_block_of(kv, out[block], into[block]);
            }
        }
    }

    /// Bytes that a block takes in all layers.
    pub fn block_bytes(&self) -> usize {
        self.layers.iter().map(|LayerState::KeysAndValues(kv)| kv.block_bytes()).sum()
    }

    /// Blocks that are allocated together.
    pub fn grain(&self) -> usize {
        SEGMENT
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|LayerState::KeysAndValues(kv)| kv.bytes()).sum()
    }

    /// Blocks in use, counted once however often they are shared.
    pub fn blocks_in_use(&self) -> usize {
        self.references.len() - self.free.len()
    }
}

/// The blocks of all layers.
pub struct Layers<'a>(&'a mut [LayerState]);

impl Layers<'_> {
    /// Those of a layer; in a cache for one pass those of all.
    pub fn kv(&mut self, layer: usize) -> &mut KvBlocks {
        let layer = layer.min(self.0.len() - 1);
        self.0[layer].kv()
    }
}
