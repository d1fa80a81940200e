"""What the families of encoder-decoders share.

`Shape` describes those after BART (BART itself, mBART, Marian, Pegasus, M2M-100, Blenderbot), which differ in where the
norms stand and in their positions. Lewis et al. 2019, https://arxiv.org/abs/1910.13461
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..checkpoint import Config, Tensor
from ..spec import Attention, CrossAttention, Dense, FeedForward, Head, LanguageHead, Model, Norm, Stack, TokenStem
from ._common import activation, classifier, layer, question_answering
from ._names import Renamed, rename, tie

Side = Literal["encoder", "decoder"]
SIDES: tuple[Side, Side] = ("encoder", "decoder")
Table = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

HEADS = {
    "sequence-classification": {"head.0": "classification_head.dense", "head.1": "classification_head.out_proj"},
    "question-answering": {"head.0": "qa_outputs"},
}
"""By task, the names of the head over the decoder's states."""

LANGUAGE = {"language_head.weight": "lm_head.weight", "language_head.bias": "final_logits_bias"}
IGNORED = [r"(encoder|decoder)\.version", r".*position_ids", r".*embed_positions\.(weights|_float_tensor)"]
"""Versions and buffers of old checkpoints."""

DEFAULTS = {
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    "encoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
    "decoder_attention_heads": 16,
    "d_model": 1024,
}
"""Sizes that most of the families after BART have where config.json leaves them out."""


def sinusoids(config: Config) -> Table:
    """Sines in the first half of the columns, cosines in the second, of positions from 0."""
    positions, width = config.size("max_position_embeddings", maximum=1 << 20), config.size("d_model", maximum=1 << 18)
    angles = np.arange(positions)[:, None] / 10000 ** (2 * np.arange((width + 1) // 2) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)[:, : width // 2]], axis=1).astype(np.float32)


def task_head(config: Config, task: str, hidden: int) -> Head | None:
    """The head over the decoder's states, for the tasks of `HEADS`."""
    if task == "sequence-classification":
        return classifier(config, "last", Dense(outputs=hidden, activation="tanh"))
    return question_answering() if task == "question-answering" else None


def refuse_halves(config: Config, task: str) -> None:
    """Refuses the classes that are a decoder alone, and heads that encoder-decoders do not have."""
    alone = any(name.endswith("ForCausalLM") for name in config.words("architectures"))
    if alone or task in ("token-classification", "fill-mask"):
        expected = "a whole encoder-decoder: to generate, to classify texts or to answer questions"
        raise config.wrong("architectures", expected)


def share(config: Config, out: Renamed) -> None:
    """Lets both sides and the language head use the shared table where they have none of their own."""
    shared = out.pop("shared.weight", None)
    for side in SIDES:
        if shared is not None:
            out.setdefault(f"{side}.embedding.token.weight", shared)
    tie(out, "decoder.embedding.token.weight", "encoder.embedding.token.weight")
    tie(out, "encoder.embedding.token.weight", "decoder.embedding.token.weight")
    if config.flag("tie_word_embeddings", default=True):
        tie(out, "language_head.weight", "decoder.embedding.token.weight")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One family after BART.

    ``place`` is where each block has its norm; with norms before the blocks each stack ends in one more. Positions are
    learned, less the first ``offset`` rows of their table, or those of ``table`` unless a table is stored. With
    ``decoder_norm_first`` the decoder norms its tokens, never scaled, before it adds positions. With
    ``padding_unplaced`` padding within a text gets no position: it takes up none in the encoder, one in the decoder.
    """

    place: Literal["input_norm", "residual_norm"]
    embedding_norm: bool = False
    offset: int = 0
    table: Callable[[Config], Table] | None = None
    logits_bias: bool = True
    decoder_norm_first: bool = False
    padding_unplaced: bool = False

    @property
    def final_norm(self) -> bool:
        """Whether the stacks end in a norm."""
        return self.place == "input_norm"

    def names(self, task: str) -> dict[str, str]:
        """The tensors that a task reads."""
        out = {"shared.weight": "shared.weight", **HEADS.get(task, LANGUAGE)}
        for side in SIDES:
            place = f"{side}.layers.{{i}}."
            out |= {
                f"{side}.embedding.token": f"{side}.embed_tokens",
                f"{side}.embedding.position": f"{side}.embed_positions",
                place + f"feed_forward.{self.place}": place + "final_layer_norm",
                place + "feed_forward.up": place + "fc1",
                place + "feed_forward.down": place + "fc2",
            }
            if self.embedding_norm:
                out[f"{side}.embedding.norm"] = f"{side}.layernorm_embedding"
            if self.final_norm:
                out[f"{side}.norm"] = f"{side}.layer_norm"
            for block, name in (("attention", "self_attn"), ("cross_attention", "encoder_attn")):
                out[place + f"{block}.{self.place}"] = place + f"{name}_layer_norm"
                for part, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out")):
                    out[place + f"{block}.{part}"] = place + f"{name}.{letter}_proj"
        return out

    def stack(self, config: Config, side: Side) -> Stack:
        """One side."""
        norm = Norm(kind="layer", eps=1e-5, bias=True)
        hidden, heads = config.size("d_model"), config.size(f"{side}_attention_heads")
        if hidden % heads:
            raise config.wrong(f"{side}_attention_heads", f"a divisor of d_model, {hidden}")

        decoder = side == "decoder"
        attend: dict[str, Any] = {
            "heads": heads,
            "kv_heads": heads,
            "head_dim": hidden // heads,
            "scale": (hidden // heads) ** -0.5,
            "query_bias": True,
            "key_bias": True,
            "value_bias": True,
            "output_bias": True,
        }
        crossed = [CrossAttention(**attend)] if decoder else []
        feed_forward = FeedForward(
            width=config.size(f"{side}_ffn_dim"),
            activation=activation(config, "activation_function", default="gelu"),
            up_bias=True,
            down_bias=True,
        )
        norms: dict[str, Any] = {self.place: norm}
        one = layer(Attention(**attend, causal=decoder), *crossed, feed_forward, **norms)
        norm_first = decoder and self.decoder_norm_first
        scaled = config.flag("scale_embedding") and not norm_first
        positions = config.size("max_position_embeddings")
        return Stack(
            hidden_size=hidden,
            stem=TokenStem(
                vocab_size=config.size("decoder_vocab_size", "vocab_size") if decoder else config.size("vocab_size"),
                scale=hidden**0.5 if scaled else 1.0,
                positions=positions,
                norm=norm if self.embedding_norm else None,
                norm_before_positions=norm_first,
                unplaced=config.size("pad_token_id", minimum=0) if decoder and self.padding_unplaced else None,
                padding=None if decoder or not self.padding_unplaced else config.size("pad_token_id", minimum=0),
            ),
            layers=(one,) * config.size(f"{side}_layers"),
            max_length=positions,
            final_norm=norm if self.final_norm else None,
        )

    def spec(self, config: Config, task: str) -> Model:
        """The whole model, with the head of its task or the language head."""
        refuse_halves(config, task)
        encoder, decoder = self.stack(config, "encoder"), self.stack(config, "decoder")
        head = task_head(config, task, decoder.hidden_size)
        if head is not None:
            return Model(encoder=encoder, decoder=decoder, head=head)
        language = LanguageHead(vocab_size=decoder.stem.vocab_size, bias=self.logits_bias)
        return Model(encoder=encoder, decoder=decoder, language_head=language)

    def tensors(self, config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
        """The checkpoint's tensors by our names."""
        unused = [r"classification_head\..*", r"qa_outputs\..*"]
        unused += [r"lm_head\.weight", "final_logits_bias"] if task in HEADS else []
        if not self.logits_bias:
            unused.append("final_logits_bias")
        out = rename(checkpoint, self.names(task), ignore=[*IGNORED, *unused], prefixes=("model.",))
        if config.flag("tie_word_embeddings", default=True):
            tie(out, "shared.weight", "language_head.weight")
        share(config, out)
        table = None
        for side in SIDES:
            name = f"{side}.embedding.position.weight"
            stored = out.get(name)
            if stored is not None and self.offset and stored.shape and stored.shape[0] > self.offset:
                out[name] = stored.rows(self.offset, stored.shape[0])
            elif stored is None and self.table is not None:
                table = table if table is not None else self.table(config)
                padding = np.zeros((int(self.padding_unplaced and side == "encoder"), table.shape[1]), np.float32)
                out[name] = Tensor.constant(f"{side} positions", np.concatenate([table, padding]))
        if task in HEADS:
            out.pop("language_head.weight", None)
        elif self.logits_bias:
            _bias(out, config.size("decoder_vocab_size", "vocab_size"))
        else:
            out.pop("language_head.bias", None)
        return out


def _bias(out: Renamed, vocab: int) -> None:
    """``final_logits_bias`` has the shape [1, vocab], or is missing and zero."""
    stored = out.get("language_head.bias")
    if stored is None:
        out["language_head.bias"] = Tensor.constant("final_logits_bias", np.zeros(vocab, np.float32))
    elif stored.shape == (1, vocab):
        out["language_head.bias"] = stored.reshape(vocab)
