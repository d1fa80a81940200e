//! What the blocks of a stack keep of a sequence between steps, and where it lies in a [`Cache`](super::Cache).

use super::slots::SlotRows;
use crate::ops::kv::{KvBlocks, KvShape};

/// What a body keeps of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    None,
    /// Keys and values of the sequence's tokens, of which those at a distance of `window` or more are no longer read.
    Blocks {
        shape: KvShape,
        window: Option<usize>,
    },
    /// Keys and values of the source, stored once.
    Sources(KvShape),
    /// f32 numbers of a fixed count, which a step replaces (convolution tails, recurrent states). They cannot be rolled
    /// back, so the cache keeps snapshots.
    Slots(usize),
}

/// Where the state of a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatePlace {
    None,
    /// Layer of a group of layers that share their tables of blocks.
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
    /// If the state is of another kind than the body has declared.
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

/// Layers whose sequences have the same blocks: those with the same window.
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
    /// Where the state of each block of each layer lies.
    pub places: Vec<Vec<StatePlace>>,
}

impl StateLayout {
    /// The layout for layers whose blocks keep these states.
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
