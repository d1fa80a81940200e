//! Calls on whole sequences: states, heads, embeddings and logits, with teacher forcing in encoder-decoders.

use super::blocks::Captured;
use super::cache::{Cache, SequenceId};
use super::loaded::{Batch, missing};
use super::session::{Session, finite};
use super::spec;
use super::stack::{Capture, Stack};
use super::weights::DenseWeights;
use crate::error::{Error, Result};
use crate::ops::kv::Sequence;
use crate::ops::pool::Pooling;

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
            let (from, to) = (batch.starts[i], batch.starts[i + 1]);
            let one = Batch {
                ids: &batch.ids[from..to],
                starts: &[0, to - from],
                segments: batch.segments.map(|t| &t[from..to]),
            };
            let mut capture = Capture { states: Some(Vec::new()), ..Capture::default() };
            self.run_whole((s, w), &one, None, &mut capture, &mut |_, _| Ok(()))?;
            for (to, from) in all.iter_mut().zip(capture.states.unwrap_or_default()) {
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

    fn head(
        &mut self,
        head: &spec::Head,
        weights: &[DenseWeights],
        batch: &Batch<'_>,
        sources: Option<&mut Cache>,
    ) -> Result<Vec<f32>> {
        let (s, w) = self.last();
        let width = s.output_width();
        let mut out = Vec::new();
        self.run_whole((s, w), batch, sources, &mut Capture::default(), &mut |session, group| {
            let base = batch.starts[group.start];
            let rows = batch.starts[group.end] - base;
            let states = session.scratch.blocks.x[..rows * width].to_vec();
            let pooling = match head.pool {
                spec::HeadPool::None => {
                    out.extend(session.dense(&head.layers, weights, &states, states.len() / width));
                    return Ok(());
                }
                spec::HeadPool::First => Pooling::First,
                spec::HeadPool::Mean => Pooling::Mean,
                spec::HeadPool::Last => Pooling::Last,
                spec::HeadPool::MeanOutput => {
                    let rows = session.dense(&head.layers, weights, &states, states.len() / width);
                    let width = head.layers.last().map_or(width, |dense| dense.outputs);
                    for i in group.clone() {
                        let part =
                            &rows[(batch.starts[i] - base) * width..(batch.starts[i + 1] - base) * width];
                        let at = out.len();
                        out.resize(at + width, 0.0);
                        Pooling::Mean.pool(part, width, &mut out[at..]);
                    }
                    return Ok(());
                }
            };
            let mut pooled = vec![0.0; group.len() * width];
            for (i, row) in group.clone().zip(pooled.chunks_mut(width)) {
                pooling.pool(
                    &states[(batch.starts[i] - base) * width..(batch.starts[i + 1] - base) * width],
                    width,
                    row,
                );
            }
            out.extend(session.dense(&head.layers, weights, &pooled, group.len()));
            Ok(())
        })?;
        finite(&out, "the head's output", self.model.kv_type())?;
        Ok(out)
    }

    /// The task head's output, a row per sequence or per token.
    pub fn task_head(&mut self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let head = self.model.spec.head.as_ref().ok_or_else(|| missing("a task head"))?;
        self.one_stack()?;
        self.head(head, &self.model.weights.head, batch, None)
    }

    /// The task head's output over the decoder's states of the targets, a row per sequence or per target
    /// token.
    pub fn decoder_head(&mut self, source: &Batch<'_>, target: &Batch<'_>) -> Result<Vec<f32>> {
        let head = self.model.spec.head.as_ref().ok_or_else(|| missing("a task head"))?;
        pairs(source, target)?;
        let mut sources = self.encode_sources(source)?;
        self.head(head, &self.model.weights.head, target, Some(&mut sources))
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
        self.head(head, &self.model.weights.pooler, batch, None)
    }

    /// Pooled final states, `[sequences, width]`.
    pub fn embed(&mut self, batch: &Batch<'_>, pooling: Pooling, normalize: bool) -> Result<Vec<f32>> {
        let (s, w) = self.reader();
        let width = s.output_width();
        let mut out = vec![0.0; batch.len() * width];
        self.run_whole((s, w), batch, None, &mut Capture::default(), &mut |session, group| {
            let base = batch.starts[group.start];
            for i in group {
                let rows = (batch.starts[i] - base) * width..(batch.starts[i + 1] - base) * width;
                let row = &mut out[i * width..][..width];
                pooling.pool(&session.scratch.blocks.x[rows], width, row);
                if normalize {
                    crate::ops::pool::normalize_length(row);
                }
            }
            Ok(())
        })?;
        finite(&out, "the embedding", self.model.kv_type())?;
        Ok(out)
    }

    /// Language-head logits at every position, `[tokens, vocab]`; for decoders and masked language models.
    pub fn all_logits(&mut self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        self.one_stack()?;
        let (s, w) = self.last();
        self.logits_of(s, w, batch, None)
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
