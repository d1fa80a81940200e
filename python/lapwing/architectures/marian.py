"""Marian: encoder-decoder with post-norms and sinusoidal positions, for translation.

Junczys-Dowmunt et al. 2018, https://arxiv.org/abs/1804.00344
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from ..checkpoint import Config, Tensor
from ..spec import Attention, FeedForward, LanguageHead, Layer, Model, Norm, Stack
from ._common import activation
from ._names import Renamed, rename, tie

Place = Literal["input_norm", "residual_norm"]


def names(place: Place) -> dict[str, str]:
    """The table of the family; ``place`` is where each block has its norm."""
    out = {"shared.weight": "shared.weight", "language_head.weight": "lm_head.weight"}
    out["language_head.bias"] = "final_logits_bias"
    for side in ("encoder", "decoder"):
        ours, theirs = f"{side}.layers.{{i}}.", f"{side}.layers.{{i}}."
        out |= {
            f"{side}.embedding.token": f"{side}.embed_tokens",
            f"{side}.embedding.position": f"{side}.embed_positions",
            f"{side}.embedding.norm": f"{side}.layernorm_embedding",
            f"{side}.norm": f"{side}.layer_norm",
            ours + f"feed_forward.{place}": theirs + "final_layer_norm",
            ours + "feed_forward.up": theirs + "fc1",
            ours + "feed_forward.down": theirs + "fc2",
        }
        blocks = {"attention": "self_attn", "cross_attention": "encoder_attn"}
        for block, name in blocks.items():
            out[ours + f"{block}.{place}"] = theirs + f"{name}_layer_norm"
            for part, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out")):
                out[ours + f"{block}.{part}"] = theirs + f"{name}.{letter}_proj"
    return out


def stack(
    config: Config, side: Literal["encoder", "decoder"], place: Place, *, scale_default: bool = False, **fields: object
) -> Stack:
    """One side of the family; ``fields`` are further fields of the stack."""
    norm = Norm(kind="layer", eps=1e-5, bias=True)
    hidden, heads = config.size("d_model"), config.size(f"{side}_attention_heads")
    if hidden % heads:
        raise config.wrong(f"{side}_attention_heads", f"a divisor of d_model, {hidden}")

    def attend(causal: bool) -> Attention:
        return Attention(
            **{place: norm},  # type: ignore[arg-type]
            heads=heads,
            kv_heads=heads,
            head_dim=hidden // heads,
            scale=(hidden // heads) ** -0.5,
            causal=causal,
            query_bias=True,
            key_bias=True,
            value_bias=True,
            output_bias=True,
        )

    decoder = side == "decoder"
    layer = Layer(
        attention=attend(decoder),
        cross_attention=attend(False) if decoder else None,
        feed_forward=FeedForward(
            **{place: norm},  # type: ignore[arg-type]
            width=config.size(f"{side}_ffn_dim"),
            activation=activation(config, "activation_function", default="gelu"),
            up_bias=True,
            down_bias=True,
        ),
    )
    positions = config.size("max_position_embeddings", default=1024)
    vocab = config.size("vocab_size")
    if decoder:
        vocab = config.size("decoder_vocab_size", default=vocab)
    values: dict[str, object] = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "max_length": positions,
        "positions": positions,
        "layers": (layer,) * config.size(f"{side}_layers"),
        "embedding_scale": hidden**0.5 if config.flag("scale_embedding", default=scale_default) else 1.0,
    }
    return Stack(**(values | fields))  # type: ignore[arg-type]


def sinusoids(positions: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Sines in the first half of the columns, cosines in the second."""
    angles = np.arange(positions)[:, None] / 10000 ** (2 * np.arange((width + 1) // 2) / width)
    table = np.concatenate([np.sin(angles), np.cos(angles)[:, : width // 2]], axis=1)
    return table.astype(np.float32)


def embeddings(config: Config, out: Renamed) -> None:
    """Lets both sides and the language head use the shared table where they have none of their own."""
    shared = out.pop("shared.weight", None)
    for side in ("encoder", "decoder"):
        if shared is not None:
            out.setdefault(f"{side}.embedding.token.weight", shared)
    tie(out, "decoder.embedding.token.weight", "encoder.embedding.token.weight")
    tie(out, "encoder.embedding.token.weight", "decoder.embedding.token.weight")
    if config.flag("tie_word_embeddings", default=True):
        tie(out, "language_head.weight", "decoder.embedding.token.weight")


def bias(out: Renamed, vocab: int) -> None:
    """``final_logits_bias`` has the shape [1, vocab], or is missing and zero."""
    stored = out.get("language_head.bias")
    if stored is None:
        out["language_head.bias"] = Tensor.constant("final_logits_bias", np.zeros(vocab, np.float32))
    elif stored.shape == (1, vocab):
        out["language_head.bias"] = stored.reshape(vocab)


def spec(config: Config, task: str) -> Model:
    decoder = stack(config, "decoder", "residual_norm")
    head = LanguageHead(vocab_size=decoder.vocab_size, bias=True)
    return Model(encoder=stack(config, "encoder", "residual_norm"), decoder=decoder, language_head=head)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = rename(checkpoint, names("residual_norm"), ignore=[r".*position_ids"], prefixes=("model.",))
    embeddings(config, out)
    table = sinusoids(config.size("max_position_embeddings", default=1024), config.size("d_model"))
    for side in ("encoder", "decoder"):
        # Old checkpoints store the table; it is the same.
        out[f"{side}.embedding.position.weight"] = Tensor.constant("positions", table)
    bias(out, config.size("decoder_vocab_size", "vocab_size"))
    return out
