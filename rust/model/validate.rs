//! Validation of descriptions: every size and number is checked once, here or in the `validate` of each body,
//! so that later code need not.

use super::bounds::{Site, finite, norms, positive, refuse, size, vocabulary};
use super::spec::{Block, Body, Head, HeadLayer, LanguageHead, Layer, Model, Stack};
use crate::error::Result;
use std::collections::HashSet;

/// Layers of a stack, and blocks of a layer.
const MAX_LAYERS: usize = 4096;
/// Networks of a stack, counting each expert: a short description must not name more tensors than a model may
/// have.
const MAX_NETWORKS: usize = 1 << 17;

impl Block {
    fn validate(&self, place: &str, first: bool, site: &Site) -> Result<()> {
        norms(
            place,
            &[
                ("input_norm", &self.input_norm),
                ("output_norm", &self.output_norm),
                ("residual_norm", &self.residual_norm),
            ],
        )?;
        finite(place, "residual_scale", self.residual_scale)?;
        if self.from_layer_input && (first || self.residual_after_norm) {
            let expected = "false in the first block and with residual_after_norm";
            return refuse(place, "from_layer_input", true, expected);
        }
        self.body.validate(place, site)
    }
}

impl Layer {
    fn validate(&self, place: &str, site: &Site) -> Result<()> {
        if self.blocks.is_empty() || self.blocks.len() > MAX_LAYERS {
            return refuse(place, "blocks", format!("{} blocks", self.blocks.len()), "1 to 4096");
        }
        let mut names = HashSet::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let name = block.name();
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(plain) {
                return refuse(place, "blocks.name", format!("{name:?}"), "letters, digits and underscores");
            }
            if !names.insert(name) {
                return refuse(
                    place,
                    "blocks.name",
                    format!("{name:?} twice"),
                    "a name of its own for each block",
                );
            }
            block.validate(&format!("{place}.{name}"), i == 0, site)?;
        }
        Ok(())
    }
}

impl Stack {
    fn validate(&self, place: &str, decoder: bool, source: bool) -> Result<()> {
        size(place, "hidden_size", self.hidden_size)?;
        self.stem.validate(&format!("{place}.stem"), decoder)?;
        if let Some(o) = self.output_size {
            size(place, "output_size", o)?;
        }
        if self.max_length == 0 || self.max_length > 1 << 30 {
            return refuse(place, "max_length", self.max_length, "1 to 1073741824");
        }
        if let Some(relative) = &self.relative {
            size(place, "relative.rows", relative.rows)?;
            norms(place, &[("relative.norm", &relative.norm)])?;
            if !self.bodies().any(|body| body.reads_relative()) {
                return refuse(place, "relative", "given", "nothing: no attention reads it");
            }
        }
        // An encoder without layers is a table of token embeddings.
        let (least, expected) = if decoder { (1, "1 to 4096") } else { (0, "at most 4096") };
        if self.layers.len() < least || self.layers.len() > MAX_LAYERS {
            return refuse(place, "layers", format!("{} layers", self.layers.len()), expected);
        }
        norms(place, &[("final_norm", &self.final_norm)])?;
        let relative_rows = self.relative.as_ref().map(|table| table.rows);
        let site = Site { hidden_size: self.hidden_size, relative_rows, decoder, source };
        for (i, layer) in self.layers.iter().enumerate() {
            layer.validate(&format!("{place}.layers.{i}"), &site)?;
        }
        let networks: usize = self.bodies().map(Body::networks).sum();
        if networks > MAX_NETWORKS {
            let expected = format!("at most {MAX_NETWORKS} in all layers");
            return refuse(place, "layers", format!("{networks} blocks and experts"), &expected);
        }
        if source && !self.bodies().any(|body| body.reads_source()) {
            return refuse(place, "layers", "without cross-attention", "some in a decoder beside an encoder");
        }
        Ok(())
    }
}

/// Poolings that are concatenated.
const MAX_POOLINGS: usize = 16;
/// Heads that make embeddings.
const MAX_EMBEDDINGS: usize = 64;

impl Head {
    fn validate(&self, place: &str, stack: &Stack) -> Result<()> {
        if self.pool.len() > MAX_POOLINGS {
            let expected = format!("at most {MAX_POOLINGS}");
            return refuse(place, "pool", format!("{} poolings", self.pool.len()), &expected);
        }
        if self.token_layers > self.layers.len() || (self.pool.is_empty() && self.token_layers > 0) {
            let expected = "at most the number of layers, and 0 without a pooling";
            return refuse(place, "token_layers", self.token_layers, expected);
        }
        if let Some(first) = self.mixture
            && (first > stack.layers.len() || stack.output_size.is_some())
        {
            let expected = format!("0 to {} of a stack without output_size", stack.layers.len());
            return refuse(place, "mixture", first, &expected);
        }
        layers(&format!("{place}.layers"), &self.layers)?;
        size(place, "output", self.output_width(stack.output_width()))
    }
}

fn layers(place: &str, layers: &[HeadLayer]) -> Result<()> {
    if layers.len() > MAX_LAYERS {
        return refuse(place, "length", layers.len(), "at most 4096");
    }
    layers.iter().enumerate().try_for_each(|(i, layer)| {
        let place = format!("{place}.{i}");
        match layer {
            HeadLayer::Dense(dense) => {
                size(&place, "outputs", dense.outputs)?;
                norms(&place, &[("norm", &dense.norm)])
            }
            HeadLayer::Normalization(layer) => norms(&place, &[("norm", &Some(layer.norm.clone()))]),
            HeadLayer::UnitLength(_) => Ok(()),
        }
    })
}

impl LanguageHead {
    fn validate(&self) -> Result<()> {
        vocabulary("language_head", "vocab_size", self.vocab_size)?;
        finite("language_head", "scale", self.scale)?;
        if let Some(cap) = self.softcap {
            positive("language_head", "softcap", cap)?;
        }
        layers("language_head.transform", &self.transform)
    }
}

impl Model {
    /// Checks every size and number.
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
            head.validate()?;
        } else if self.encoder.is_some() && self.decoder.is_some() && self.head.is_none() {
            // BART's sequence classifier reads the decoder's last state: it has a head instead.
            return refuse("model", "language_head", "missing", "one on an encoder-decoder");
        }
        for (place, head) in [("pooler", &self.pooler), ("head", &self.head)] {
            if let Some(head) = head {
                head.validate(place, self.last_stack())?;
            }
        }
        if self.embeddings.len() > MAX_EMBEDDINGS {
            let expected = format!("at most {MAX_EMBEDDINGS}");
            return refuse("model", "embeddings", format!("{} heads", self.embeddings.len()), &expected);
        }
        for (i, head) in self.embeddings.iter().enumerate() {
            head.validate(&format!("embeddings.{i}"), self.reader())?;
        }
        Ok(())
    }
}
