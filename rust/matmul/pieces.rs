//! Products that are consumed piece by piece instead of stored: the logits of a large vocabulary.

use super::activations::Input;
use super::driver::{MAX_ROWS, Scratch, cuts, product, slab};
use super::matrix::Matrix;
use super::panel::PANEL;
use super::select::Products;
use super::subproduct::Subproduct;
use crate::simd::level;
use crate::tensor::sized;
use crate::threads::Team;
use std::ops::Range;
use std::sync::PoisonError;

/// Panels in a piece.
const PANELS: usize = 16;
/// Outputs in a piece, except the last: independent of the number of rows and threads.
pub const PIECE: usize = PANELS * PANEL;

/// `x @ weight.T` of some rows and the outputs of one piece, in the scratch of the thread that computed it.
pub struct Piece<'a> {
    pub number: usize,
    pub outputs: Range<usize>,
    pub rows: Range<usize>,
    /// `[panel][row][16]`; the last panel may be padded.
    pub values: &'a mut [f32],
}

/// Computes `x @ weight.T` for `x: [rows, inputs]`; `take(piece, thread)` receives every output of every row
/// once.
pub fn linear_in_pieces(
    team: &Team<'_>,
    scratch: &mut Scratch,
    x: Input<'_>,
    rows: usize,
    weight: &Matrix,
    take: &(dyn Fn(Piece<'_>, usize) + Sync),
) {
    let (inputs, level) = (weight.inputs(), level());
    assert_eq!(x.values.len(), rows * inputs, "activations of {rows} rows");
    let pieces = weight.panels().div_ceil(PANELS);
    for from in (0..rows).step_by(MAX_ROWS) {
        let rows = MAX_ROWS.min(rows - from);
        let (view, threads) = scratch.prepare(team, level, weight, x, from, rows);
        let tiles = view.packed.tiles.len();
        let cuts = cuts(team, rows, pieces, tiles);
        team.run(pieces * cuts, &|chunk, thread| {
            let (number, cut) = (chunk / cuts, chunk % cuts);
            let panels = number * PANELS..((number + 1) * PANELS).min(weight.panels());
            let outputs = number * PIECE..((number + 1) * PIECE).min(weight.outputs());
            let work = &mut *threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
            let (mut next, end) = (tiles * cut / cuts, tiles * (cut + 1) / cuts);
            while next < end {
                let tiles =
                    slab(view.packed, next..end, panels.len(), Products::of(weight, level, rows).slab());
                next = tiles.end;
                let (first, rows) = view.packed.rows_of(&tiles);
                let values = sized(&mut work.result, panels.len() * rows * PANEL);
                let part =
                    Subproduct { weight, panels: panels.clone(), x: view, tiles, rows: view.packed.rows };
                product(level, part, &mut work.unpacked, values);
                let rows = from + first..from + first + rows;
                take(Piece { number, outputs: outputs.clone(), rows, values }, thread);
            }
        });
    }
}
