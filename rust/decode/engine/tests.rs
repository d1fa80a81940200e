//! Calls that end in any way leave nothing in the caches but what the prefix cache keeps.

use super::super::{Call, Request};
use super::*;
use crate::decode::options::Options;
use crate::model::{self, Loader};
use crate::tensor::{DType, Source};
use crate::threads::Pool;

const VOCABULARY: usize = 40;

/// A decoder with every kind of state.
fn decoder() -> Arc<Model> {
    let attention = |window: &str| {
        format!(
            r#"{{"name": "attention{window}", "body": {{"kind": "attention", "heads": 2, "kv_heads": 1, "head_dim": 4,
            "scale": 0.5, "causal": true, "window": {window}}}}}"#
        )
    };
    let (all, near) = (attention("null"), attention("40"));
    let text = format!(
        r#"{{"decoder": {{"stem": {{"kind": "tokens", "vocab_size": {VOCABULARY}}}, "hidden_size": 8, "max_length": 400,
        "layers": [{{"blocks": [{{"body": {{"kind": "short_convolution", "kernel": 3}}}}, {all}, {near}]}}]}},
        "language_head": {{"vocab_size": {VOCABULARY}}}}}"#
    );
    let spec = model::spec::Model::from_json(&text).expect("a description");
    let (mut loader, pool) = (Loader::new(spec, model::Options::default()), Pool::new(2));
    let tensors: Vec<(String, Vec<usize>)> =
        loader.tensors().into_iter().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect();
    for (name, shape) in tensors {
        let count = shape.iter().product();
        let bytes: Vec<u8> =
            (0..count).flat_map(|i: usize| ((i * 7919 % 1009) as f32 / 505.0 - 1.0).to_le_bytes()).collect();
        let columns = shape[shape.len() - 1];
        let source = Source::new(&bytes, DType::F32, [count / columns, columns], [columns, 1]).expect("fits");
        pool.run_alone(|team| loader.add(team, &[name], &source)).expect("a tensor");
    }
    Arc::new(Model::new(loader, pool).expect("a model"))
}

fn call(engine: &Arc<Engine>, options: &str, length: usize) -> Call {
    let prompts = (0..3).map(|i| (0..length).map(|j| ((i + j * j) % VOCABULARY) as u32).collect()).collect();
    let options = Options::from_json(options, VOCABULARY).expect("options");
    engine.add(Request { prompts, options, ..Request::default() }).expect("may be generated")
}

const OPTIONS: [&str; 5] = [
    r#"{"max_tokens": 40}"#,
    r#"{"max_tokens": 40, "beams": 4}"#,
    r#"{"max_tokens": 40, "samples": 3, "temperature": 1.0}"#,
    r#"{"max_tokens": 40, "prompt_lookup": 6}"#,
    r#"{"max_tokens": 40, "temperature": 0.5, "repetition_penalty": 1.2}"#,
];

#[test]
fn calls_that_end_in_any_way_leave_nothing() {
    let engine = Engine::new(decoder());
    for (round, length) in [5, 33, 90, 300].into_iter().enumerate() {
        let mut open: Vec<Call> = OPTIONS.iter().map(|options| call(&engine, options, length)).collect();
        for (i, call) in open.iter_mut().enumerate() {
            call.advance(&|| false, i + round, &mut Vec::new()).expect("generates");
        }
        for (sequence, reason) in [(0, FinishReason::Stop), (2, FinishReason::Length)] {
            open[0].stop(sequence, reason).expect("a stream");
        }
        let failing: crate::decode::Processor = Arc::new(|ids, _| match ids.len() {
            0..320 => Ok(()),
            _ => Err(Error::Option("enough".to_owned())),
        });
        let options = Options::from_json(OPTIONS[round], VOCABULARY).expect("options");
        let request =
            Request { prompts: vec![vec![3; 300]], options, processor: Some(failing), ..Request::default() };
        let mut failing = engine.add(request).expect("may be generated");
        assert!(failing.advance(&|| false, 0, &mut Vec::new()).is_err());
        open.pop();
    }
    let cache_in_use = || {
        let desk = engine.desk();
        let scheduler = desk.scheduler.as_ref().expect("at the desk");
        assert!(scheduler.state.running.is_empty() && scheduler.state.call_states.is_empty());
        assert!(desk.calls.is_empty() && desk.inbox.is_empty());
        scheduler.state.cache.in_use()
    };
    assert!(engine.prefixes().sequences > 0 && cache_in_use() > 0);
    engine.limit_prefixes(0);
    assert_eq!(cache_in_use(), 0);
}
