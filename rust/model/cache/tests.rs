//! Random steps, forks, truncations and releases against a list of token numbers for each sequence.

use super::*;
use crate::model::rows::Span;
use crate::model::state::StateKind;
use crate::ops::kv::{KvShape, Numbers, Sequence, Sequences};
use crate::threads::Pool;
use proptest::prelude::*;
use std::thread::sleep;
use std::time::Duration;

const SHAPE: KvShape = KvShape::equal(1, 2);
/// Numbers in the states of two blocks with slots.
const WIDTHS: [usize; 2] = [3, 40];
const MAX_SEQUENCES: usize = 8;

/// Operations of a caller.
#[derive(Debug, Clone)]
enum Act {
    Start,
    Fork(usize),
    /// Tokens for some sequences; `fails`: the step is rolled back, `interrupted`: nothing runs on the
    /// threads.
    Step {
        more: Vec<(usize, usize)>,
        fails: bool,
        interrupted: bool,
    },
    Truncate(usize, usize),
    Release(usize),
    KeepHistory(usize),
    Shrink(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let any = 0..MAX_SEQUENCES;
    let tokens = prop_oneof![4 => 1..4usize, 2 => 1..80usize, 1 => 100..300usize];
    let more = prop::collection::vec((any.clone(), tokens), 1..4);
    prop_oneof![
        2 => Just(Act::Start),
        3 => any.clone().prop_map(Act::Fork),
        8 => (more, prop::bool::weighted(0.2), prop::bool::weighted(0.2))
            .prop_map(|(more, fails, interrupted)| Act::Step { more, fails: fails || interrupted, interrupted }),
        3 => (any.clone(), 0..400usize).prop_map(|(id, back)| Act::Truncate(id, back)),
        1 => any.prop_map(Act::Release),
        1 => prop_oneof![Just(0), 1..3000usize, Just(1 << 20)].prop_map(Act::KeepHistory),
        1 => prop_oneof![Just(0), Just(1 << 16)].prop_map(Act::Shrink),
    ]
}

#[test]
fn memory_of_slots_goes_beside_a_sequence_that_stays() {
    // A slot takes a chunk of its own.
    let layout = StateLayout::of([[StateKind::Slots(1 << 18)].into_iter()].into_iter());
    let mut cache = Cache::new(&layout, KvType::F32);
    let step = |cache: &mut Cache| {
        let id = cache.start();
        cache.extend(id, 1).expect("memory");
        cache.commit([id].into_iter());
        id
    };
    let (first, stays, last) = (step(&mut cache), step(&mut cache), step(&mut cache));
    [first, last].into_iter().for_each(|id| cache.release(id));
    cache.shrink(0);
    assert_eq!((cache.in_use(), cache.bytes()), (1, 1 << 20));
    step(&mut cache);
    step(&mut cache);
    assert_eq!((cache.in_use(), cache.bytes()), (3, 3 << 20));
    cache.release(stays);
    assert_eq!(cache.in_use(), 2);
}

fn layout(windows: &[Option<usize>], slots: bool) -> StateLayout {
    let blocks = windows.iter().map(|&window| vec![StateKind::Blocks { shape: SHAPE, window }]);
    let slots = WIDTHS.iter().filter(|_| slots).map(|&width| vec![StateKind::Slots(width)]);
    StateLayout::of(blocks.chain(slots).map(Vec::into_iter))
}

/// The state after some tokens, as a block with slots would store it.
fn recurrent(tokens: &[u32], width: usize) -> Vec<f32> {
    let sum = tokens.iter().fold(1u32, |sum, token| (sum * 31 + token) % 65_521);
    (0..width).map(|i| (sum + i as u32) as f32).collect()
}

struct Checked {
    cache: Cache,
    places: Vec<StatePlace>,
    pool: Pool,
    /// Tokens of each live sequence.
    alive: Vec<(SequenceId, Vec<u32>)>,
    next: u32,
}

impl Checked {
    fn new(layout: &StateLayout) -> Checked {
        let mut cache = Cache::new(layout, KvType::F32);
        cache.keep_history(1 << 20);
        let places = layout.places.concat();
        Checked { cache, places, pool: Pool::new(2), alive: Vec::new(), next: 0 }
    }

    fn act(&mut self, act: &Act) {
        let any = |i: usize| (!self.alive.is_empty()).then(|| i % self.alive.len());
        match *act {
            Act::Start if self.alive.len() < MAX_SEQUENCES => {
                self.alive.push((self.cache.start(), Vec::new()))
            }
            Act::Fork(i) if self.alive.len() < MAX_SEQUENCES => {
                let Some(i) = any(i) else { return };
                let (id, tokens) = self.alive[i].clone();
                self.alive.push((self.cache.fork(id), tokens));
            }
            Act::Step { ref more, fails, interrupted } => {
                let mut unique: Vec<(usize, usize)> = Vec::new();
                for &(i, tokens) in more {
                    let Some(i) = any(i) else { return };
                    if unique.iter().all(|&(known, _)| known != i) {
                        unique.push((i, tokens));
                    }
                }
                self.step(&unique, fails, interrupted);
            }
            Act::Truncate(i, back) => {
                let Some(i) = any(i) else { return };
                let (id, tokens) = &mut self.alive[i];
                let wanted = tokens.len().saturating_sub(back);
                let left = self.cache.truncate(*id, wanted);
                assert!(left <= wanted);
                if self.cache.slots.is_empty() && self.cache.groups.iter().all(|group| group.window.is_none())
                {
                    assert_eq!(left, wanted);
                }
                tokens.truncate(left);
            }
            Act::Release(i) => {
                let Some(i) = any(i) else { return };
                self.cache.release(self.alive.swap_remove(i).0);
            }
            Act::KeepHistory(bytes) => self.cache.keep_history(bytes),
            Act::Shrink(bytes) => self.cache.shrink(bytes),
            Act::Start | Act::Fork(_) => {}
        }
    }

    fn step(&mut self, more: &[(usize, usize)], fails: bool, interrupted: bool) {
        let Checked { cache, places, pool, alive, next } = self;
        let ids = more.iter().map(|&(i, tokens)| (alive[i].0, tokens));
        let extended = pool.enter(&|| interrupted, |team| {
            if interrupted {
                // The hook is called every 20 ms.
                sleep(Duration::from_millis(21));
                assert!(team.check().is_err());
            }
            cache.extend_all(team, ids)
        });
        assert_eq!(extended, Ok(()));
        let (mut spans, mut numbers, mut after) = (Vec::new(), Vec::new(), Vec::new());
        for &(i, count) in more {
            let (id, tokens) = &alive[i];
            let rows = numbers.len()..numbers.len() + count;
            numbers.extend((*next..).take(count));
            *next += count as u32;
            after.push([&tokens[..], &numbers[rows.clone()]].concat());
            let first = tokens.len();
            spans.push(Span {
                unseen: 0,
                sequence: *id,
                rows,
                first,
                total: first + count,
                source: 0,
                source_length: 0,
            });
        }
        let list: Vec<Sequence> = spans
            .iter()
            .map(|s| Sequence {
                table: s.sequence,
                rows: s.rows.clone(),
                first: s.first,
                length: s.first + s.rows.len(),
            })
            .collect();
        let rows: Vec<f32> = numbers.iter().flat_map(|&n| [n as f32, -(n as f32)]).collect();
        for &place in &*places {
            match cache.state(place) {
                State::Blocks { kv, tables } => kv.store(Sequences { list: &list, tables }, &rows, &rows),
                State::Slots(mut slots) => {
                    for (span, after) in spans.iter().zip(&after) {
                        slots.write(span.sequence, span.first, after.len(), |position, to| {
                            to.copy_from_slice(&recurrent(&after[..position], to.len()));
                        });
                    }
                }
                State::None => {}
            }
        }
        if fails {
            for &(i, _) in more {
                let (id, tokens) = &alive[i];
                assert_eq!(cache.truncate(*id, tokens.len()), tokens.len());
            }
            return;
        }
        cache.commit(spans.iter().map(|span| span.sequence));
        more.iter().zip(after).for_each(|(&(i, _), after)| alive[i].1 = after);
    }

    /// Everything that the next token of a sequence reads is present.
    fn check(&mut self) {
        let Checked { cache, places, alive, .. } = self;
        for (id, tokens) in &*alive {
            assert_eq!(cache.length(*id), tokens.len());
            for &place in &*places {
                let window = match place {
                    StatePlace::Blocks { group, .. } => cache.groups[group].window,
                    _ => None,
                };
                match cache.state(place) {
                    State::Blocks { kv, tables } => {
                        let from = (tokens.len() + 1).saturating_sub(window.unwrap_or(usize::MAX));
                        for (position, &token) in tokens.iter().enumerate().skip(from) {
                            let block = tables[*id][position / KV_BLOCK];
                            assert_ne!(block, HOLE, "position {position} of {}", tokens.len());
                            let Numbers::F32(keys) = kv.keys(block, 0, &mut []) else { panic!("f32") };
                            assert_eq!(keys[position % KV_BLOCK], token as f32, "position {position}");
                        }
                    }
                    State::Slots(slots) => match slots.current(*id) {
                        Some(found) => assert_eq!(found, recurrent(tokens, found.len())),
                        None => assert!(tokens.is_empty()),
                    },
                    State::None => {}
                }
            }
        }
        self.check_references();
    }

    fn check_references(&self) {
        for group in &self.cache.groups {
            let mut counts = vec![0; group.counted.references().len()];
            let held = group.tables.iter().flatten().filter(|&&block| block != HOLE);
            held.for_each(|&block| counts[block as usize] += 1);
            assert_eq!(counts, group.counted.references());
            assert_eq!(group.in_use(), counts.iter().filter(|&&count| count > 0).count());
            assert!(group.copies.is_empty());
        }
        let mut held: Vec<_> = Vec::new();
        for state in &self.cache.states {
            let previous = state.previous.and_then(|(_, slot)| slot);
            held.extend(state.snapshots.iter().map(|&(_, slot)| slot).chain(state.current).chain(previous));
            assert!(state.next.is_none() && state.pending.is_empty());
        }
        held.sort_unstable();
        held.dedup();
        assert_eq!(held.len(), self.cache.slots.in_use());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sequences_keep_their_tokens(
        acts in prop::collection::vec(act(), 1..60),
        windows in prop::sample::select(vec![
            vec![None],
            vec![None, None, Some(48)],
            vec![Some(1), Some(200)],
            vec![Some(64), None, Some(64), Some(7)],
            vec![],
        ]),
        slots in any::<bool>(),
    ) {
        let mut checked = Checked::new(&layout(&windows, slots));
        for act in &acts {
            checked.act(act);
            checked.check();
        }
        for (id, _) in std::mem::take(&mut checked.alive) {
            checked.cache.release(id);
        }
        checked.check();
        assert_eq!(checked.cache.in_use(), 0);
        checked.cache.shrink(0);
        assert_eq!(checked.cache.bytes(), 0);
    }
}
