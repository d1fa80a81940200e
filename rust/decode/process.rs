//! Changes to the logits before a token is chosen, in transformers' order and with its meaning.

use super::options::Options;
use crate::error::Result;

const FORBIDDEN: f32 = f32::NEG_INFINITY;

/// Input of the processors besides the logits.
pub struct Context<'a> {
    /// Prompt and generated tokens.
    pub ids: &'a [u32],
    /// Length of the prompt.
    pub prompt: usize,
    /// Length at which the sequence ends.
    pub max_length: usize,
    /// Ids of the encoder's input; of the prompt without an encoder.
    pub source: &'a [u32],
}

/// A function of the caller that changes logits: (ids so far, logits).
pub type ProcessorRef<'a> = &'a (dyn Fn(&[u32], &mut [f32]) -> Result<()> + Send + Sync);

/// Whether `process` changes anything; if not, the call can be omitted.
pub fn needed(o: &Options, processor: bool) -> bool {
    changes(o, processor)
        || o.no_repeat_ngram_size > 0
        || o.encoder_no_repeat_ngram_size > 0
        || !o.bad_words_ids.is_empty()
        || o.min_length > 0
        || o.min_tokens > 0
        || o.forced_bos_token_id.is_some()
        || !o.forced_eos_token_ids.is_empty()
        || !o.suppress_tokens.is_empty()
        || !o.begin_suppress_tokens.is_empty()
}

/// Whether `process` does more than forbid tokens.
fn changes(o: &Options, processor: bool) -> bool {
    processor
        || !o.logit_bias.is_empty()
        || !o.sequence_bias.is_empty()
        || o.repetition_penalty != 1.0
        || o.encoder_repetition_penalty != 1.0
        || o.presence_penalty != 0.0
        || o.frequency_penalty != 0.0
        || o.exponential_decay_length_penalty.is_some()
        || o.remove_invalid_values
}

/// Processes one row of logits. `sorted` is scratch memory.
pub fn process(
    o: &Options,
    c: &Context<'_>,
    logits: &mut [f32],
    processor: Option<ProcessorRef<'_>>,
    sorted: &mut Vec<u32>,
) -> Result<()> {
    for (&id, &bias) in &o.logit_bias {
        logits[id as usize] += bias as f32;
    }
    for (sequence, bias) in &o.sequence_bias {
        add_after(sequence, *bias as f32, c.ids, logits);
    }
    if o.encoder_repetition_penalty != 1.0 {
        // The inverse penalty, so that tokens of the source become more probable.
        penalize(c.source, 1.0 / o.encoder_repetition_penalty as f32, logits, sorted);
    }
    if o.repetition_penalty != 1.0 {
        penalize(c.ids, o.repetition_penalty as f32, logits, sorted);
    }
    if o.presence_penalty != 0.0 || o.frequency_penalty != 0.0 {
        sort(&c.ids[c.prompt..], sorted);
        for same in sorted.chunk_by(|a, b| a == b) {
            let penalty = o.presence_penalty + o.frequency_penalty * same.len() as f64;
            logits[same[0] as usize] -= penalty as f32;
        }
    }
    forbidden(o, c, &mut |id| logits[id as usize] = FORBIDDEN);
    if let Some(ids) = forced(o, c) {
        logits.fill(FORBIDDEN);
        ids.iter().for_each(|&id| logits[id as usize] = 0.0);
    }
    if o.remove_invalid_values {
        for v in logits.iter_mut() {
            if v.is_nan() {
                *v = 0.0;
            }
            *v = v.clamp(f32::MIN, f32::MAX);
        }
    }
    if let Some((start, factor)) = o.exponential_decay_length_penalty {
        let length = c.ids.len() - c.prompt;
        if length > start {
            for &id in &o.eos_ids {
                let v = &mut logits[id as usize];
                // Forbidden end tokens stay so; zero stays zero however large the factor has become.
                if v.is_finite() && *v != 0.0 {
                    let raised = *v + v.abs() * (factor.powi((length - start) as i32) - 1.0) as f32;
                    *v = raised.clamp(f32::MIN, f32::MAX);
                }
            }
        }
    }
    suppressed(o, c, &mut |id| logits[id as usize] = FORBIDDEN);
    match processor {
        Some(processor) => processor(c.ids, logits),
        None => Ok(()),
    }
}

/// The forced tokens, if all others are forbidden at this step.
fn forced<'a>(o: &'a Options, c: &Context<'_>) -> Option<&'a [u32]> {
    if !o.forced_eos_token_ids.is_empty() && c.ids.len() + 1 == c.max_length {
        return Some(&o.forced_eos_token_ids);
    }
    o.forced_bos_token_id.as_ref().filter(|_| c.ids.len() == 1).map(std::slice::from_ref)
}

/// Tokens that the n-gram sizes, bad words and minimum lengths forbid.
fn forbidden(o: &Options, c: &Context<'_>, put: &mut dyn FnMut(u32)) {
    repeated(o.no_repeat_ngram_size, c.ids, c.ids, put);
    repeated(o.encoder_no_repeat_ngram_size, c.source, c.ids, put);
    for sequence in &o.bad_words_ids {
        // A sequence that is only an end token stays allowed.
        if let Some((&last, before)) = sequence.split_last()
            && !(before.is_empty() && o.eos_ids.contains(&last))
            && c.ids.ends_with(before)
        {
            put(last);
        }
    }
    if c.ids.len() < o.min_length || c.ids.len() - c.prompt < o.min_tokens {
        o.eos_ids.iter().chain(&o.stop_ids).for_each(|&id| put(id));
    }
}

/// Tokens that are suppressed, everywhere or at the beginning.
fn suppressed(o: &Options, c: &Context<'_>, put: &mut dyn FnMut(u32)) {
    o.suppress_tokens.iter().for_each(|&id| put(id));
    let begin = if c.prompt == 1 && o.forced_bos_token_id.is_some() { c.prompt + 1 } else { c.prompt };
    if c.ids.len() == begin {
        o.begin_suppress_tokens.iter().for_each(|&id| put(id));
    }
}

/// Makes `ids` the tokens that `process` forbids, in ascending order; false if it changes logits otherwise at
/// this step.
pub fn only_forbids(o: &Options, c: &Context<'_>, processor: bool, ids: &mut Vec<u32>) -> bool {
    ids.clear();
    if !needed(o, processor) {
        return true;
    }
    if changes(o, processor) || forced(o, c).is_some() {
        return false;
    }
    forbidden(o, c, &mut |id| ids.push(id));
    suppressed(o, c, &mut |id| ids.push(id));
    ids.sort_unstable();
    ids.dedup();
    true
}

/// Divides positive and multiplies negative logits of `ids`, each once. Keskar et al. 2019,
/// <https://arxiv.org/abs/1909.05858>
fn penalize(ids: &[u32], penalty: f32, logits: &mut [f32], sorted: &mut Vec<u32>) {
    sort(ids, sorted);
    sorted.dedup();
    for &id in &*sorted {
        let v = &mut logits[id as usize];
        *v = if *v < 0.0 { *v * penalty } else { *v / penalty };
    }
}

/// Makes `sorted` the ids in ascending order.
fn sort(ids: &[u32], sorted: &mut Vec<u32>) {
    sorted.clear();
    sorted.extend_from_slice(ids);
    sorted.sort_unstable();
}

/// Adds `bias` to the last of `sequence` if `ids` end with the others.
fn add_after(sequence: &[u32], bias: f32, ids: &[u32], logits: &mut [f32]) {
    if let Some((&last, before)) = sequence.split_last()
        && ids.ends_with(before)
    {
        logits[last as usize] += bias;
    }
}

/// Tokens that would repeat an n-gram of `text`.
fn repeated(n: usize, text: &[u32], ids: &[u32], put: &mut dyn FnMut(u32)) {
    if n == 0 || ids.len() + 1 < n || text.len() < n {
        return;
    }
    let recent = &ids[ids.len() + 1 - n..];
    for gram in text.windows(n) {
        if &gram[..n - 1] == recent {
            put(gram[n - 1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(options: Options, ids: &[u32], prompt: usize, source: &[u32]) -> Vec<f32> {
        let mut logits: Vec<f32> = (0..10).map(|i| i as f32 - 4.5).collect();
        let context = Context { ids, prompt, max_length: 8, source };
        process(&options, &context, &mut logits, None, &mut Vec::new()).expect("no processor");
        logits
    }

    #[test]
    fn each_option_changes_what_it_names() {
        let plain = run(Options::default(), &[1, 2], 1, &[]);
        let changed = |o: Options, ids: &[u32], source: &[u32]| -> Vec<usize> {
            assert!(needed(&o, false));
            let got = run(o, ids, 1, source);
            (0..10).filter(|&i| got[i] != plain[i]).collect()
        };
        let d = Options::default;
        assert_eq!(changed(Options { repetition_penalty: 1.5, ..d() }, &[1, 2, 2], &[]), [1, 2]);
        assert_eq!(changed(Options { encoder_repetition_penalty: 1.5, ..d() }, &[1], &[7]), [7]);
        assert_eq!(changed(Options { presence_penalty: 1.0, ..d() }, &[1, 3, 3], &[]), [3]);
        assert_eq!(changed(Options { frequency_penalty: 1.0, ..d() }, &[1, 3, 3], &[]), [3]);
        assert_eq!(changed(Options { no_repeat_ngram_size: 2, ..d() }, &[3, 4, 3], &[]), [4]);
        assert_eq!(changed(Options { encoder_no_repeat_ngram_size: 2, ..d() }, &[9, 5], &[5, 6]), [6]);
        assert_eq!(
            changed(Options { bad_words_ids: vec![vec![2, 7], vec![3, 8], vec![9]], ..d() }, &[1, 2], &[]),
            [7, 9]
        );
        assert_eq!(changed(Options { min_tokens: 3, eos_ids: vec![5], ..d() }, &[1, 2], &[]), [5]);
        assert_eq!(changed(Options { min_length: 3, eos_ids: vec![5], ..d() }, &[1, 2], &[]), [5]);
        assert_eq!(changed(Options { suppress_tokens: vec![6], ..d() }, &[1, 2], &[]), [6]);
        assert_eq!(changed(Options { begin_suppress_tokens: vec![6], ..d() }, &[1], &[]), [6]);
        let decay = Options { exponential_decay_length_penalty: Some((0, 1.5)), eos_ids: vec![5], ..d() };
        assert_eq!(changed(decay.clone(), &[1, 2], &[]), [5]);
        let forbidden = run(Options { min_tokens: 9, ..decay.clone() }, &[1, 2], 1, &[]);
        assert_eq!(forbidden[5], FORBIDDEN);
        let huge = Options { exponential_decay_length_penalty: Some((0, 1e3)), ..decay };
        assert_eq!(run(huge, &[1; 2000], 1, &[])[5], f32::MAX);
        assert_eq!(changed(Options { logit_bias: [(4, 2.0)].into(), ..d() }, &[1], &[]), [4]);
        assert_eq!(changed(Options { sequence_bias: vec![(vec![1, 4], 2.0)], ..d() }, &[1], &[]), [4]);
        assert_eq!(run(Options { forced_bos_token_id: Some(3), ..d() }, &[1], 1, &[])[3], 0.0);
        assert_eq!(run(Options { forced_eos_token_ids: vec![2], ..d() }, &[0; 7], 1, &[])[2], 0.0);
        assert_eq!(run(Options { forced_eos_token_ids: vec![2], ..d() }, &[0; 6], 1, &[]), plain);
    }
}
