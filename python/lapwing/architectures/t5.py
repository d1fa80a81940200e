"""T5: encoder-decoder with biases by distance instead of positions; also its encoder alone, and with task heads.

Raffel et al. 2020, https://arxiv.org/abs/1910.10683; gated as in Shazeer 2020, https://arxiv.org/abs/2002.05202
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checkpoint import Config, Tensor
from ..spec import Attention, CrossAttention, FeedForward, LanguageHead, Model, Norm, RelativeBias, Stack, TokenStem
from ._common import activation, classifier, layer
from ._names import Renamed, rename, tie
from ._seq2seq import HEADS, SIDES, Side, refuse_halves, share, task_head

DEFAULTS = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "feed_forward_proj": "relu",
    "layer_norm_epsilon": 1e-6,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
BARE_HEAD = "text-to-text"
LANGUAGES = "words"
MAX_LENGTH = 1 << 20
"""Nothing in the model bounds a sequence."""


def encoder_only(task: str) -> bool:
    """Whether a task needs no decoder."""
    return task in ("features", "token-classification")


def feed_forward(config: Config) -> FeedForward:
    """``feed_forward_proj`` names the activation, after "gated-" if there is a gate."""
    word = config.word("feed_forward_proj")
    gated, _, name = word.rpartition("-")
    if gated not in ("", "gated"):
        raise config.wrong("feed_forward_proj", "an activation, or gated- and an activation")
    if word == "gated-gelu":
        name = "gelu_new"
    act = activation(config.with_values(feed_forward_proj=name), "feed_forward_proj")
    return FeedForward(width=config.size("d_ff"), activation=act, gated=bool(gated))


def stack(config: Config, side: Side) -> Stack:
    """One side. Every layer has the bias; most families give all layers of a side the same."""
    norm = Norm(kind="rms", eps=config.number("layer_norm_epsilon"))
    heads, buckets = config.size("num_heads"), config.size("relative_attention_num_buckets")
    decoder = side == "decoder"
    exact = buckets // (2 if decoder else 4)
    if exact < 1:
        raise config.wrong("relative_attention_num_buckets", "at least 4")
    distance = config.size("relative_attention_max_distance")
    if distance <= exact:
        raise config.wrong("relative_attention_max_distance", f"more than {exact}, the distances with their own bucket")

    attend: dict[str, Any] = {"heads": heads, "kv_heads": heads, "head_dim": config.size("d_kv"), "scale": 1.0}
    bias = RelativeBias(buckets=buckets, max_distance=distance, bidirectional=not decoder)
    attention = Attention(**attend, causal=decoder, relative_bias=bias)
    crossed = [CrossAttention(**attend)] if decoder else []
    one = layer(attention, *crossed, feed_forward(config), input_norm=norm)
    layers = config.size("num_layers")
    if decoder:
        layers = config.size("num_decoder_layers", default=layers)
    return Stack(
        hidden_size=config.size("d_model"),
        stem=TokenStem(vocab_size=config.size("vocab_size")),
        layers=(one,) * layers,
        max_length=MAX_LENGTH,
        final_norm=norm,
    )


def names(config: Config, task: str) -> dict[str, str]:
    """The tensors that a task reads."""
    out = {"shared.weight": "shared.weight"}
    if task == "token-classification":
        out["head.0"] = "classifier"
    elif task != "features":
        out |= HEADS.get(task, {"language_head.weight": "lm_head.weight"})
    gated = config.word("feed_forward_proj").startswith("gated-")
    for side in SIDES[: 1 if encoder_only(task) else 2]:
        ours, theirs = f"{side}.layers.{{i}}.", f"{side}.block.{{i}}.layer."
        blocks = [("attention", "SelfAttention"), ("cross_attention", "EncDecAttention")][: 1 + (side == "decoder")]
        out |= {
            f"{side}.embedding.token": f"{side}.embed_tokens",
            f"{side}.norm": f"{side}.final_layer_norm",
            ours + "attention.relative_bias": theirs + "0.SelfAttention.relative_attention_bias",
        }
        for place, (block, name) in enumerate(blocks):
            out[ours + f"{block}.input_norm"] = theirs + f"{place}.layer_norm"
            for part in ("query", "key", "value", "output"):
                out[ours + f"{block}.{part}"] = theirs + f"{place}.{name}.{part[0]}"
        out[ours + "feed_forward.input_norm"] = theirs + f"{len(blocks)}.layer_norm"
        inner = theirs + f"{len(blocks)}.DenseReluDense."
        up = {"gate": "wi_0", "up": "wi_1"} if gated else {"up": "wi"}
        out |= {ours + f"feed_forward.{part}": inner + name for part, name in {**up, "down": "wo"}.items()}
    return out


def spec(config: Config, task: str) -> Model:
    # A stored scale_decoder_outputs is transformers 5's; before it, the logits of a tied head were scaled.
    tied = config.flag("tie_word_embeddings", default=True)
    return build(config, task, scaled=config.flag("scale_decoder_outputs", default=tied))


def build(config: Config, task: str, *, scaled: bool) -> Model:
    """The model that the task needs; ``scaled`` multiplies what the language head reads by ``d_model ** -0.5``."""
    encoder = stack(config, "encoder")
    if encoder_only(task):
        return Model(encoder=encoder, head=None if task == "features" else classifier(config, "none"))
    refuse_halves(config, task)
    decoder = stack(config, "decoder")
    head = task_head(config, task, decoder.hidden_size)
    if head is not None:
        return Model(encoder=encoder, decoder=decoder, head=head)
    scale = decoder.hidden_size**-0.5 if scaled else 1.0
    language = LanguageHead(vocab_size=decoder.stem.vocab_size, scale=scale)
    return Model(encoder=encoder, decoder=decoder, language_head=language)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str, *, shared_bias: bool = True) -> Renamed:
    unused = [r"(classification_head|qa_outputs|classifier)\..*"]
    # Old checkpoints hold a bias of the cross-attention, which nothing reads.
    unused.append(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight")
    if encoder_only(task):
        unused += [r"decoder\..*", r"lm_head\.weight"]
    elif task in HEADS:
        unused.append(r"lm_head\.weight")
    out = rename(checkpoint, names(config, task), ignore=unused, prefixes=("transformer.",))
    if config.flag("tie_word_embeddings", default=True):
        tie(out, "shared.weight", "language_head.weight")
    # Untied heads are stored; as in transformers, any other is the embedding, for any configuration.
    share(config.with_values(tie_word_embeddings=True), out)
    if encoder_only(task):
        out.pop("decoder.embedding.token.weight", None)
    if encoder_only(task) or task in HEADS:
        out.pop("language_head.weight", None)
    if shared_bias:
        for side, layers in (("encoder", "num_layers"), ("decoder", "num_decoder_layers")):
            bias = f"{side}.layers.{{}}.attention.relative_bias.weight"
            for i in range(1, config.size(layers, "num_layers")):
                tie(out, bias.format(i), bias.format(0))
    return out
