"""Checkpoints that tests generate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def large_decoder(
    folder: Path, *, vocabulary: int = 4096, length: int = 2048, hidden: int = 512, layers: int = 6
) -> Path:
    """A decoder whose load, prompt and decoding take a while: 20 million parameters, drawn at random."""
    generator, inner = np.random.default_rng(0), 3 * hidden
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "vocab_size": vocabulary,
        "max_position_embeddings": length,
        "tie_word_embeddings": True,
    }
    tensors = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for i in range(layers):
        place = f"model.layers.{i}"
        tensors |= {f"{place}.self_attn.{n}_proj.weight": (hidden, hidden) for n in "qkvo"}
        tensors |= {f"{place}.mlp.{n}_proj.weight": (inner, hidden) for n in ("gate", "up")}
        tensors |= {f"{place}.mlp.down_proj.weight": (hidden, inner)}
        tensors |= {f"{place}.{n}.weight": (hidden,) for n in ("input_layernorm", "post_attention_layernorm")}
    weights = {name: (0.05 * generator.standard_normal(shape)).astype(np.float32) for name, shape in tensors.items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
