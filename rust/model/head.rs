//! The language head: logits of states, or the top-k of each row.

use super::loaded::{Model, missing};
use super::session::{MAX_RETAINED_BYTES, Session, finite};
use super::walk::Linear;
use crate::error::Result;
use crate::matmul::linear;
use crate::ops::kv::KvType;
use crate::ops::top_logits::{LogitEpilogue, TopLogits};
use crate::tensor::sized;
use crate::threads::Team;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

const A_LOGIT: &str = "a logit";

/// Rows whose logits are computed at a time.
const ROWS: usize = 512;

impl<'a> Session<'a> {
    fn language_head(&self) -> Result<(LogitEpilogue<'a>, &'a Linear)> {
        let head = self.model.spec.language_head.as_ref().ok_or_else(|| missing("a language head"))?;
        let output = &self.model.weights.language_head.as_ref().expect("as the description").output;
        let softcap = head.softcap.map(|cap| cap as f32);
        let (weight, bias) = (&*output.weight, output.bias.as_deref());
        Ok((LogitEpilogue { weight, bias, scale: head.scale as f32, softcap }, output))
    }

    /// Calls `body` with rows of the last states as input of the head's product, `[rows, width]`.
    fn with_head_input<R>(&mut self, rows: Range<usize>, body: impl FnOnce(&mut Self, &[f32]) -> R) -> R {
        let width = self.model.spec.last_stack().output_width();
        let states = std::mem::take(&mut self.scratch.blocks.x);
        let x = &states[rows.start * width..rows.end * width];
        let result = match (&self.model.spec.language_head, &self.model.weights.language_head) {
            (Some(head), Some(w)) if !head.transform.is_empty() => {
                let transformed = self.head_layers(&w.transform, x.to_vec(), rows.len());
                body(self, &transformed)
            }
            _ => body(self, x),
        };
        self.scratch.blocks.x = states;
        result
    }

    /// Calls `take` with the logits of some rows of the last states, `[rows, vocab]`, in reused memory, and
    /// with whether all of them are finite.
    pub fn with_logits(
        &mut self,
        rows: Range<usize>,
        take: &mut dyn FnMut(&mut [f32], bool) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.scratch.logits);
        let logits = sized(&mut buffer, rows.len() * self.model.vocab_size()?);
        let taken = self.logits_of_rows(rows, logits).and_then(|()| {
            let finite = all_finite(self.team, logits, self.model.kv_type()).is_ok();
            // After an interrupt the logits are not all scaled and checked.
            self.team.check()?;
            take(logits, finite)
        });
        if size_of_val(&*buffer) <= MAX_RETAINED_BYTES {
            self.scratch.logits = buffer;
        }
        taken
    }

    /// Logits of the first rows of the last states, `[rows, vocab]`, into `out`.
    pub fn logits(&mut self, rows: usize, out: &mut [f32]) -> Result<()> {
        self.logits_of_rows(0..rows, out)?;
        all_finite(self.team, out, self.model.kv_type())
    }

    fn logits_of_rows(&mut self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (head, output) = self.language_head()?;
        let vocab = head.weight.outputs();
        for (from, out) in rows.clone().step_by(ROWS).zip(out.chunks_mut(ROWS * vocab)) {
            let rows = from..rows.end.min(from + ROWS);
            let target = [output.target(out)];
            self.with_head_input(rows.clone(), |s, x| {
                linear(s.team, &mut s.scratch.blocks.product, x.into(), rows.len(), &target);
            });
            self.team.check()?;
            head.finish(self.team, out);
        }
        Ok(())
    }

    /// Calls `take` with the `n` largest logits of some rows of the last states and, if `normalize`, with the
    /// log-sum-exp of each row. Returns false without a call of `take` if a logit is not finite.
    pub fn with_top_logits(
        &mut self,
        rows: Range<usize>,
        n: usize,
        normalize: bool,
        take: &mut dyn FnMut(&TopLogits) -> Result<()>,
    ) -> Result<bool> {
        let (head, _) = self.language_head()?;
        let mut top_logits = std::mem::take(&mut self.scratch.top_logits);
        let finite = self.with_head_input(rows.clone(), |s, x| {
            top_logits.find(s.team, &mut s.scratch.blocks.product, &head, x, rows.len(), n, normalize)
        });
        let checked = self.team.check();
        let taken = checked.and_then(|()| if finite { take(&top_logits) } else { Ok(()) });
        self.scratch.top_logits = top_logits;
        taken.map(|()| finite)
    }
}

impl Model {
    /// Refuses infinite logits and NaN.
    pub fn check_logits(&self, logits: &[f32]) -> Result<()> {
        finite(logits, A_LOGIT, self.kv_type())
    }
}

/// [`finite`] of logits, on all threads.
fn all_finite(team: &Team<'_>, x: &mut [f32], kv: KvType) -> Result<()> {
    const PIECE: usize = 1 << 16;
    if x.len() <= 2 * PIECE {
        return finite(x, A_LOGIT, kv);
    }
    let bad = AtomicBool::new(false);
    team.run_mut(x, PIECE, &|_, piece, _| {
        if finite(piece, A_LOGIT, kv).is_err() {
            bad.store(true, Ordering::Relaxed);
        }
    });
    if bad.into_inner() { finite(x, A_LOGIT, kv) } else { Ok(()) }
}
