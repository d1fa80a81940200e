//! Slots: rows of f32 numbers that hold a sequence's recurrent states, shared by reference counts.
//!
//! A slot is immutable once a step has ended: a step reads one slot and writes another. So forks and
//! snapshots are references, and a failed step leaves the sequence unchanged.

use super::counted::Counted;
use crate::error::Result;
use crate::tensor::Buffer;
use std::ops::Range;

/// Number of a slot.
pub type SlotId = u32;

/// Bytes of an allocation, of at least one slot.
const CHUNK_BYTES: usize = 1 << 20;

/// The slots of a cache.
pub struct Slots {
    width: usize,
    per_chunk: usize,
    chunks: Vec<Buffer<f32>>,
    counted: Counted,
}

impl Slots {
    /// Slots of `width` numbers; no slots if it is 0.
    pub fn new(width: usize) -> Slots {
        let per_chunk = (CHUNK_BYTES / (4 * width.max(1))).max(1);
        Slots { width, per_chunk, chunks: Vec::new(), counted: Counted::new("slot", per_chunk) }
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
        self.counted.in_use()
    }

    /// A slot with one reference; its contents are undefined.
    pub fn allocate(&mut self) -> Result<SlotId> {
        let Slots { width, per_chunk, chunks, counted } = self;
        counted.allocate(|chunk| {
            let memory = Buffer::zeroed(*per_chunk * *width)?;
            chunks.resize_with(chunks.len().max(chunk + 1), Buffer::default);
            chunks[chunk] = memory;
            Ok(())
        })
    }

    pub fn reference(&mut self, slot: SlotId) {
        self.counted.reference(slot);
    }

    pub fn release(&mut self, slot: SlotId) {
        self.counted.release(slot);
    }

    /// Frees all slots; their memory stays.
    pub fn clear(&mut self) {
        self.counted.clear();
    }

    /// Frees chunks in which no slot is in use until the memory is at most `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let chunk_bytes = (self.per_chunk * self.slot_bytes()).max(1);
        self.counted.shrink(bytes / chunk_bytes, |chunk| self.chunks[chunk] = Buffer::default());
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
