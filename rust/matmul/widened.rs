//! Products with weights whose blocks are turned into others before the kernels read them: once for all rows.

use super::quantized::{self, Kernels, Panels, blocks};
use super::strips::Strips;
use super::{Matrix, PANEL};
use crate::simd::Level;
use crate::tensor::{Buffer, sized};
use std::ops::Range;

/// How a type's blocks become those that kernels read.
pub struct Widening {
    /// Bytes of a block of so many groups, before and after.
    pub packed: fn(usize) -> usize,
    pub wide: fn(usize) -> usize,
    /// Makes one of the other, of so many groups.
    pub widen: fn(Level, usize, &[u8], &mut [u8]),
}

/// Two panels that were turned into others.
struct Widened<'a> {
    inputs: usize,
    panel_bytes: usize,
    bytes: &'a [u8],
    coming: &'a [u8],
}

impl Panels for Widened<'_> {
    fn inputs(&self) -> usize {
        self.inputs
    }

    fn panel(&self, panel: usize) -> &[u8] {
        &self.bytes[panel * self.panel_bytes..][..self.panel_bytes]
    }

    fn coming(&self) -> &[u8] {
        self.coming
    }
}

/// As [`quantized::product`], with weights that are widened before the kernels read them: two panels at a time, which all tiles go
/// through. `memory` is a thread's own.
pub fn product(
    level: Level,
    kernels: &Kernels,
    &Widening { packed, wide, widen }: &Widening,
    w: &Matrix,
    panels: Range<usize>,
    s: &Strips,
    tiles: Range<usize>,
    memory: &mut Buffer<f32>,
    out: &mut [f32],
) {
    let (inputs, rows) = (w.inputs(), s.rows_of(&tiles).1);
    let panel_bytes = blocks(inputs, wide).last().map_or(0, |(_, range)| range.end);
    let memory = bytes(memory, 2 * panel_bytes);
    for (first, out) in panels.clone().step_by(2).zip(out.chunks_mut(2 * rows * PANEL)) {
        let count = 2.min(panels.end - first);
        for i in 0..count {
            let (panel, memory) = (w.panel(first + i), &mut memory[i * panel_bytes..]);
            for ((groups, from), (_, to)) in blocks(inputs, packed).zip(blocks(inputs, wide)) {
                widen(level, groups, &panel[from], &mut memory[to]);
            }
        }
        let behind = first + count..(first + count + 2).min(w.panels());
        let coming = if behind.is_empty() { &[] } else { w.some_panels(behind) };
        let widened = Widened { inputs, panel_bytes, bytes: memory, coming };
        quantized::product(kernels, wide, &widened, 0..count, s, tiles.clone(), out);
    }
}

/// Some bytes of a buffer, from a cache line on.
pub fn bytes(memory: &mut Buffer<f32>, length: usize) -> &mut [u8] {
    let memory = sized(memory, length.div_ceil(4));
    // SAFETY: any bytes are f32, and any f32 is bytes.
    let (_, bytes, _) = unsafe { memory.align_to_mut::<u8>() };
    &mut bytes[..length]
}
