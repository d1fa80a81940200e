//! Keys and values of running sequences: blocks shared by reference counts, one table per sequence.

use super::spec;
use crate::error::{Error, Result};
use crate::ops::kv::{BLOCK, KvBlocks, KvType, SEGMENT};
use crate::threads::Team;
use std::ops::Range;

/// A sequence of a cache.
pub type SequenceId = usize;

#[derive(Debug, Clone, Default)]
struct State {
    table: Vec<u32>,
    length: usize,
}

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
    sequences: Vec<Option<State>>,
}

impl Cache {
    /// An empty cache for the self-attention of `stack`, or for its cross-attention.
    pub fn new(stack: &spec::Stack, kv_type: KvType, cross: bool) -> Self {
        let layers = stack.layers.iter().map(|layer| {
            let a = if cross { layer.cross_attention.as_ref() } else { None }.unwrap_or(&layer.attention);
            LayerState::KeysAndValues(KvBlocks::new(a.kv_heads, a.head_dim, kv_type))
        });
        Cache { layers: layers.collect(), references: Vec::new(), free: Vec::new(), sequences: Vec::new() }
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
        self.sequences.clear();
        self.references.fill(0);
        self.free = (0..self.references.len() as u32).rev().collect();
    }

    /// Starts an empty sequence.
    pub fn start(&mut self) -> SequenceId {
        self.insert(State::default())
    }

    fn insert(&mut self, state: State) -> SequenceId {
        match self.sequences.iter().position(Option::is_none) {
            Some(id) => {
                self.sequences[id] = Some(state);
                id
            }
            None => {
                self.sequences.push(Some(state));
                self.sequences.len() - 1
            }
        }
    }

    fn state(&self, id: SequenceId) -> &State {
        self.sequences[id].as_ref().expect("the sequence is alive")
    }

    /// Tokens stored.
    pub fn length(&self, id: SequenceId) -> usize {
        self.state(id).length
    }

    /// Block numbers.
    pub fn table(&self, id: SequenceId) -> &[u32] {
        &self.state(id).table
    }

    /// Another sequence with the same tokens, sharing their blocks.
    pub fn fork(&mut self, id: SequenceId) -> SequenceId {
        let state = self.state(id).clone();
        for &block in &state.table {
            self.references[block as usize] += 1;
        }
        self.insert(state)
    }

    /// Forgets a sequence.
    pub fn release(&mut self, id: SequenceId) {
        if let Some(state) = self.sequences[id].take() {
            for block in state.table {
                self.unreference(block);
            }
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
        let state = self.sequences[id].as_mut().expect("the sequence is alive");
        state.length = state.length.min(length);
        let cut = state.table.split_off(state.length.div_ceil(BLOCK));
        for block in cut {
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
    pub fn extend_all(&mut self, team: &Team<'_>, more: &[(SequenceId, usize)]) -> Result<()> {
        let mut copies = Vec::new();
        for &(id, tokens) in more {
            copies.extend(self.lengthen(id, tokens)?);
        }
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
        let (length, last) = {
            let state = self.state(id);
            (state.length, state.table.last().copied())
        };
        let mut copied = None;
        if let Some(last) = last.filter(|&b| length % BLOCK != 0 && self.references[b as usize] > 1) {
            let copy = self.allocate()?;
            copied = Some((last, copy));
            self.unreference(last);
            *self.sequences[id].as_mut().expect("alive").table.last_mut().expect("it has a last block") =
                copy;
        }
        while self.state(id).table.len() * BLOCK < length + tokens {
            let block = self.allocate()?;
            self.sequences[id].as_mut().expect("alive").table.push(block);
        }
        self.sequences[id].as_mut().expect("alive").length = length + tokens;
        Ok(copied)
    }

    /// The blocks of all layers, and the tables beside them.
    pub fn parts(&mut self) -> (Layers<'_>, Tables<'_>) {
        (Layers(&mut self.layers), Tables(&self.sequences))
    }

    /// Copies blocks of another cache's sequence to the same places of a sequence that has room for them. Both are of
    /// the same model.
    pub fn copy_blocks(&mut self, id: SequenceId, other: &Cache, from: SequenceId, blocks: Range<usize>) {
        for (layer, source) in self.layers.iter_mut().zip(&other.layers) {
            let (LayerState::KeysAndValues(to), LayerState::KeysAndValues(kv)) = (layer, source);
            let (into, out) = (Tables(&self.sequences).table(id), Tables(&other.sequences).table(from));
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

/// The tables of all sequences.
#[derive(Clone, Copy)]
pub struct Tables<'a>(&'a [Option<State>]);

impl<'a> Tables<'a> {
    pub fn table(&self, id: SequenceId) -> &'a [u32] {
        &self.0[id].as_ref().expect("the sequence is alive").table
    }
}
