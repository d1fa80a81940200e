//! Slots: rows of f32 numbers that hold a sequence's recurrent states, shared by reference counts.
//!
//! A slot is immutable once a step has ended: a step reads one slot and writes another. So forks and
//! snapshots are references, and a failed step leaves the sequence unchanged.

use crate::error::{Error, Result};
use crate::tensor::Buffer;
use std::ops::Range;

/// Number of a slot.
pub type SlotId = u32;

/// Bytes of an allocation, of at least one slot.
const CHUNK_BYTES: usize = 1 << 20;

/// The slots of a cache.
#[derive(Default)]
pub struct Slots {
    width: usize,
    per_chunk: usize,
    chunks: Vec<Buffer<f32>>,
    references: Vec<u32>,
    free: Vec<SlotId>,
    /// Chunks that have no memory.
    vacant: Vec<usize>,
}

impl Slots {
    /// Slots of `width` numbers; no slots if it is 0.
    pub fn new(width: usize) -> Slots {
        let per_chunk = (CHUNK_BYTES / (4 * width.max(1))).max(1);
        Slots { width, per_chunk, ..Slots::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.width == 0
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> usize {
        4 * self.width
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| 4 * chunk.len()).sum()
    }

    pub fn in_use(&self) -> usize {
        self.references.len() - self.free.len() - self.vacant.len() * self.per_chunk
    }

    /// A slot with one reference; its contents are undefined.
    pub fn allocate(&mut self) -> Result<SlotId> {
        if self.free.is_empty() {
            let chunk = self.vacant.last().copied().unwrap_or(self.chunks.len());
            let end = u32::try_from((chunk + 1) * self.per_chunk)
                .map_err(|_| Error::Memory("the cache has no slot numbers left".to_owned()))?;
            let memory = Buffer::zeroed(self.per_chunk * self.width)?;
            if self.vacant.pop().is_some() {
                self.chunks[chunk] = memory;
            } else {
                self.chunks.push(memory);
                self.references.resize(end as usize, 0);
            }
            self.free.extend((end - self.per_chunk as u32..end).rev());
        }
        let slot = self.free.pop().expect("one was added");
        self.references[slot as usize] = 1;
        Ok(slot)
    }

    pub fn reference(&mut self, slot: SlotId) {
        self.references[slot as usize] += 1;
    }

    pub fn release(&mut self, slot: SlotId) {
        let count = &mut self.references[slot as usize];
        *count -= 1;
        if *count == 0 {
            self.free.push(slot);
        }
    }

    /// Frees all slots; their memory stays.
    pub fn clear(&mut self) {
        self.references.fill(0);
        self.free.clear();
        let Slots { free, references, vacant, per_chunk, .. } = self;
        let slots = (0..references.len() as u32).rev();
        free.extend(slots.filter(|&slot| !vacant.contains(&(slot as usize / *per_chunk))));
    }

    /// Frees chunks in which no slot is in use until the memory is at most `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let mut memory = self.bytes();
        if memory <= bytes {
            return;
        }
        let Slots { chunks, free, vacant, per_chunk, .. } = self;
        let mut unused = vec![0; chunks.len()];
        free.iter().for_each(|&slot| unused[slot as usize / *per_chunk] += 1);
        for chunk in (0..chunks.len()).rev().filter(|&chunk| unused[chunk] == *per_chunk) {
            if memory <= bytes {
                break;
            }
            memory -= 4 * std::mem::take(&mut chunks[chunk]).len();
            vacant.push(chunk);
        }
        free.retain(|&slot| !vacant.contains(&(slot as usize / *per_chunk)));
    }

    /// The numbers `offset..offset + width` of every slot, for the sequences whose states are `states`.
    pub fn rows<'a>(&'a mut self, offset: usize, width: usize, states: &'a [SlotState]) -> SlotRows<'a> {
        let (stride, per_chunk) = (self.width, self.per_chunk);
        SlotRows { chunks: &mut self.chunks, stride, per_chunk, offset, width, states }
    }
}

/// The slots of a sequence.
#[derive(Debug, Clone, Default)]
pub struct SlotState {
    /// State after `length` tokens; `None` is all zeros, at the beginning.
    pub current: Option<SlotId>,
    pub length: usize,
    /// State that the current step writes.
    pub next: Option<SlotId>,
    /// Lengths inside the step at which the state is kept too, in ascending order.
    pub pending: Vec<(usize, SlotId)>,
    /// State before the last step, for the rollback of rejected guesses.
    pub previous: Option<(usize, Option<SlotId>)>,
    /// Kept states, in ascending order of length.
    pub snapshots: Vec<(usize, SlotId)>,
}

impl SlotState {
    /// The slots with a reference of the sequence, between steps.
    pub fn held(&self) -> impl Iterator<Item = SlotId> {
        let snapshots = self.snapshots.iter().map(|&(_, slot)| slot);
        snapshots.chain(self.current).chain(self.previous.and_then(|(_, slot)| slot))
    }
}

/// The part of the slots that belongs to one block.
pub struct SlotRows<'a> {
    chunks: &'a mut [Buffer<f32>],
    stride: usize,
    per_chunk: usize,
    offset: usize,
    width: usize,
    states: &'a [SlotState],
}

impl SlotRows<'_> {
    /// The state of a sequence at the beginning of a step; `None` is all zeros.
    pub fn current(&self, sequence: usize) -> Option<&[f32]> {
        let (chunk, range) = self.place(self.states[sequence].current?);
        Some(&self.chunks[chunk][range])
    }

    /// Calls `write(position, numbers)` for each state to keep of a step from `first` to `end`: those at
    /// inner positions, and the last.
    pub fn write(
        &mut self,
        sequence: usize,
        first: usize,
        end: usize,
        mut write: impl FnMut(usize, &mut [f32]),
    ) {
        let state = &self.states[sequence];
        let inner = state.pending.iter().filter(|(at, _)| (first + 1..=end).contains(at));
        let last = state.next.map(|slot| (end, slot));
        for (position, slot) in inner.copied().chain(last) {
            let (chunk, range) = self.place(slot);
            write(position, &mut self.chunks[chunk][range]);
        }
    }

    /// The chunk of a slot, and where the part is in it.
    fn place(&self, slot: SlotId) -> (usize, Range<usize>) {
        let slot = slot as usize;
        let at = slot % self.per_chunk * self.stride + self.offset;
        (slot / self.per_chunk, at..at + self.width)
    }
}
