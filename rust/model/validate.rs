//! What a description may hold: every size and number is checked here once, so that nothing later has to.

use super::spec::{Attention, Dense, FeedForward, Head, Model, Norm, Rotary, Stack};
use crate::error::{Error, Result};

/// No size of a description may exceed this: what is larger is a mistake, and products of three fit in 64 bits.
const MOST: usize = 1 << 20;

/// Layers of a stack.
const MOST_LAYERS: usize = 4096;

fn refuse<T>(place: &str, field: &str, got: impl std::fmt::Display, expected: &str) -> Result<T> {
    Err(Error::Spec(format!("{place}.{field} is {got}: expected {expected}")))
}

fn size(place: &str, field: &str, value: usize) -> Result<()> {
    if value == 0 || value > MOST {
        return refuse(place, field, value, "1 to 1048576");
    }
    Ok(())
}

fn finite(place: &str, field: &str, value: f64) -> Result<()> {
    if !value.is_finite() || value.abs() > 1e30 {
        return refuse(place, field, value, "a finite number");
    }
    Ok(())
}

fn positive(place: &str, field: &str, value: f64) -> Result<()> {
    finite(place, field, value)?;
    if value <= 0.0 {
        return refuse(place, field, value, "a number above zero");
    }
    Ok(())
}

impl Norm {
    fn validate(&self, place: &str) -> Result<()> {
        if !(self.eps.is_finite() && (0.0..=1.0).contains(&self.eps)) {
            return refuse(place, "eps", self.eps, "0 to 1");
        }
        Ok(())
    }
}

fn norms(place: &str, norms: [(&str, &Option<Norm>); 3]) -> Result<()> {
    for (name, norm) in norms {
        if let Some(norm) = norm {
            norm.validate(&format!("{place}.{name}"))?;
        }
    }
    Ok(())
}

impl Rotary {
    fn validate(&self, place: &str, head_dim: usize) -> Result<()> {
        let pairs = self.inv_freq.len();
        if pairs == 0 || 2 * pairs > head_dim {
            return refuse(
                place,
                "inv_freq",
                format!("{pairs} frequencies"),
                &format!("1 to {}", head_dim / 2),
            );
        }
        for &f in &self.inv_freq {
            finite(place, "inv_freq", f)?;
        }
        finite(place, "scale", self.scale)?;
        if let Some(long) = &self.long {
            if long.inv_freq.len() != pairs {
                let got = format!("{} frequencies", long.inv_freq.len());
                return refuse(place, "long.inv_freq", got, &format!("{pairs}"));
            }
            for &f in &long.inv_freq {
                finite(place, "long.inv_freq", f)?;
            }
            finite(place, "long.scale", long.scale)?;
            size(place, "long.after", long.after)?;
        }
        if let Some(dynamic) = &self.dynamic {
            positive(place, "dynamic.base", dynamic.base)?;
            positive(place, "dynamic.factor", dynamic.factor)?;
            size(place, "dynamic.original_length", dynamic.original_length)?;
            if pairs < 2 {
                return refuse(place, "inv_freq", pairs, "at least 2 frequencies with dynamic scaling");
            }
        }
        Ok(())
    }
}

impl Attention {
    fn validate(&self, place: &str, stack: &Stack) -> Result<()> {
        size(place, "heads", self.heads)?;
        size(place, "kv_heads", self.kv_heads)?;
        size(place, "head_dim", self.head_dim)?;
        size(place, "heads * head_dim", self.query_size())?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return refuse(place, "heads", self.heads, &format!("a multiple of kv_heads, {}", self.kv_heads));
        }
        finite(place, "scale", self.scale)?;
        finite(place, "residual_scale", self.residual_scale)?;
        if self.window == Some(0) {
            return refuse(place, "window", 0, "at least 1");
        }
        if let Some(cap) = self.softcap {
            positive(place, "softcap", cap)?;
        }
        if let Some(clip) = self.clip {
            positive(place, "clip", clip)?;
        }
        norms(
            place,
            [
                ("input_norm", &self.input_norm),
                ("output_norm", &self.output_norm),
                ("residual_norm", &self.residual_norm),
            ],
        )?;
        norms(place, [("query_norm", &self.query_norm), ("key_norm", &self.key_norm), ("", &None)])?;
        if let Some(rotary) = &self.rotary {
            rotary.validate(&format!("{place}.rotary"), self.head_dim)?;
        }
        if let Some(q) = &self.query_scale {
            finite(place, "query_scale.beta", q.beta)?;
            size(place, "query_scale.original_length", q.original_length)?;
        }
        if let Some(r) = &self.relative_bias {
            let halves = if r.bidirectional { 2 } else { 1 };
            if r.buckets / halves < 2 || r.buckets > 65536 {
                return refuse(
                    place,
                    "relative_bias.buckets",
                    r.buckets,
                    &format!("{} to 65536", 2 * halves),
                );
            }
            size(place, "relative_bias.max_distance", r.max_distance)?;
            if r.max_distance <= r.buckets / halves / 2 {
                let least = r.buckets / halves / 2 + 1;
                return refuse(
                    place,
                    "relative_bias.max_distance",
                    r.max_distance,
                    &format!("at least {least}"),
                );
            }
        }
        if let Some(alibi) = &self.alibi {
            if alibi.slopes.len() != self.heads {
                return refuse(place, "alibi.slopes", alibi.slopes.len(), &format!("{} slopes", self.heads));
            }
            for &s in &alibi.slopes {
                finite(place, "alibi.slopes", s)?;
            }
        }
        if self.relative_bias.is_some() && self.alibi.is_some() {
            return refuse(place, "alibi", "given", "not together with relative_bias");
        }
        if let Some(d) = &self.disentangled {
            size(place, "disentangled.span", d.span)?;
            size(place, "disentangled.max_distance", d.max_distance)?;
            if stack.relative_rows != 2 * d.span {
                return refuse(place, "disentangled.span", d.span, "half of the stack's relative_rows");
            }
            if d.buckets > MOST || (d.buckets > 0 && (d.buckets < 4 || d.max_distance <= d.buckets / 2)) {
                return refuse(place, "disentangled.buckets", d.buckets, "0, or 4 to 2 * max_distance - 1");
            }
            // Its scores are computed by code of their own, which knows none of these.
            let other = self.rotary.is_some()
                || self.alibi.is_some()
                || self.relative_bias.is_some()
                || self.query_scale.is_some()
                || self.query_norm.is_some()
                || self.key_norm.is_some()
                || self.clip.is_some()
                || self.window.is_some()
                || self.softcap.is_some();
            if other || self.causal || self.kv_heads != self.heads {
                let expected =
                    "full attention without grouping, window, softcap, clip, norms or another position";
                return refuse(place, "disentangled", "given", expected);
            }
        }
        Ok(())
    }
}

impl FeedForward {
    fn validate(&self, place: &str) -> Result<()> {
        size(place, "width", self.width)?;
        finite(place, "residual_scale", self.residual_scale)?;
        if self.gate_bias && !self.gated {
            return refuse(place, "gate_bias", true, "false where gated is false");
        }
        norms(
            place,
            [
                ("input_norm", &self.input_norm),
                ("output_norm", &self.output_norm),
                ("residual_norm", &self.residual_norm),
            ],
        )
    }
}

impl Stack {
    fn validate(&self, place: &str, decoder: bool, source: bool) -> Result<()> {
        size(place, "hidden_size", self.hidden_size)?;
        size(place, "vocab_size", self.vocab_size / 4 + 1)?;
        if self.vocab_size == 0 {
            return refuse(place, "vocab_size", 0, "at least 1");
        }
        if let Some(e) = self.embedding_size {
            size(place, "embedding_size", e)?;
        } else {
            let needless = [
                ("embedding_projection_bias", self.embedding_projection_bias),
                ("project_before_positions", self.project_before_positions),
            ];
            if let Some((field, _)) = needless.iter().find(|(_, given)| *given) {
                return refuse(place, field, true, "false where there is no embedding_size");
            }
        }
        if let Some(o) = self.output_size {
            size(place, "output_size", o)?;
        }
        if self.max_length == 0 || self.max_length > 1 << 30 {
            return refuse(place, "max_length", self.max_length, "1 to 1073741824");
        }
        if self.positions > 0 {
            size(place, "positions", self.positions)?;
        }
        if self.segments > 0 {
            size(place, "segments", self.segments)?;
        }
        if self.relative_rows > 0 {
            size(place, "relative_rows", self.relative_rows)?;
        } else if self.relative_norm.is_some() {
            return refuse(place, "relative_norm", "given", "none where relative_rows is 0");
        }
        finite(place, "embedding_scale", self.embedding_scale)?;
        if let Some(d) = &self.token_dropout {
            positive(place, "token_dropout.kept", d.kept)?;
            if decoder {
                return refuse(place, "token_dropout", "given", "none in a decoder");
            }
        }
        if self.layers.is_empty() || self.layers.len() > MOST_LAYERS {
            return refuse(place, "layers", format!("{} layers", self.layers.len()), "1 to 4096");
        }
        norms(
            place,
            [
                ("embedding_norm", &self.embedding_norm),
                ("relative_norm", &self.relative_norm),
                ("final_norm", &self.final_norm),
            ],
        )?;
        for (i, layer) in self.layers.iter().enumerate() {
            let place = format!("{place}.layers.{i}");
            layer.attention.validate(&format!("{place}.attention"), self)?;
            layer.feed_forward.validate(&format!("{place}.feed_forward"))?;
            if let Some(cross) = &layer.cross_attention {
                cross.validate(&format!("{place}.cross_attention"), self)?;
                let plain = cross.rotary.is_none()
                    && cross.alibi.is_none()
                    && cross.relative_bias.is_none()
                    && cross.disentangled.is_none()
                    && cross.query_scale.is_none()
                    && cross.window.is_none()
                    && cross.clip.is_none()
                    && !cross.causal;
                if !plain {
                    let got = "given a position, window, clip or causal mask";
                    return refuse(&place, "cross_attention", got, "none of them");
                }
                if !(decoder && source) {
                    return refuse(&place, "cross_attention", "given", "only in a decoder beside an encoder");
                }
            } else if decoder && source {
                return refuse(
                    &place,
                    "cross_attention",
                    "missing",
                    "one in every layer of a decoder beside an encoder",
                );
            }
            if layer.parallel
                && (layer.cross_attention.is_some()
                    || layer.attention.residual_norm.is_some()
                    || layer.feed_forward.residual_norm.is_some()
                    || layer.attention.residual_after_norm
                    || layer.feed_forward.residual_after_norm
                    || layer.attention.disentangled.is_some())
            {
                let expected =
                    "no cross-attention, residual norms, residuals after a norm or disentangled attention";
                return refuse(&place, "parallel", true, expected);
            }
            if decoder && !layer.attention.causal {
                return refuse(&place, "attention.causal", false, "true in a decoder");
            }
            if let Some(c) = &layer.convolution {
                size(&place, "convolution.kernel", c.kernel)?;
                size(&place, "convolution.groups", c.groups)?;
                if c.kernel % 2 == 0 || !self.hidden_size.is_multiple_of(c.groups) || decoder {
                    return refuse(
                        &place,
                        "convolution",
                        "given",
                        "an odd kernel and groups that divide hidden_size, in an encoder",
                    );
                }
                c.norm.validate(&format!("{place}.convolution.norm"))?;
            }
        }
        Ok(())
    }
}

impl Head {
    fn validate(&self, place: &str) -> Result<()> {
        for (i, dense) in self.layers.iter().enumerate() {
            dense.validate(&format!("{place}.layers.{i}"))?;
        }
        Ok(())
    }
}

impl Dense {
    fn validate(&self, place: &str) -> Result<()> {
        size(place, "outputs", self.outputs)?;
        norms(place, [("norm", &self.norm), ("", &None), ("", &None)])
    }
}

impl Model {
    /// Checks every size and number, so that nothing later has to.
    pub fn validate(&self) -> Result<()> {
        if self.encoder.is_none() && self.decoder.is_none() {
            return refuse("model", "encoder", "missing", "an encoder, a decoder or both");
        }
        if let Some(encoder) = &self.encoder {
            encoder.validate("encoder", false, false)?;
        }
        if let Some(decoder) = &self.decoder {
            decoder.validate("decoder", true, self.encoder.is_some())?;
        }
        if let Some(head) = &self.language_head {
            if head.vocab_size == 0 || head.vocab_size / 4 > MOST {
                return refuse("language_head", "vocab_size", head.vocab_size, "1 to 4194304");
            }
            finite("language_head", "scale", head.scale)?;
            if let Some(cap) = head.softcap {
                positive("language_head", "softcap", cap)?;
            }
            for (i, dense) in head.transform.iter().enumerate() {
                dense.validate(&format!("language_head.transform.{i}"))?;
            }
        } else if self.encoder.is_some() && self.decoder.is_some() {
            // BART's sequence classifier reads the decoder's last state; it has a head instead.
            if self.head.is_none() {
                return refuse("model", "language_head", "missing", "one on an encoder-decoder");
            }
        }
        for (place, head) in [("pooler", &self.pooler), ("head", &self.head)] {
            if let Some(head) = head {
                head.validate(place)?;
            }
        }
        Ok(())
    }
}
