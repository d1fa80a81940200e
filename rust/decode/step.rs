//! One step of a batch: scores of the newest tokens, the beams' move.

use super::beam::{Candidate, Search};
use super::options::Options;
use super::scores::{Leading, Scores};
use crate::error::Result;
use crate::model::{Cache, PREFILL_ROWS, SequenceId, Session, Span};
use crate::threads::Team;

/// Tokens that a running sequence is fed: its newest one, and guesses of what follows.
pub(super) struct Row {
    pub tokens: Vec<u32>,
    pub sequence: SequenceId,
    pub source: usize,
}

/// Takes the scores of some tokens, and of each the row of the list and its place there.
pub(super) type Take<'a> = &'a mut dyn FnMut(&Team<'_>, &[(usize, usize)], Scores<'_>) -> Result<()>;

/// Feeds tokens to some sequences; `take` gets the scores after every token, or after the last of a sequence alone: all
/// logits where nothing less is asked for.
pub(super) fn feed(
    s: &mut Session<'_>,
    rows: &[Row],
    cache: &mut Cache,
    mut cross: Option<&mut Cache>,
    last_only: bool,
    scores: Option<Leading>,
    take: Take<'_>,
) -> Result<()> {
    let (mut ids, mut spans, mut more, mut asked) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // (row, first token) of the next piece: long rows are fed in pieces.
    let (mut row, mut from) = (0, 0);
    while row < rows.len() {
        ids.clear();
        spans.clear();
        more.clear();
        asked.clear();
        while row < rows.len() && ids.len() < PREFILL_ROWS {
            let Row { tokens, sequence, source } = &rows[row];
            let to = tokens.len().min(from + PREFILL_ROWS - ids.len());
            let first = cache.length(*sequence);
            more.push((*sequence, to - from));
            spans.push(Span {
                sequence: *sequence,
                rows: ids.len()..ids.len() + to - from,
                first,
                total: first + to - from,
                source: *source,
                source_length: cross.as_deref().map_or(0, |c| c.length(*source)),
            });
            let least = if last_only { tokens.len() - 1 } else { 0 };
            for place in from.max(least)..to {
                asked.push((ids.len() + place - from, row, place));
            }
            ids.extend_from_slice(&tokens[from..to]);
            (row, from) = if to == tokens.len() { (row + 1, 0) } else { (row, to) };
        }
        cache.extend_all(s.team, more.iter().copied())?;
        let places: Vec<usize> = asked.iter().map(|a| a.0).collect();
        s.forward(&ids, &spans, cache, cross.as_deref_mut(), &places)?;
        let tokens: Vec<(usize, usize)> = asked.iter().map(|a| (a.1, a.2)).collect();
        let team = s.team;
        match scores {
            Some(Leading { n, normalize }) => s.with_leaders(places.len(), n, normalize, &mut |leaders| {
                take(team, &tokens, Scores::Leaders(leaders))
            })?,
            None => s.with_logits(places.len(), &mut |logits| take(team, &tokens, Scores::Logits(logits)))?,
        }
    }
    Ok(())
}

/// One step of a search: the beams' cached sequences follow their parents.
pub(super) fn advance_beams(
    o: &Options,
    search: &mut Search,
    sequences: &mut Vec<SequenceId>,
    candidates: &mut Vec<Candidate>,
    cache: &mut Cache,
) {
    // Those of one beam come best first, and stay so where rounding has made their scores equal.
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.beam.cmp(&b.beam)));
    candidates.truncate(Search::width(o));
    let parents = search.step(candidates, o);
    let next = parents.iter().map(|&(beam, _)| cache.fork(sequences[beam])).collect();
    for &old in sequences.iter() {
        cache.release(old);
    }
    *sequences = next;
    if search.over {
        for &id in sequences.iter() {
            cache.release(id);
        }
        sequences.clear();
    }
}
