//! The state that the blocks of a stack keep of a sequence between steps, and its place in a
//! [`Cache`](super::Cache).

use super::slots::SlotRows;
use crate::ops::kv::{KvBlocks, KvShape};

/// The kind of state that a body keeps of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    None,
    /// Keys and values of the sequence's tokens; those at a distance of `window` or more are no longer read.
    Blocks {
        shape: KvShape,
        window: Option<usize>,
    },
    /// Keys and values of the source, which are stored once.
    Sources(KvShape),
    /// A fixed number of f32 values that a step replaces (convolution tails, recurrent states). Rollback
    /// needs snapshots in the cache.
    Slots(usize),
}

/// The place of a block's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatePlace {
    None,
    /// Layer of a group, whose layers share their tables of blocks.
    Blocks {
        group: usize,
        layer: usize,
    },
    /// Layer of the sources' cache.
    Sources {
        layer: usize,
    },
    /// Numbers of each slot from `offset` on.
    Slots {
        offset: usize,
        width: usize,
    },
}

/// The state that a body reads and writes in a pass.
pub enum State<'a> {
    None,
    Blocks { kv: &'a mut KvBlocks, tables: &'a [Vec<u32>] },
    Slots(SlotRows<'a>),
}

impl<'a> State<'a> {
    /// Blocks of keys and values with the tables of all sequences.
    ///
    /// # Panics
    /// If the body has declared another kind of state.
    pub fn blocks(self) -> (&'a mut KvBlocks, &'a [Vec<u32>]) {
        match self {
            State::Blocks { kv, tables } => (kv, tables),
            _ => panic!("the body declares blocks of keys and values"),
        }
    }

    /// Slots of numbers.
    ///
    /// # Panics
    /// As [`State::blocks`].
    pub fn slots(self) -> SlotRows<'a> {
        match self {
            State::Slots(rows) => rows,
            _ => panic!("the body declares slots"),
        }
    }
}

/// Layers with the same window, whose sequences have the same block numbers.
#[derive(Debug, Clone)]
pub struct GroupLayout {
    pub window: Option<usize>,
    pub layers: Vec<KvShape>,
}

/// The states of a stack.
#[derive(Debug, Clone, Default)]
pub struct StateLayout {
    pub groups: Vec<GroupLayout>,
    pub sources: Vec<KvShape>,
    /// Numbers in a slot.
    pub slot_width: usize,
    /// The place of the state of each block of each layer.
    pub places: Vec<Vec<StatePlace>>,
}

impl StateLayout {
    /// The layout for the states of the blocks of each layer.
    pub fn of<L: Iterator<Item = StateKind>>(layers: impl Iterator<Item = L>) -> StateLayout {
        let mut layout = StateLayout::default();
        for layer in layers {
            let places = layer.map(|kind| layout.add(kind)).collect();
            layout.places.push(places);
        }
        layout
    }

    fn add(&mut self, kind: StateKind) -> StatePlace {
        match kind {
            StateKind::None => StatePlace::None,
            StateKind::Blocks { shape, window } => {
                let known = self.groups.iter().position(|group| group.window == window);
                let group = known.unwrap_or_else(|| {
                    self.groups.push(GroupLayout { window, layers: Vec::new() });
                    self.groups.len() - 1
                });
                let layers = &mut self.groups[group].layers;
                layers.push(shape);
                StatePlace::Blocks { group, layer: layers.len() - 1 }
            }
            StateKind::Sources(shape) => {
                self.sources.push(shape);
                StatePlace::Sources { layer: self.sources.len() - 1 }
            }
            StateKind::Slots(width) => {
                let offset = self.slot_width;
                self.slot_width += width.next_multiple_of(16);
                StatePlace::Slots { offset, width }
            }
        }
    }
}
