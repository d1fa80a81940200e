//! The state of running and kept sequences: blocks of keys and values, shared by reference counts, with a
//! table for each sequence; and slots of numbers ([`Slots`]).
//!
//! Layers with the same window form a group whose layers have the same block numbers, so a sequence has a
//! table for each group. A sequence grows in steps: [`Cache::extend`] gives it room, the layers store,
//! [`Cache::commit`] ends the step. [`Cache::truncate`] rolls back: blocks by forgetting them, slots to a
//! snapshot. Snapshots at block borders and blocks that have left a sliding window are kept within a bound of
//! bytes, so that a later prompt that differs from this sequence near its end reads few tokens again.

mod group;

use super::slots::{SlotState, Slots};
use super::state::{State, StateLayout, StatePlace};
use crate::error::Result;
use crate::ops::kv::{KV_BLOCK, KvBlocks, KvType};
use crate::threads::Team;
pub use group::SequenceId;
use group::{Group, HOLE};

/// Maximum slot size in bytes for a snapshot at each block border; larger slots have snapshots at borders
/// further apart.
const SNAPSHOT_BYTES: usize = 256 << 10;
/// Maximum distance of snapshots in blocks.
const MAX_SNAPSHOT_BLOCKS: usize = 64;
/// Number of last borders whose snapshots are kept for any distance of the others: a chat template changes
/// the last tokens.
const RECENT_SNAPSHOTS: usize = 4;

/// The states of the sequences of a stack, or of the sources that it attends to.
pub struct Cache {
    groups: Vec<Group>,
    slots: Slots,
    /// Tokens of each sequence; `None` for a free id, whose lists the next sequence reuses.
    lengths: Vec<Option<usize>>,
    states: Vec<SlotState>,
    /// Maximum bytes of blocks that have left their windows, and of snapshots.
    history: usize,
    /// All layers of a group share the memory of one layer: for sequences in a single pass.
    collapsed: bool,
}

impl Cache {
    /// An empty cache for a stack's sequences.
    pub fn new(layout: &StateLayout, kv_type: KvType) -> Cache {
        let group = |group: &super::state::GroupLayout| {
            let layers = group.layers.iter().map(|&shape| KvBlocks::new(shape, kv_type));
            Group::new(group.window, layers.collect())
        };
        Cache {
            groups: layout.groups.iter().map(group).collect(),
            slots: Slots::new(layout.slot_width),
            lengths: Vec::new(),
            states: Vec::new(),
            history: 0,
            collapsed: false,
        }
    }

    /// An empty cache for the sources that a stack attends to.
    pub fn of_sources(layout: &StateLayout, kv_type: KvType) -> Cache {
        let layers = layout.sources.iter().map(|&shape| KvBlocks::new(shape, kv_type)).collect();
        Cache { groups: vec![Group::new(None, layers)], ..Cache::new(&StateLayout::default(), kv_type) }
    }

    /// A cache for sequences that go through the stack in one pass: keys and values of a layer are read only
    /// until the next layer's are stored, so layers of one shape share memory, which stays in the CPU's
    /// cache.
    pub fn scratch(layout: &StateLayout, kv_type: KvType) -> Cache {
        let alike =
            |group: &super::state::GroupLayout| group.layers.windows(2).all(|pair| pair[0] == pair[1]);
        let mut layout = layout.clone();
        let collapsed = layout.groups.iter().all(alike);
        if collapsed {
            layout.groups.iter_mut().for_each(|group| group.layers.truncate(1));
        }
        Cache { collapsed, ..Cache::new(&layout, kv_type) }
    }

    /// Sets the bound for blocks that have left their windows and for snapshots.
    pub fn keep_history(&mut self, bytes: usize) {
        self.history = bytes;
    }

    /// Removes all sequences; their memory is reused.
    pub fn clear(&mut self) {
        self.lengths.clear();
        self.states.iter_mut().for_each(|state| *state = SlotState::default());
        self.groups.iter_mut().for_each(Group::clear);
        self.slots.clear();
    }

    /// Starts an empty sequence.
    pub fn start(&mut self) -> SequenceId {
        let id = self.lengths.iter().position(Option::is_none).unwrap_or(self.lengths.len());
        if id == self.lengths.len() {
            self.lengths.push(None);
        }
        let count = self.lengths.len();
        for group in &mut self.groups {
            group.tables.resize(group.tables.len().max(count), Vec::new());
            group.first.resize(group.first.len().max(count), 0);
        }
        self.states.resize(self.states.len().max(count), SlotState::default());
        self.lengths[id] = Some(0);
        id
    }

    /// Tokens stored.
    pub fn length(&self, id: SequenceId) -> usize {
        self.lengths[id].expect("the sequence is alive")
    }

    /// A new sequence with the same tokens, which shares their state.
    pub fn fork(&mut self, id: SequenceId) -> SequenceId {
        let fork = self.start();
        self.lengths[fork] = Some(self.length(id));
        for group in &mut self.groups {
            let mut table = std::mem::take(&mut group.tables[fork]);
            table.extend_from_slice(&group.tables[id]);
            group.tables[fork] = table;
            group.reference_all(fork);
            group.first[fork] = group.first[id];
        }
        if !self.slots.is_empty() {
            let mut state = std::mem::take(&mut self.states[fork]);
            let from = &self.states[id];
            (state.current, state.length, state.previous) = (from.current, from.length, from.previous);
            state.snapshots.extend_from_slice(&from.snapshots);
            state.held().for_each(|slot| self.slots.reference(slot));
            self.states[fork] = state;
        }
        fork
    }

    /// Removes a sequence.
    pub fn release(&mut self, id: SequenceId) {
        if self.lengths[id].is_some() {
            self.truncate(id, 0);
            self.lengths[id] = None;
        }
    }

    /// Truncates a sequence to `length` tokens, or to fewer if its state cannot be rolled back exactly there;
    /// returns its new length. The tokens from there on must be read again.
    pub fn truncate(&mut self, id: SequenceId, length: usize) -> usize {
        let mut length = self.roll_back(id, self.length(id).min(length));
        if self.groups.iter().any(|group| group.first[id] > group.visible_from(length)) {
            // Blocks of the window have been released, and those before them earlier.
            length = self.roll_back(id, 0);
        }
        self.lengths[id] = Some(length);
        for group in &mut self.groups {
            while group.tables[id].len() > length.div_ceil(KV_BLOCK) {
                let block = group.tables[id].pop().expect("it is longer");
                group.release(block);
            }
            group.first[id] = group.first[id].min(group.tables[id].len());
        }
        length
    }

    /// Rolls the slots of a sequence back to the last kept state at or before `length` tokens; returns its
    /// length.
    fn roll_back(&mut self, id: SequenceId, length: usize) -> usize {
        if self.slots.is_empty() {
            return length;
        }
        let Cache { states, slots, .. } = self;
        let state = &mut states[id];
        let written = state.pending.drain(..).map(|(_, slot)| slot).chain(state.next.take());
        written.for_each(|slot| slots.release(slot));
        if length >= state.length {
            return state.length;
        }
        if let Some(slot) = state.current.take() {
            slots.release(slot);
        }
        while let Some((_, slot)) = state.snapshots.pop_if(|(at, _)| *at > length) {
            slots.release(slot);
        }
        let kept = state.snapshots.last().copied();
        let previous = state.previous.take();
        state.length = 0;
        if let Some((at, slot)) = kept {
            slots.reference(slot);
            (state.current, state.length) = (Some(slot), at);
        }
        match previous {
            Some((at, slot)) if at <= length && at > state.length => {
                let older = std::mem::replace(&mut state.current, slot);
                older.into_iter().for_each(|slot| slots.release(slot));
                state.length = at;
            }
            Some((_, Some(slot))) => slots.release(slot),
            _ => {}
        }
        state.length
    }

    /// Makes room for `tokens` more tokens, which the caller then stores in every layer.
    pub fn extend(&mut self, id: SequenceId, tokens: usize) -> Result<()> {
        let result = self.lengthen(id, tokens);
        // Without memory for all too: the tables already name the copies.
        self.groups.iter_mut().for_each(|group| group.copy_shared(None));
        result
    }

    /// The same for several distinct sequences, on all threads.
    pub fn extend_all(
        &mut self,
        team: &Team<'_>,
        mut more: impl Iterator<Item = (SequenceId, usize)>,
    ) -> Result<()> {
        let result = more.try_for_each(|(id, tokens)| self.lengthen(id, tokens));
        self.groups.iter_mut().for_each(|group| group.copy_shared(Some(team)));
        result
    }

    fn lengthen(&mut self, id: SequenceId, tokens: usize) -> Result<()> {
        let length = self.length(id);
        for group in &mut self.groups {
            group.lengthen(id, length, tokens)?;
        }
        self.leave_windows(id, length);
        if !self.slots.is_empty() {
            self.reserve_slots(id, length, length + tokens)?;
        }
        self.lengths[id] = Some(length + tokens);
        Ok(())
    }

    /// Releases blocks that have left their windows for the token at position `length`, except those that fit
    /// in the history.
    fn leave_windows(&mut self, id: SequenceId, length: usize) {
        let Cache { groups, lengths, history, .. } = self;
        for group in groups.iter_mut().filter(|group| group.window.is_some()) {
            let own = group.left(id, length);
            if own == 0 {
                continue;
            }
            let alive = lengths.iter().enumerate().filter_map(|(id, length)| Some((id, (*length)?)));
            let all: usize = alive.map(|(id, length)| group.left(id, length)).sum();
            let room = *history / group.block_bytes().max(1);
            group.give_back(id, all.saturating_sub(room).min(own));
        }
    }

    /// Distance of snapshots in blocks.
    fn snapshot_blocks(&self) -> usize {
        self.slots.slot_bytes().div_ceil(SNAPSHOT_BYTES).min(MAX_SNAPSHOT_BLOCKS)
    }

    /// Allocates the slots that a step from `first` to `end` tokens writes.
    fn reserve_slots(&mut self, id: SequenceId, first: usize, end: usize) -> Result<()> {
        let distance = KV_BLOCK * self.snapshot_blocks();
        let Cache { slots, states, history, .. } = self;
        let state = &mut states[id];
        if let Some((_, Some(slot))) = state.previous.take() {
            slots.release(slot);
        }
        state.next = Some(slots.allocate()?);
        if *history == 0 {
            return Ok(());
        }
        // Inner borders; the state at the end of the step is kept anyway.
        let recent =
            (end.saturating_sub(1) / KV_BLOCK * KV_BLOCK).saturating_sub((RECENT_SNAPSHOTS - 1) * KV_BLOCK);
        for border in
            (first / KV_BLOCK + 1..).map(|block| block * KV_BLOCK).take_while(|&border| border < end)
        {
            if border.is_multiple_of(distance) || border >= recent {
                state.pending.push((border, slots.allocate()?));
            }
        }
        Ok(())
    }

    /// Commits a step of some sequences.
    pub fn commit(&mut self, ids: impl Iterator<Item = SequenceId>) {
        if self.slots.is_empty() {
            return;
        }
        let distance = KV_BLOCK * self.snapshot_blocks();
        let Cache { slots, states, lengths, history, .. } = self;
        // A few snapshots are always kept: large states would otherwise leave none.
        let most = (*history / 4 / slots.slot_bytes()).max(2 * RECENT_SNAPSHOTS);
        for id in ids {
            let state = &mut states[id];
            let Some(next) = state.next.take() else { continue };
            state.previous = Some((state.length, state.current.replace(next)));
            state.length = lengths[id].expect("the sequence is alive");
            state.snapshots.append(&mut state.pending);
            if *history > 0 && state.length.is_multiple_of(KV_BLOCK) {
                slots.reference(next);
                state.snapshots.push((state.length, next));
            }
            let recent = state.snapshots.len().saturating_sub(RECENT_SNAPSHOTS);
            let mut at = 0;
            let surplus = state.snapshots.len() > most;
            state.snapshots.retain(|&(border, slot)| {
                at += 1;
                let kept = at > recent
                    || border.is_multiple_of(distance) && !(surplus && usize::is_multiple_of(at, 2));
                if !kept {
                    slots.release(slot);
                }
                kept
            });
        }
    }

    /// The state of a residual block for all sequences.
    pub fn state(&mut self, place: StatePlace) -> State<'_> {
        match place {
            StatePlace::None => State::None,
            StatePlace::Blocks { group, layer } => self.blocks(group, layer),
            StatePlace::Sources { layer } => self.blocks(0, layer),
            StatePlace::Slots { offset, width } => State::Slots(self.slots.rows(offset, width, &self.states)),
        }
    }

    fn blocks(&mut self, group: usize, layer: usize) -> State<'_> {
        let layer = if self.collapsed { 0 } else { layer };
        let Group { layers, tables, .. } = &mut self.groups[group];
        State::Blocks { kv: &mut layers[layer], tables }
    }

    /// Bytes of the state of some sequences, each block and slot counted once.
    pub fn bytes_of(&self, ids: impl Iterator<Item = SequenceId> + Clone) -> usize {
        let mut seen = Vec::new();
        let mut bytes = 0;
        for group in &self.groups {
            seen.clear();
            seen.extend(ids.clone().flat_map(|id| group.tables[id].iter().copied()).filter(|&b| b != HOLE));
            seen.sort_unstable();
            seen.dedup();
            bytes += seen.len() * group.block_bytes();
        }
        if !self.slots.is_empty() {
            seen.clear();
            seen.extend(ids.flat_map(|id| self.states[id].held()));
            seen.sort_unstable();
            seen.dedup();
            bytes += seen.len() * self.slots.slot_bytes();
        }
        bytes
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let blocks = self.groups.iter().flat_map(|group| &group.layers).map(KvBlocks::bytes);
        blocks.sum::<usize>() + self.slots.bytes()
    }

    /// Frees unused blocks and slots, down to about `bytes` of each.
    pub fn shrink(&mut self, bytes: usize) {
        self.groups.iter_mut().for_each(|group| group.shrink(bytes));
        self.slots.shrink(bytes);
    }

    /// Number of blocks and slots in use; shared ones count once.
    pub fn in_use(&self) -> usize {
        self.groups.iter().map(Group::in_use).sum::<usize>() + self.slots.in_use()
    }
}

#[cfg(test)]
mod tests;
