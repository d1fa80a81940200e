"""Llama, and the frame of all decoders that share its layer: pre-norm, rotary, gated feed-forward.

Touvron et al. 2023, https://arxiv.org/abs/2302.13971
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Attention, FeedForward, Head, LanguageHead, Layer, Model, Norm, Rotary, Stack, TokenStem
from . import _common
from ._common import activation, classifier, question_answering
from ._names import Names, Renamed, rename, tie
from ._rope import longest, rotary

NAMES = {
    "decoder.embedding.token": "embed_tokens",
    "decoder.layers.{i}.attention.input_norm": "layers.{i}.input_layernorm",
    "decoder.layers.{i}.attention.query": "layers.{i}.self_attn.q_proj",
    "decoder.layers.{i}.attention.key": "layers.{i}.self_attn.k_proj",
    "decoder.layers.{i}.attention.value": "layers.{i}.self_attn.v_proj",
    "decoder.layers.{i}.attention.output": "layers.{i}.self_attn.o_proj",
    "decoder.layers.{i}.attention.query_norm": "layers.{i}.self_attn.q_norm",
    "decoder.layers.{i}.attention.key_norm": "layers.{i}.self_attn.k_norm",
    "decoder.layers.{i}.feed_forward.input_norm": "layers.{i}.post_attention_layernorm",
    "decoder.layers.{i}.feed_forward.gate": "layers.{i}.mlp.gate_proj",
    "decoder.layers.{i}.feed_forward.up": "layers.{i}.mlp.up_proj",
    "decoder.layers.{i}.feed_forward.down": "layers.{i}.mlp.down_proj",
    "decoder.norm": "norm",
    "language_head": "lm_head",
    "head.0": "score",
}
PREFIXES = ("model.", "transformer.")
IGNORE = (r".*rotary_emb\.inv_freq", r".*\.(attn|attention)\.(bias|masked_bias|causal_mask)")
"""Tables that are computed."""
NO_BIAS = (False, False, False, False)
FULL, SLIDING = "full_attention", "sliding_attention"


def head_dim(config: Config) -> int:
    """Dimensions of a head: named, or an equal share of the hidden size."""
    heads = config.size("num_attention_heads")
    named = config.optional_size("head_dim")
    if named is not None:
        return named
    hidden = config.size("hidden_size")
    if hidden % heads:
        raise config.wrong("num_attention_heads", f"a divisor of hidden_size, {hidden}")
    return hidden // heads


def rms(config: Config, eps: float = 1e-6) -> Norm:
    """The root-mean-square norm of the family."""
    return Norm(kind="rms", eps=config.number("rms_norm_eps", "layer_norm_eps", "norm_eps", default=eps))


def layer_types(config: Config, layers: int, default: list[str] | None = None) -> list[str]:
    """``layer_types``: "full_attention" or "sliding_attention" for each layer."""
    types = config.words("layer_types") or default or [FULL] * layers
    if len(types) < layers or set(types) - {FULL, SLIDING}:
        raise config.wrong("layer_types", f"{layers} of {FULL}, {SLIDING}")
    return types[:layers]


def every(config: Config, period: int) -> list[str]:
    """Types of layers if each ``period``-th has full attention and the others have a window."""
    return [SLIDING if (i + 1) % period else FULL for i in range(config.size("num_hidden_layers"))]


def windows(config: Config, types: list[str]) -> dict[str, int | None]:
    """The window of each type of layer."""
    window = config.optional_size("sliding_window", maximum=1 << 30)
    if window is None and SLIDING in types:
        raise config.wrong("sliding_window", f"a number, as there are layers of {SLIDING}")
    return {FULL: None, SLIDING: window}


def heads_of(task: str, config: Config) -> tuple[LanguageHead | None, Head | None]:
    """Language head and task head of a decoder for a task."""
    if task == "generation":
        return LanguageHead(vocab_size=config.size("vocab_size")), None
    if task == "sequence-classification":
        return None, classifier(config, "last", bias=False)
    if task == "token-classification":
        return None, classifier(config, "none")
    if task == "question-answering":
        return None, question_answering()
    return None, None


def attention(
    config: Config,
    rotation: Rotary | None,
    *,
    bias: tuple[bool, bool, bool, bool] = NO_BIAS,
    window: int | None = None,
    head_norm: Norm | None = None,
) -> Attention:
    """Causal attention of the family; ``bias`` is for query, key, value and output."""
    heads, dim = config.size("num_attention_heads"), head_dim(config)
    return Attention(
        heads=heads,
        kv_heads=config.size("num_key_value_heads", default=heads),
        head_dim=dim,
        scale=dim**-0.5,
        causal=True,
        window=window,
        query_bias=bias[0],
        key_bias=bias[1],
        value_bias=bias[2],
        output_bias=bias[3],
        query_norm=head_norm,
        key_norm=head_norm,
        rotary=rotation,
    )


def feed_forward(config: Config, *, bias: bool = False, gated: bool = True) -> FeedForward:
    """Feed-forward network of the family."""
    return FeedForward(
        width=config.size("intermediate_size"),
        activation=activation(config, "hidden_act", "hidden_activation", default="silu"),
        gated=gated,
        gate_bias=bias and gated,
        up_bias=bias,
        down_bias=bias,
    )


def layer(
    config: Config,
    rotation: Rotary | None,
    norm: Norm | None,
    *,
    bias: tuple[bool, bool, bool, bool] = NO_BIAS,
    mlp_bias: bool = False,
    gated: bool = True,
    window: int | None = None,
    head_norm: Norm | None = None,
    parallel: bool = False,
) -> Layer:
    """A layer of the family: `attention`, then `feed_forward`, each after a norm."""
    return _common.layer(
        attention(config, rotation, bias=bias, window=window, head_norm=head_norm),
        feed_forward(config, bias=mlp_bias, gated=gated),
        parallel=parallel,
        input_norm=norm,
    )


def decoder(
    config: Config,
    task: str,
    layers: Sequence[Layer],
    norm: Norm,
    *,
    embedding_scale: float = 1.0,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
) -> Model:
    """A model of these layers."""
    language_head, head = heads_of(task, config)
    if language_head is not None:
        language_head = replace(language_head, scale=logit_scale, softcap=logit_softcap)
    stack = Stack(
        hidden_size=config.size("hidden_size"),
        stem=TokenStem(vocab_size=config.size("vocab_size"), scale=embedding_scale),
        layers=tuple(layers),
        max_length=longest(config),
        final_norm=norm,
    )
    return Model(decoder=stack, language_head=language_head, head=head)


def spec(config: Config, task: str) -> Model:
    norm = rms(config)
    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    one = layer(config, rotary(config, head_dim(config)), norm, bias=(bias,) * 4, mlp_bias=mlp_bias)
    return decoder(config, task, [one] * config.size("num_hidden_layers"), norm)


def tensors(
    config: Config,
    checkpoint: Mapping[str, Tensor],
    task: str,
    *,
    names: Names = NAMES,
    prefixes: Sequence[str] = PREFIXES,
) -> Renamed:
    """Renamed tensors; ``names`` is the family's table, ``prefixes`` are what may stand before all names."""
    if task == "question-answering":
        names = {**names, "head.0": "qa_outputs"}
    out = rename(checkpoint, names, ignore=IGNORE, prefixes=prefixes)
    finish(config, out, task)
    return out


def finish(config: Config, out: Renamed, task: str) -> None:
    """Ties the language head, or drops heads that the task does not use."""
    if config.flag("tie_word_embeddings"):
        # A table that is stored once may have the name of either.
        tie(out, "decoder.embedding.token.weight", "language_head.weight")
    if task == "generation":
        if config.flag("tie_word_embeddings"):
            tie(out, "language_head.weight", "decoder.embedding.token.weight")
    else:
        out.pop("language_head.weight", None)
        out.pop("language_head.bias", None)
    if task not in ("sequence-classification", "token-classification", "question-answering"):
        for suffix in ("weight", "bias"):
            out.pop(f"head.0.{suffix}", None)
