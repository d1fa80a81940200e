"""Tokens that are read again, and the time to the first token, when a prompt shares a prefix with an earlier one.

    python benches/reuse.py [--length 4096] [--weights q8]

On shapes with full attention, with sliding windows and with short convolutions (random weights): a prompt with another
tail, the next turn of a chat, and the same prompts on a model without a prefix cache.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from lapwing import _core
from lapwing.architectures import complete, family
from lapwing.checkpoint import Config
from lapwing.models.base import ragged

FULL, SLIDING, CONV = "full_attention", "sliding_attention", "conv"
SHAPES: dict[str, dict[str, Any]] = {
    "full attention (llama, 16 layers)": {
        "model_type": "llama",
        "hidden_size": 1024,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "intermediate_size": 4096,
    },
    "sliding windows of 512 (gemma3_text, 5 of 6 layers)": {
        "model_type": "gemma3_text",
        "hidden_size": 640,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": 2048,
        "sliding_window": 512,
        "layer_types": [FULL if (i + 1) % 6 == 0 else SLIDING for i in range(18)],
    },
    "short convolutions (lfm2, 10 of 16 layers)": {
        "model_type": "lfm2",
        "hidden_size": 1024,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "intermediate_size": 4608,
        "block_auto_adjust_ff_dim": False,
        "conv_L_cache": 3,
        "layer_types": [CONV, CONV, FULL] * 5 + [CONV],
    },
}
VOCABULARY = 32000


def build(values: dict[str, Any], weights: str) -> _core.Model:
    """A model of a shape with random weights."""
    config = complete(Config({**values, "vocab_size": VOCABULARY, "max_position_embeddings": 8192}))
    spec = family(config).spec(config, "generation")
    loader = _core.Loader(spec.to_json(), weights=weights, threads=2)
    block = np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32) * np.float32(0.02)
    for name, shape in loader.tensors():
        loader.add([name], np.resize(block, shape), "float32")
    return loader.finish()


def first_token(model: _core.Model, ids: list[int], tokens: int = 1) -> tuple[float, list[int]]:
    """Seconds to the first token, and the new tokens."""
    generation = model.generate(*ragged([ids]), json.dumps({"max_tokens": tokens}))
    start = time.perf_counter()
    generation.advance(1)
    seconds = time.perf_counter() - start
    generation.advance(0)
    found = generation.results()[0][0][0]
    generation.close()
    return seconds, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--weights", default="q8")
    arguments = parser.parse_args()
    generator = np.random.default_rng(1)

    def some(count: int) -> list[int]:
        return [int(i) for i in generator.integers(1, VOCABULARY, count)]

    for name, values in SHAPES.items():
        model, fresh = build(values, arguments.weights), build(values, arguments.weights)
        fresh.limit_prefixes(0)
        prompt = some(arguments.length)
        first_token(model, prompt)
        print(name)
        changed = [*prompt[: arguments.length - 333], *some(333)]
        turns = [("tail of 333 tokens changed", changed, len(changed) - 333)]
        _, answer = first_token(model, changed, 200)
        known = [*changed, *answer]
        turns += [("next turn of 50 tokens", [*known, *some(50)], len(known) - 1)]
        # The changed prompt is measured on a model that has seen only the first one.
        model = build(values, arguments.weights)
        first_token(model, prompt)
        for label, ids, shared in turns:
            if label.startswith("next"):
                first_token(model, changed, 200)
            before = model.prefixes()[2]
            seconds, found = first_token(model, ids)
            reused = model.prefixes()[2] - before
            slow, wanted = first_token(fresh, ids)
            assert found == wanted, "a prefix changes no result"
            again = shared - reused
            print(f"  {label}: {len(ids)} tokens, {again} of {shared} shared ones read again; ", end="")
            print(f"first token after {seconds:.3f} s, {slow:.3f} s without the cache")


if __name__ == "__main__":
    main()
