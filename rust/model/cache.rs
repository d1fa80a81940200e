//! The state of running and kept sequences: blocks of keys and values, shared by reference counts, with a table for each
//! sequence; and slots of numbers ([`Slots`]).
//!
//! Layers with the same window form a group whose layers have the same block numbers, so a sequence has a table for each
//! group. A sequence grows in steps: [`Cache::extend`] gives it room, the layers store, [`Cache::commit`] ends the step.
//! [`Cache::truncate`] rolls back: blocks by forgetting them, slots to a snapshot. Snapshots are kept at block borders,
//! bounded in memory, and so are blocks that have left a sliding window, so that little is read again when a later prompt
//! differs from this sequence near its end.

use super::slots::{SlotState, Slots};
use super::state::{State, StateLayout, StatePlace};
use crate::error::{Error, Result};
use crate::ops::attention::TILE;
use crate::ops::kv::{BLOCK, KvBlocks, KvType, SEGMENT};
use crate::threads::Team;

/// A sequence of a cache.
pub type SequenceId = usize;

/// Table entry of a block that has been given back.
pub const HOLE: u32 = u32::MAX;

/// Bytes of slots for which a snapshot is kept at each block border; larger ones are kept at borders further apart.
const SNAPSHOT_BYTES: usize = 256 << 10;
/// Widest distance of snapshots, in blocks.
const MAX_SNAPSHOT_BLOCKS: usize = 64;
/// Snapshots of the last borders are kept however far apart the others are: a chat template changes the last tokens.
const RECENT_SNAPSHOTS: usize = 4;

/// The blocks of layers with the same window.
struct Group {
    window: Option<usize>,
    layers: Vec<KvBlocks>,
    references: Vec<u32>,
    free: Vec<u32>,
    /// Segments of blocks that have no memory.
    vacant: Vec<usize>,
    /// Blocks of each sequence, by its id.
    tables: Vec<Vec<u32>>,
    /// The first entry of each table that is not a hole.
    first: Vec<usize>,
    /// Blocks that are still to be copied, and onto which.
    copies: Vec<(u32, u32)>,
}

/// The states of a stack's sequences, or of the sources that it attends to.
pub struct Cache {
    groups: Vec<Group>,
    slots: Slots,
    /// Tokens of each sequence; `None` where there is no sequence: its lists serve the next one of this id.
    lengths: Vec<Option<usize>>,
    states: Vec<SlotState>,
    /// Bytes for blocks that have left their windows, and for snapshots.
    history: usize,
    /// All layers of a group share one layer's memory: for sequences that pass the stack once.
    collapsed: bool,
}

impl Group {
    fn new(window: Option<usize>, layers: Vec<KvBlocks>) -> Group {
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

    fn block_bytes(&self) -> usize {
        self.layers.iter().map(KvBlocks::block_bytes).sum()
    }

    fn allocate(&mut self) -> Result<u32> {
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

    fn in_use(&self) -> usize {
        self.references.len() - self.free.len() - self.vacant.len() * SEGMENT
    }

    /// Frees segments in which no block is in use until the memory is at most `bytes`.
    fn shrink(&mut self, bytes: usize) {
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

    fn release(&mut self, block: u32) {
        if block == HOLE {
            return;
        }
        let count = &mut self.references[block as usize];
        *count -= 1;
        if *count == 0 {
            self.free.push(block);
        }
    }

    /// Gives a sequence of `length` tokens blocks for `tokens` more. A last block that is shared is replaced by a copy.
    fn lengthen(&mut self, id: SequenceId, length: usize, tokens: usize) -> Result<()> {
        let last = self.tables[id].last().copied().filter(|&b| b != HOLE);
        if let Some(last) = last.filter(|&b| !length.is_multiple_of(BLOCK) && self.references[b as usize] > 1)
        {
            let copy = self.allocate()?;
            self.copies.push((last, copy));
            self.release(last);
            *self.tables[id].last_mut().expect("it has a last block") = copy;
        }
        while self.tables[id].len() * BLOCK < length + tokens {
            let block = self.allocate()?;
            self.tables[id].push(block);
        }
        Ok(())
    }

    /// The first entry of a sequence's table that the token at position `length` and later ones read.
    fn visible_from(&self, length: usize) -> usize {
        let window = self.window.unwrap_or(usize::MAX);
        (length + 1).saturating_sub(window) / TILE * (TILE / BLOCK)
    }

    /// Blocks of a sequence that have left the window.
    fn left(&self, id: SequenceId, length: usize) -> usize {
        self.visible_from(length).min(self.tables[id].len()).saturating_sub(self.first[id])
    }

    /// Gives back the first `count` blocks of a sequence.
    fn give_back(&mut self, id: SequenceId, count: usize) {
        for at in self.first[id]..self.first[id] + count {
            let block = std::mem::replace(&mut self.tables[id][at], HOLE);
            self.release(block);
        }
        self.first[id] += count;
    }

    fn copy_shared(&mut self, team: Option<&Team<'_>>) {
        let Group { layers, copies, .. } = self;
        let copy = |layer: &mut KvBlocks| copies.iter().for_each(|&(from, to)| layer.copy_block(from, to));
        match team {
            // The copied block is one that others hold too, so none of the new blocks is copied from.
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

    fn clear(&mut self) {
        self.tables.iter_mut().for_each(Vec::clear);
        self.first.fill(0);
        self.references.fill(0);
        self.free.clear();
        let Group { free, references, vacant, .. } = self;
        let blocks = (0..references.len() as u32).rev();
        free.extend(blocks.filter(|&block| !vacant.contains(&(block as usize / SEGMENT))));
    }
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

    /// A cache for sequences that go through the stack in one pass: a layer's keys and values serve until the next
    /// layer's, so layers of one shape share their memory, which stays in the processor's cache.
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

    /// Bounds the bytes for blocks that have left their windows and for snapshots.
    pub fn keep_history(&mut self, bytes: usize) {
        self.history = bytes;
    }

    /// Forgets all sequences; their memory stays.
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

    /// Another sequence with the same tokens, sharing their state.
    pub fn fork(&mut self, id: SequenceId) -> SequenceId {
        let fork = self.start();
        self.lengths[fork] = Some(self.length(id));
        for group in &mut self.groups {
            let mut table = std::mem::take(&mut group.tables[fork]);
            table.extend_from_slice(&group.tables[id]);
            table.iter().filter(|&&b| b != HOLE).for_each(|&b| group.references[b as usize] += 1);
            group.tables[fork] = table;
            group.first[fork] = group.first[id];
        }
        if !self.slots.is_empty() {
            let mut state = std::mem::take(&mut self.states[fork]);
            let from = &self.states[id];
            (state.current, state.length, state.previous) = (from.current, from.length, from.previous);
            state.snapshots.extend_from_slice(&from.snapshots);
            let previous = state.previous.and_then(|(_, slot)| slot);
            let kept = state.snapshots.iter().map(|&(_, slot)| slot);
            kept.chain(state.current).chain(previous).for_each(|slot| self.slots.reference(slot));
            self.states[fork] = state;
        }
        fork
    }

    /// Forgets a sequence.
    pub fn release(&mut self, id: SequenceId) {
        if self.lengths[id].is_none() {
            return;
        }
        for group in &mut self.groups {
            while let Some(block) = group.tables[id].pop() {
                group.release(block);
            }
            group.first[id] = 0;
        }
        self.roll_back(id, 0);
        self.lengths[id] = None;
    }

    /// Shortens a sequence to `length` tokens, or to fewer where its state cannot be rolled back to just that; returns how
    /// many are left. The others have to be read again.
    pub fn truncate(&mut self, id: SequenceId, length: usize) -> usize {
        let mut length = self.roll_back(id, self.length(id).min(length));
        if self.groups.iter().any(|group| group.first[id] > group.visible_from(length)) {
            // A window's blocks are gone, and those of shorter sequences went before.
            length = self.roll_back(id, 0);
        }
        self.lengths[id] = Some(length);
        for group in &mut self.groups {
            while group.tables[id].len() > length.div_ceil(BLOCK) {
                let block = group.tables[id].pop().expect("it is longer");
                group.release(block);
            }
            group.first[id] = group.first[id].min(group.tables[id].len());
        }
        length
    }

    /// Rolls the slots of a sequence back to `length` tokens or the nearest kept state before; returns its length.
    fn roll_back(&mut self, id: SequenceId, length: usize) -> usize {
        if self.slots.is_empty() {
            return length;
        }
        let Cache { states, slots, .. } = self;
        let state = &mut states[id];
        state
            .pending
            .drain(..)
            .chain(state.next.take().map(|slot| (0, slot)))
            .for_each(|(_, slot)| slots.release(slot));
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

    /// Makes room for `tokens` more, which the caller then stores in every layer.
    pub fn extend(&mut self, id: SequenceId, tokens: usize) -> Result<()> {
        let result = self.lengthen(id, tokens);
        // Without memory for all too: the tables already name the copies.
        self.groups.iter_mut().for_each(|group| group.copy_shared(None));
        result
    }

    /// The same for several sequences, each of which is named once, on all threads.
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

    /// Gives back blocks that have left their windows before the next token at position `length`, but for those that the
    /// history has room for.
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

    /// Blocks between two snapshots.
    fn snapshot_blocks(&self) -> usize {
        self.slots.slot_bytes().div_ceil(SNAPSHOT_BYTES).min(MAX_SNAPSHOT_BLOCKS)
    }

    /// Allocates the slots that a step from `first` to `end` tokens writes.
    fn reserve_slots(&mut self, id: SequenceId, first: usize, end: usize) -> Result<()> {
        let distance = BLOCK * self.snapshot_blocks();
        let Cache { slots, states, history, .. } = self;
        let state = &mut states[id];
        if let Some((_, Some(slot))) = state.previous.take() {
            slots.release(slot);
        }
        state.next = Some(slots.allocate()?);
        if *history == 0 {
            return Ok(());
        }
        // Borders that the next tokens do not already leave as the step's last state.
        let recent = (end.saturating_sub(1) / BLOCK * BLOCK).saturating_sub((RECENT_SNAPSHOTS - 1) * BLOCK);
        for border in (first / BLOCK + 1..).map(|block| block * BLOCK).take_while(|&border| border < end) {
            if border.is_multiple_of(distance) || border >= recent {
                state.pending.push((border, slots.allocate()?));
            }
        }
        Ok(())
    }

    /// Ends a step of some sequences: what it stored is theirs.
    pub fn commit(&mut self, ids: impl Iterator<Item = SequenceId>) {
        if self.slots.is_empty() {
            return;
        }
        let distance = BLOCK * self.snapshot_blocks();
        let Cache { slots, states, lengths, history, .. } = self;
        // A few snapshots always: with large states they are all that the history has room for.
        let most = (*history / 4 / slots.slot_bytes()).max(2 * RECENT_SNAPSHOTS);
        for id in ids {
            let state = &mut states[id];
            let Some(next) = state.next.take() else { continue };
            state.previous = Some((state.length, state.current.replace(next)));
            state.length = lengths[id].expect("the sequence is alive");
            state.snapshots.append(&mut state.pending);
            if *history > 0 && state.length.is_multiple_of(BLOCK) {
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

    /// The state of a block, with the states of all sequences.
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
            for state in ids.map(|id| &self.states[id]) {
                let previous = state.previous.and_then(|(_, slot)| slot);
                seen.extend(
                    state.snapshots.iter().map(|&(_, slot)| slot).chain(state.current).chain(previous),
                );
            }
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

    /// Gives back memory of blocks and slots that are not in use, down to about `bytes` of each.
    pub fn shrink(&mut self, bytes: usize) {
        self.groups.iter_mut().for_each(|group| group.shrink(bytes));
        self.slots.shrink(bytes);
    }

    /// Blocks and slots in use, counted once however often they are shared.
    pub fn in_use(&self) -> usize {
        self.groups.iter().map(Group::in_use).sum::<usize>() + self.slots.in_use()
    }
}

#[cfg(test)]
mod tests;
