//! A step of a generation allocates memory only for its results; all other memory is reused from earlier
//! steps. `--nocapture` shows the number of allocations per step.

use _core::decode::options::Options;
use _core::decode::{Engine, Event, Request};
use _core::error::Error;
use _core::model::{self, Loader, Model};
use _core::ops::kv::KV_BLOCK;
use _core::tensor::{DType, Source, WeightType};
use _core::threads::Pool;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// So large that nothing else of this small model is as large as a row of logits.
const VOCABULARY: usize = 32 * 1024;
/// Bytes of half a row of logits.
const LARGE: usize = VOCABULARY * 2;

const THREADS: usize = 2;

static LARGE_ONES: AtomicUsize = AtomicUsize::new(0);
static ALL: AtomicUsize = AtomicUsize::new(0);

struct Counting;

fn count(size: usize) {
    ALL.fetch_add(1, Ordering::Relaxed);
    LARGE_ONES.fetch_add(usize::from(size >= LARGE), Ordering::Relaxed);
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NORM: &str = r#"{"kind": "rms", "eps": 1e-5, "weight": true}"#;

/// A decoder of two layers that rotate differently and have everything of a usual one.
fn decoder() -> Arc<Model> {
    let layer = |inv_freq: &str| {
        format!(
            r#"{{"blocks": [
        {{"input_norm": {NORM}, "body": {{"kind": "attention", "heads": 4, "kv_heads": 2, "head_dim": 8, "scale": 0.35,
          "causal": true, "rotary": {{"inv_freq": {inv_freq}}}}}}},
        {{"input_norm": {NORM}, "body": {{"kind": "feed_forward", "width": 64, "activation": "silu", "gated": true}}}}]}}"#
        )
    };
    let layers = [layer("[1.0, 0.1, 0.01, 0.001]"), layer("[1.0, 0.3, 0.1, 0.03]")].join(", ");
    let spec = format!(
        r#"{{"decoder": {{"stem": {{"kind": "tokens", "vocab_size": {VOCABULARY}}}, "hidden_size": 32, "layers": [{layers}],
        "max_length": 2048, "final_norm": {NORM}}}, "language_head": {{"vocab_size": {VOCABULARY}}}}}"#
    );
    let spec = model::spec::Model::from_json(&spec).expect("a description");
    let options = model::Options { weights: Some(WeightType::Q8), ..model::Options::default() };
    let (mut loader, pool) = (Loader::new(spec, options), Pool::new(THREADS));
    let tensors: Vec<(String, Vec<usize>)> =
        loader.tensors().into_iter().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect();
    for (name, shape) in tensors {
        let count = shape.iter().product();
        let values = (0..count).map(|i: usize| (i * 7919 % 1009) as f32 / 5045.0 - 0.1);
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        let columns = shape[shape.len() - 1];
        let source = Source::new(&bytes, DType::F32, [count / columns, columns], [columns, 1]).expect("fits");
        pool.run_alone(|team| loader.add(team, &[name], &source)).expect("a tensor");
    }
    Arc::new(Model::new(loader, pool).expect("a model"))
}

/// Tokens of a prompt, and those that the first steps add, which make what the others use again.
const PROMPT: usize = 5;
const FIRST: usize = 6;

/// Serializes the tests: allocations of others would be counted too.
static ALONE: Mutex<()> = Mutex::new(());

/// Large and all allocations of each step once the first ones are over.
fn steps(engine: &Arc<Engine>, prompts: usize, options: &Options) -> Vec<[usize; 2]> {
    let prompts = (0..prompts).map(|i| vec![i as u32 + 1; PROMPT]).collect();
    let request = Request { prompts, options: options.clone(), ..Request::default() };
    let mut call = engine.add(request).expect("may be generated");
    let counts = || [&LARGE_ONES, &ALL].map(|count| count.load(Ordering::Relaxed));
    let mut found = Vec::new();
    // What a caller takes home is the caller's.
    let mut events = Vec::with_capacity(1024);
    call.advance(&|| false, FIRST, &mut events).expect("generates");
    while !call.finished().expect("the same process") {
        let before = counts();
        call.advance(&|| false, 1, &mut events).expect("generates");
        let after = counts();
        // The last one leaves what it has computed to later generations.
        if !call.finished().expect("the same process") {
            found.push([after[0] - before[0], after[1] - before[1]]);
        }
    }
    found
}

/// Whether a step may grow something at sequences of `length` tokens: the lists of ids, whose capacity
/// doubles (for beams in one of two lists at a time), with the prompt or without, or the cache, by a block.
fn grows(length: usize) -> bool {
    let generated = length - PROMPT;
    (generated - 1).is_power_of_two()
        || [length, length - 1]
            .iter()
            .any(|&n| n % KV_BLOCK == 0 || n % PROMPT == 0 && (n / PROMPT).is_power_of_two())
}

#[test]
fn steps_allocate_what_they_hand_out_alone() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = Engine::new(decoder());
    for (prompts, options, expected) in [
        (1, r#"{}"#, 0),
        (3, r#"{}"#, 0),
        (3, r#"{"suppress_tokens": [1, 2, 3]}"#, 0),
        (1, r#"{"repetition_penalty": 1.2}"#, 0),
        (1, r#"{"presence_penalty": 0.2, "frequency_penalty": 0.1}"#, 0),
        (3, r#"{"logprobs": true}"#, 0),
        // The list of top tokens of each sequence.
        (1, r#"{"repetition_penalty": 1.2, "logprobs": true, "top_logprobs": 3}"#, 1),
        (3, r#"{"logprobs": true, "top_logprobs": 3}"#, 3),
        (1, r#"{"temperature": 0.8}"#, 0),
        (3, r#"{"temperature": 0.8, "logprobs": true}"#, 0),
        (1, r#"{"temperature": 0.8, "top_k": 40}"#, 0),
        (1, r#"{"temperature": 1.5, "top_p": 0.95, "min_p": 0.01}"#, 0),
        (3, r#"{"temperature": 0.8, "top_k": 40, "typical_p": 0.9, "repetition_penalty": 1.2}"#, 0),
        (1, r#"{"temperature": 0.8, "top_h": 0.5, "epsilon_cutoff": 1e-4, "eta_cutoff": 1e-4}"#, 0),
        (1, r#"{"temperature": 0.8, "samples": 4}"#, 0),
        (2, r#"{"prompt_lookup": 4}"#, 0),
        (1, r#"{"beams": 3}"#, 0),
        (2, r#"{"beams": 12}"#, 0),
        (1, r#"{"beams": 3, "repetition_penalty": 1.2}"#, 0),
        // The list that the continuations of a beam share.
        (1, r#"{"beams": 3, "logprobs": true, "top_logprobs": 2}"#, 3),
    ] {
        let name = format!("{prompts} x {options}");
        let options: Options = serde_json::from_str(options).expect("options");
        let found = steps(&engine, prompts, &Options { max_tokens: Some(100), ..options });
        let all: Vec<usize> = found.iter().map(|step| step[1]).collect();
        println!("{name}: {all:?}");
        let (large, steps) = (found.iter().map(|step| step[0]).sum::<usize>(), found.len());
        // A thread allocates its scratch (weights, kept tokens, a row before processing) at its first row,
        // which may come late; a leak would allocate at each step.
        assert!(
            large <= 3 * THREADS && steps > 6 * THREADS,
            "{name}: {large} large allocations in {steps} steps"
        );
        // The same of small ones: of several lists, each when the thread first needs it.
        let odd =
            (FIRST + PROMPT..).zip(&all).filter(|&(length, &n)| n != expected && !grows(length)).count();
        assert!(odd <= steps / 8, "{name}: allocations of each step: {all:?}; expected {expected}");
    }
}

fn request(prompt: &[u32], options: &str, tokens: usize) -> Request {
    let options: Options = serde_json::from_str(options).expect("options");
    let options = Options { max_tokens: Some(tokens), ..options };
    Request { prompts: vec![prompt.to_vec()], options, ..Request::default() }
}

/// What a call gives alone.
fn alone(engine: &Arc<Engine>, request: Request) -> Vec<Event> {
    let mut events = Vec::new();
    engine.add(request).and_then(|mut call| call.advance(&|| false, 0, &mut events)).expect("generates");
    events
}

#[test]
fn calls_that_join_and_leave_between_steps_change_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (engine, fresh) = (Engine::new(decoder()), Engine::new(decoder()));
    let options = [
        r#"{"logprobs": true}"#,
        r#"{"temperature": 0.8, "seed": 3, "logprobs": true}"#,
        r#"{"prompt_lookup": 3}"#,
        r#"{"temperature": 0.9, "samples": 3, "repetition_penalty": 1.2}"#,
    ];
    // Prompts of several passes too.
    let prompt =
        |i: usize| -> Vec<u32> { (0..[3, 700, 40, 1200][i % 4]).map(|n| (n % (7 + i)) as u32).collect() };
    let requests = || (0..8).map(|i| request(&prompt(i), options[i % 3 + i / 6], 12 + i));
    let want: Vec<Vec<Event>> = requests().map(|request| alone(&fresh, request)).collect();
    std::thread::scope(|scope| {
        for (i, (request, want)) in requests().zip(&want).enumerate() {
            let engine = &engine;
            scope.spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(3 * i as u64));
                let mut call = engine.add(request).expect("may be generated");
                let mut events = Vec::new();
                while !call.finished().expect("the same process") {
                    call.advance(&|| false, 1 + i % 3, &mut events).expect("generates");
                    // Some leave early.
                    if i % 4 == 3 && events.len() > 5 {
                        break;
                    }
                }
                for sequence in 0..3 {
                    let of = |events: &[Event]| -> Vec<Event> {
                        events.iter().filter(|event| event.sequence == sequence).cloned().collect()
                    };
                    let (found, want) = (of(&events), of(want));
                    assert!(i % 4 == 3 || found.len() == want.len());
                    assert_eq!(found, want[..found.len()], "call {i}");
                }
            });
        }
    });
}

#[test]
fn a_step_that_fails_hurts_no_others() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = Engine::new(decoder());
    let plain = || request(&[1, 2, 3], r#"{"logprobs": true}"#, 20);
    let want = alone(&engine, plain());
    // A driver that is interrupted: the step is repeated.
    let prompt: Vec<u32> = (0..1500).map(|n| n % 13).collect();
    let long = || request(&prompt, r#"{"logprobs": true, "prompt_lookup": 2}"#, 20);
    let mut call = engine.add(long()).expect("may be generated");
    let (mut events, polls, mut interrupted) = (Vec::new(), AtomicUsize::new(0), 0);
    while !call.finished().expect("the same process") {
        match call.advance(&|| polls.fetch_add(1, Ordering::Relaxed) % 3 == 0, 1, &mut events) {
            Ok(()) => {}
            Err(Error::Interrupted) => interrupted += 1,
            Err(error) => panic!("{error}"),
        }
    }
    println!("interrupted {interrupted} times");
    drop(call);
    assert_eq!(events, alone(&Engine::new(decoder()), long()));
    // A processor that fails ends its own call alone.
    let mut paused = engine.add(plain()).expect("may be generated");
    let mut first = Vec::new();
    paused.advance(&|| false, 3, &mut first).expect("generates");
    let failing = Request {
        processor: Some(Arc::new(|ids: &[u32], _: &mut [f32]| match ids.len() {
            6 => Err(Error::Option("no more".to_owned())),
            _ => Ok(()),
        })),
        ..plain()
    };
    let mut failing = engine.add(failing).expect("may be generated");
    assert_eq!(failing.advance(&|| false, 0, &mut Vec::new()), Err(Error::Option("no more".to_owned())));
    paused.advance(&|| false, 3, &mut first).expect("generates");
    assert_eq!(first, want[..6]);
    // A panic ends the calls that the engine has, and no others.
    let panics =
        Request { processor: Some(Arc::new(|_: &[u32], _: &mut [f32]| panic!("on purpose"))), ..plain() };
    let mut panics = engine.add(panics).expect("may be generated");
    for call in [&mut panics, &mut paused] {
        let error = call.advance(&|| false, 0, &mut Vec::new()).expect_err("fails");
        assert!(matches!(&error, Error::Internal(text) if text.contains("on purpose")), "{error}");
    }
    assert_eq!(alone(&engine, plain()), want);
}
