//! The beam searches of a batch: what they feed, and how cached sequences follow their beams.

use super::beam::{Candidate, Search};
use super::options::Options;
use super::scores::{Forbidden, Rules, continuations};
use super::step::Feed;
use super::{Hypothesis, LENGTH, STOP};
use crate::error::Result;
use crate::model::{Cache, SequenceId, Session};
use std::sync::{Mutex, PoisonError};

/// The search of one prompt, and the cached sequences of its running beams.
pub(super) struct Searching {
    pub search: Search,
    pub sequences: Vec<SequenceId>,
}

impl Searching {
    /// Takes the candidates that were offered, the last ones if it is `late`; the cached sequences follow.
    pub fn advance(&mut self, o: &Options, cache: &mut Cache, late: bool) {
        let Searching { search, sequences } = self;
        if late {
            search.end();
        }
        let before = sequences.len();
        for &parent in search.step(o) {
            let fork = cache.fork(sequences[parent]);
            sequences.push(fork);
        }
        let gone = if search.over { sequences.len() } else { before };
        sequences.drain(..gone).for_each(|id| cache.release(id));
    }
}

/// All searches, and the lists of a step, which the next one fills again.
#[derive(Default)]
pub(super) struct Beams {
    pub list: Vec<Searching>,
    /// Search and beam of each row.
    owners: Vec<(usize, usize)>,
    feed: Feed,
    forbidden: Forbidden,
    found: Vec<Mutex<Vec<Candidate>>>,
}

impl Beams {
    pub fn new(searches: impl Iterator<Item = Search>) -> Beams {
        let list = searches.map(|search| Searching { search, sequences: Vec::new() });
        Beams { list: list.collect(), ..Beams::default() }
    }

    /// The next token of every running beam.
    pub fn step(
        &mut self,
        rules: &Rules<'_>,
        s: &mut Session<'_>,
        cache: &mut Cache,
        cross: Option<&mut Cache>,
        late: bool,
    ) -> Result<()> {
        let Beams { list, owners, feed, forbidden, found } = self;
        owners.clear();
        feed.clear();
        for (p, Searching { search, sequences }) in list.iter().enumerate().filter(|(_, l)| !l.search.over) {
            for (b, beam) in search.running.iter().enumerate() {
                let newest = *beam.ids.last().expect("a prompt is never empty");
                feed.push(sequences[b], p, [newest]);
                owners.push((p, b));
            }
        }
        let contexts = owners.iter().map(|&(p, b)| list[p].search.context(b, &rules.sources[p]));
        let fewer = forbidden.leading(rules, contexts);
        feed.run(s, cache, cross, false, fewer, &mut |team, asked, scores| {
            scores.each_row(team, rules.custom.is_some(), asked.len(), found, &|n, scores, found| {
                let row = asked[n].row;
                let (p, b) = owners[row];
                continuations(rules, &list[p].search, b, &rules.sources[p], forbidden.of(row), scores, found)
            })?;
            for (asked, found) in asked.iter().zip(found.iter_mut()) {
                let found = found.get_mut().unwrap_or_else(PoisonError::into_inner);
                list[owners[asked.row].0].search.offer(found);
            }
            Ok(())
        })?;
        for searching in list.iter_mut().filter(|l| !l.search.over) {
            searching.advance(rules.options, cache, late);
        }
        Ok(())
    }

    /// Per prompt its hypotheses, best first.
    pub fn results(&self, o: &Options) -> Vec<Vec<Hypothesis>> {
        let hypothesis = |(ids, score, scored): (Vec<u32>, f32, Vec<super::beam::Scored>)| {
            let reason = if ids.last().is_some_and(|&id| o.ends(id)) { STOP } else { LENGTH };
            let scored = scored.into_iter().map(|(own, top)| (own, top.to_vec())).collect();
            (ids, score, reason.to_owned(), scored)
        };
        let each =
            |l: &Searching| l.search.hypotheses(o.num_hypotheses).into_iter().map(hypothesis).collect();
        self.list.iter().map(each).collect()
    }
}
