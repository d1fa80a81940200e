//! Calls on whole sequences: states, heads, embeddings and logits, with teacher forcing in encoder-decoders.

use super::blocks::Captured;
use super::cache::{Cache, SequenceId};
use super::loaded::{Batch, missing};
use super::session::{Session, finite};
use super::spec;
use super::stack::{Capture, Stack};
use super::weights::{HeadLayer, HeadWeights};
use crate::error::{Error, Result};
use crate::ops::kv::Sequence;
use crate::ops::pool::normalize_length;
use crate::tensor::sized;
use std::ops::Range;

/// What a call changes about a head for embeddings.
#[derive(Default)]
pub struct HeadOptions {
    /// Tokens of a prompt, which the poolings leave out.
    pub skip: usize,
    /// Number of dimensions that are kept.
    pub size: Option<usize>,
    /// Whether rows have unit length at the end; `None`: as the head says.
    pub normalize: Option<bool>,
}

impl Session<'_> {
    /// Final states of the text's stack, `[tokens, width]`.
    pub fn encode(&mut self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let (s, w) = self.reader();
        let mut out = Vec::with_capacity(batch.ids.len() * s.output_width());
        self.run_whole((s, w), batch, None, &mut Capture::default(), &mut |session, group| {
            let rows = batch.starts[group.end] - batch.starts[group.start];
            out.extend_from_slice(&session.scratch.blocks.x[..rows * s.output_width()]);
            Ok(())
        })?;
        finite(&out, "a hidden state", self.model.kv_type())?;
        Ok(out)
    }

    /// The embedding and every layer's output, `[tokens, width]` each.
    pub fn hidden_states(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f32>>> {
        let (s, w) = self.reader();
        let mut all: Vec<Vec<f32>> = vec![Vec::new(); s.layers.len() + 1];
        for i in 0..batch.len() {
            for (to, from) in all.iter_mut().zip(self.states_of((s, w), batch, i)?) {
                to.extend(from);
            }
        }
        for states in &all {
            finite(states, "a hidden state", self.model.kv_type())?;
        }
        Ok(all)
    }

    /// Attention probabilities of a layer for one sequence, `[heads, tokens, tokens]`.
    pub fn attentions(&mut self, batch: &Batch<'_>, layer: usize) -> Result<Vec<f32>> {
        let (s, w) = self.reader();
        check_layer(layer, s)?;
        let mut capture = Capture { attention: Some((layer, Captured::SelfAttention)), ..Capture::default() };
        self.run_whole((s, w), batch, None, &mut capture, &mut |_, _| Ok(()))?;
        finite(&capture.probabilities, "an attention probability", self.model.kv_type())?;
        Ok(capture.probabilities)
    }

    /// What a head makes of whole sequences: a row for each, or for each token where it does not pool.
    fn head(
        &mut self,
        (s, w): (&spec::Stack, &Stack),
        (head, weights): (&spec::Head, &HeadWeights),
        batch: &Batch<'_>,
        sources: Option<&mut Cache>,
        options: &HeadOptions,
    ) -> Result<Vec<f32>> {
        let width = s.output_width();
        let unit = |layer: &HeadLayer| matches!(layer, HeadLayer::UnitLength);
        let mut layers = &weights.layers[..];
        while options.normalize == Some(false)
            && layers.len() > head.token_layers
            && layers.last().is_some_and(unit)
        {
            layers = &layers[..layers.len() - 1];
        }
        let (of_tokens, of_pooled) = layers.split_at(head.token_layers);
        let mut out = Vec::new();
        let mut each = |session: &mut Session<'_>, states: Vec<f32>, group: Range<usize>| {
            let base = batch.starts[group.start];
            let tokens = batch.starts[group.end] - base;
            let states = session.head_layers(of_tokens, states, tokens);
            if head.pool.is_empty() {
                out.extend(session.head_layers(of_pooled, states, tokens));
                return;
            }
            let width = states.len() / tokens;
            let mut pooled = vec![0.0; group.len() * head.pool.len() * width];
            let mut places = pooled.chunks_mut(width);
            for i in group.clone() {
                let part = &states[(batch.starts[i] - base) * width..(batch.starts[i + 1] - base) * width];
                for (pooling, place) in head.pool.iter().zip(&mut places) {
                    pooling.pool(part, width, options.skip, place);
                }
            }
            out.extend(session.head_layers(of_pooled, pooled, group.len()));
        };
        if let Some(first) = head.mixture {
            let total: f32 = weights.mixture.iter().sum();
            for i in 0..batch.len() {
                let states = self.states_of((s, w), batch, i)?;
                let mut mixed = vec![0.0; (batch.starts[i + 1] - batch.starts[i]) * width];
                for (weight, states) in weights.mixture.iter().zip(&states[first..]) {
                    for (m, v) in mixed.iter_mut().zip(states) {
                        *m += weight * v;
                    }
                }
                mixed.iter_mut().for_each(|m| *m /= total);
                each(self, mixed, i..i + 1);
            }
        } else {
            self.run_whole((s, w), batch, sources, &mut Capture::default(), &mut |session, group| {
                let rows = batch.starts[group.end] - batch.starts[group.start];
                let states = session.scratch.blocks.x[..rows * width].to_vec();
                each(session, states, group);
                Ok(())
            })?;
        }
        self.team.check()?;
        Ok(out)
    }

    /// The embedding and every layer's output of sequence `i`, `[tokens, width]` each.
    fn states_of(
        &mut self,
        stack: (&spec::Stack, &Stack),
        batch: &Batch<'_>,
        i: usize,
    ) -> Result<Vec<Vec<f32>>> {
        let (from, to) = (batch.starts[i], batch.starts[i + 1]);
        if from >= to {
            return Err(Error::Option(format!("sequence {i} is empty: expected at least one token")));
        }
        let one = Batch {
            ids: &batch.ids[from..to],
            starts: &[0, to - from],
            segments: batch.segments.map(|t| &t[from..to]),
            unseen: batch.unseen.map(|counts| &counts[i..=i]),
        };
        let mut capture = Capture { states: Some(Vec::new()), ..Capture::default() };
        self.run_whole(stack, &one, None, &mut capture, &mut |_, _| Ok(()))?;
        Ok(capture.states.unwrap_or_default())
    }

    fn checked_head(
        &mut self,
        head: (&spec::Head, &HeadWeights),
        batch: &Batch<'_>,
        sources: Option<&mut Cache>,
    ) -> Result<Vec<f32>> {
        let out = self.head(self.last(), head, batch, sources, &HeadOptions::default())?;
        finite(&out, "the head's output", self.model.kv_type())?;
        Ok(out)
    }

    /// The task head's output, a row per sequence or per token.
    pub fn task_head(&mut self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let head = self.model.spec.head.as_ref().ok_or_else(|| missing("a task head"))?;
        self.one_stack()?;
        self.checked_head((head, &self.model.weights.head), batch, None)
    }

    /// The task head's output over the decoder's states of the targets, a row per sequence or per target
    /// token.
    pub fn decoder_head(&mut self, source: &Batch<'_>, target: &Batch<'_>) -> Result<Vec<f32>> {
        let head = self.model.spec.head.as_ref().ok_or_else(|| missing("a task head"))?;
        pairs(source, target)?;
        let mut sources = self.encode_sources(source)?;
        self.checked_head((head, &self.model.weights.head), target, Some(&mut sources))
    }

    /// Refuses a head without targets in an encoder-decoder, whose heads read the decoder's states.
    fn one_stack(&self) -> Result<()> {
        match (&self.model.spec.encoder, &self.model.spec.decoder) {
            (Some(_), Some(_)) => {
                Err(Error::Option("the head of an encoder-decoder needs targets for its decoder".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// The pooler's output, a row per sequence.
    pub fn pooler(&mut self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let head = self.model.spec.pooler.as_ref().ok_or_else(|| missing("a pooler"))?;
        self.one_stack()?;
        self.checked_head((head, &self.model.weights.pooler), batch, None)
    }

    /// Embeddings by one of the model's heads for them, a row per sequence, or per token where it does not pool.
    pub fn embed(&mut self, batch: &Batch<'_>, route: usize, options: &HeadOptions) -> Result<Vec<f32>> {
        let (Some(head), Some(weights)) =
            (self.model.spec.embeddings.get(route), self.model.weights.embeddings.get(route))
        else {
            return Err(missing("a head for embeddings"));
        };
        let (s, w) = self.reader();
        let mut out = self.head((s, w), (head, weights), batch, None, options)?;
        let width = head.output_width(s.output_width());
        let size = options.size.unwrap_or(width);
        if size == 0 || size > width {
            return Err(Error::Option(format!(
                "size is {size}: expected 1 to {width}, the width of the embedding"
            )));
        }
        if size < width {
            for i in 0..out.len() / width {
                out.copy_within(i * width..i * width + size, i * size);
            }
            out.truncate(out.len() / width * size);
        }
        if options.normalize == Some(true) {
            out.chunks_mut(size).for_each(normalize_length);
        }
        finite(&out, "the embedding", self.model.kv_type())?;
        Ok(out)
    }

    /// Weights of the vocabulary's terms, `[sequences, vocab]`: log(1 + max(logit, 0)) of the language head, its
    /// maximum over the tokens, or its sum. `logs` is how many times the logarithm is taken.
    /// Formal et al. 2021, <https://arxiv.org/abs/2109.10086>
    pub fn term_weights(&mut self, batch: &Batch<'_>, sum: bool, logs: usize) -> Result<Vec<f32>> {
        const ROWS: usize = 64;
        self.one_stack()?;
        let model = self.model;
        let vocab = model.vocab_size()?;
        let weight = |logit: f32| (0..logs).fold(logit.max(0.0), |x, _| x.ln_1p());
        let mut out = vec![0.0f32; batch.len() * vocab];
        self.run_whole(self.last(), batch, None, &mut Capture::default(), &mut |session, group| {
            let base = batch.starts[group.start];
            for i in group {
                let total = &mut out[i * vocab..][..vocab];
                let (from, to) = (batch.starts[i] - base, batch.starts[i + 1] - base);
                for first in (from..to).step_by(ROWS) {
                    session.with_logits(first..to.min(first + ROWS), &mut |logits, finite| {
                        if !finite {
                            model.check_logits(logits)?;
                        }
                        for row in logits.chunks_exact(vocab) {
                            for (t, &logit) in total.iter_mut().zip(row) {
                                *t = if sum { *t + weight(logit) } else { t.max(logit) };
                            }
                        }
                        Ok(())
                    })?;
                }
                // The logarithm grows with the logit: that of the maximum is the maximum.
                if !sum {
                    total.iter_mut().for_each(|t| *t = weight(*t));
                }
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// Language-head logits at every position, `[tokens, vocab]`; for decoders and masked language models.
    pub fn all_logits(&mut self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        self.one_stack()?;
        let (s, w) = self.last();
        self.logits_of(s, w, batch, None)
    }

    /// Language-head logits of given states of the last stack, `[rows, vocab]`. States before the final norm
    /// (`normed` is false) pass through it first: the logit lens,
    /// <https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens>.
    pub fn state_logits(&mut self, states: &[f32], width: usize, normed: bool) -> Result<Vec<f32>> {
        let vocab = self.model.vocab_size()?;
        let (s, w) = self.last();
        let expected = if normed { s.output_width() } else { s.hidden_size };
        if width != expected {
            return Err(Error::Option(format!(
                "states have {width} columns: expected {expected}, the width of states {} the final norm",
                if normed { "after" } else { "before" }
            )));
        }
        let rows = states.len() / width;
        if normed {
            sized(&mut self.scratch.blocks.x, states.len()).copy_from_slice(states);
        } else {
            w.finish_states(self.team, self.scratch, states);
        }
        let mut out = vec![0.0; rows * vocab];
        self.logits(rows, &mut out)?;
        Ok(out)
    }

    fn logits_of(
        &mut self,
        s: &spec::Stack,
        w: &Stack,
        batch: &Batch<'_>,
        sources: Option<&mut Cache>,
    ) -> Result<Vec<f32>> {
        let vocab = self.model.vocab_size()?;
        let mut out = Vec::new();
        self.run_whole((s, w), batch, sources, &mut Capture::default(), &mut |session, group| {
            let rows = batch.starts[group.end] - batch.starts[group.start];
            let at = out.len();
            out.resize(at + rows * vocab, 0.0);
            session.logits(rows, &mut out[at..])
        })?;
        Ok(out)
    }

    /// Encodes sources and stores their keys and values for every layer of the decoder; source i is sequence
    /// i of the returned cache.
    pub fn encode_sources(&mut self, batch: &Batch<'_>) -> Result<Cache> {
        let mut cache = self.model.cache(true)?;
        let sequences: Vec<SequenceId> = (0..batch.len()).map(|_| cache.start()).collect();
        self.encode_sources_into(batch, &mut cache, &sequences)?;
        Ok(cache)
    }

    /// [`Session::encode_sources`] into empty sequences of a cache of sources.
    pub fn encode_sources_into(
        &mut self,
        batch: &Batch<'_>,
        cache: &mut Cache,
        sequences: &[SequenceId],
    ) -> Result<()> {
        let decoder = self.model.weights.decoder.as_ref().ok_or_else(|| missing("a decoder"))?;
        let (s, w) = self.encoder()?;
        let width = s.output_width();
        for (i, &sequence) in sequences.iter().enumerate() {
            cache.extend(sequence, batch.starts[i + 1].saturating_sub(batch.starts[i]))?;
        }
        self.run_whole((s, w), batch, None, &mut Capture::default(), &mut |session, group| {
            let base = batch.starts[group.start];
            let rows = batch.starts[group.end] - base;
            let source = |i: usize| {
                let rows = batch.starts[i] - base..batch.starts[i + 1] - base;
                Sequence { table: sequences[i], first: 0, length: rows.len(), rows }
            };
            let sources: Vec<Sequence> = group.map(source).collect();
            let states = session.scratch.blocks.x[..rows * width].to_vec();
            for block in decoder.blocks() {
                block.store_source(session.team, &mut session.scratch.blocks, &states, &sources, cache);
                session.team.check()?;
            }
            Ok(())
        })
    }

    /// Teacher-forced logits of an encoder-decoder, `[target tokens, vocab]`.
    pub fn decoder_logits(&mut self, source: &Batch<'_>, target: &Batch<'_>) -> Result<Vec<f32>> {
        pairs(source, target)?;
        let mut sources = self.encode_sources(source)?;
        let (s, w) = self.last();
        self.logits_of(s, w, target, Some(&mut sources))
    }

    /// The decoder's embedding and layers' outputs, teacher-forced, `[target tokens, width]` each.
    pub fn decoder_hidden_states(&mut self, source: &Batch<'_>, target: &Batch<'_>) -> Result<Vec<Vec<f32>>> {
        pairs(source, target)?;
        let mut sources = self.encode_sources(source)?;
        let (s, w) = self.last();
        let mut capture = Capture { states: Some(Vec::new()), ..Capture::default() };
        if target.len() != 1 {
            return Err(Error::Option("decoder_hidden_states takes one pair at a time".to_owned()));
        }
        self.run_whole((s, w), target, Some(&mut sources), &mut capture, &mut |_, _| Ok(()))?;
        let all = capture.states.unwrap_or_default();
        for states in &all {
            finite(states, "a hidden state", self.model.kv_type())?;
        }
        Ok(all)
    }

    /// Self- or cross-attention probabilities of the decoder for one pair, `[heads, target, target or
    /// source]`.
    pub fn decoder_attentions(
        &mut self,
        source: &Batch<'_>,
        target: &Batch<'_>,
        layer: usize,
        cross: bool,
    ) -> Result<Vec<f32>> {
        pairs(source, target)?;
        let mut sources = self.encode_sources(source)?;
        let (s, w) = self.last();
        check_layer(layer, s)?;
        let kind = if cross { Captured::CrossAttention } else { Captured::SelfAttention };
        let mut capture = Capture { attention: Some((layer, kind)), ..Capture::default() };
        self.run_whole((s, w), target, Some(&mut sources), &mut capture, &mut |_, _| Ok(()))?;
        finite(&capture.probabilities, "an attention probability", self.model.kv_type())?;
        Ok(capture.probabilities)
    }
}

fn pairs(source: &Batch<'_>, target: &Batch<'_>) -> Result<()> {
    if source.len() != target.len() {
        return Err(Error::Option(format!(
            "{} sources and {} targets were given: expected one target for each source",
            source.len(),
            target.len()
        )));
    }
    Ok(())
}

fn check_layer(layer: usize, s: &spec::Stack) -> Result<()> {
    if layer >= s.layers.len() {
        return Err(Error::Option(format!(
            "layer {layer} is out of range: expected 0 to {}",
            s.layers.len() - 1
        )));
    }
    Ok(())
}
