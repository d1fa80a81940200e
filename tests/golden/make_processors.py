"""Records what transformers' logits processors do to a few vectors: processors.json beside this file.

Needs transformers and torch. Each case names options as generation_config.json has them; the processors are made by
transformers itself, in its own order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

VOCAB = 24
IDS = [3, 5, 7, 5, 9, 3, 5]
PROMPT = 4
SOURCE = [3, 5, 11, 12, 11, 2]

CHANGES: dict[str, dict[str, Any]] = {
    "repetition": {"repetition_penalty": 1.7},
    "repetition below one": {"repetition_penalty": 0.6},
    "encoder repetition": {"encoder_repetition_penalty": 1.4},
    "no repeat 1": {"no_repeat_ngram_size": 1},
    "no repeat 2": {"no_repeat_ngram_size": 2},
    "no repeat 3": {"no_repeat_ngram_size": 3},
    "no repeat 8": {"no_repeat_ngram_size": 8},
    "encoder no repeat 1": {"encoder_no_repeat_ngram_size": 1},
    "encoder no repeat 3": {"encoder_no_repeat_ngram_size": 3},
    "bad words": {"bad_words_ids": [[4], [5, 8], [9, 6], [3, 5, 10], [0]], "eos_token_id": 0},
    "sequence bias": {"sequence_bias": [[[5, 8], 2.5], [[4], -1.5], [[9, 3, 5, 6], 4.0], [[7, 6], 9.0]]},
    "suppressed": {"suppress_tokens": [1, 2], "begin_suppress_tokens": [6]},
    "min length reached": {"min_length": 7, "eos_token_id": 0},
    "min length": {"min_length": 8, "eos_token_id": [0, 2]},
    "min new tokens reached": {"min_new_tokens": 3, "eos_token_id": 0},
    "min new tokens": {"min_new_tokens": 4, "eos_token_id": 0},
    "forced end": {"forced_eos_token_id": 2, "max_length": 8},
    "forced ends": {"forced_eos_token_id": [2, 4], "max_length": 8},
    "forced end later": {"forced_eos_token_id": 2, "max_length": 9},
    "decay": {"exponential_decay_length_penalty": [1, 1.3], "eos_token_id": 0},
    "decay later": {"exponential_decay_length_penalty": [3, 1.3], "eos_token_id": 0},
    "all in order": {
        "sequence_bias": [[[5, 8], 2.5], [[3], 1.0]],
        "encoder_repetition_penalty": 1.4,
        "repetition_penalty": 1.7,
        "no_repeat_ngram_size": 3,
        "bad_words_ids": [[4], [5, 8]],
        "min_new_tokens": 2,
        "exponential_decay_length_penalty": [1, 1.3],
        "suppress_tokens": [1],
        "eos_token_id": 0,
    },
    "end that repeats": {"repetition_penalty": 1.7, "exponential_decay_length_penalty": [0, 1.5], "eos_token_id": 5},
}
FILTERS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.6},
    "top k": {"top_k": 5},
    "top k beyond": {"top_k": 50},
    "top p": {"top_p": 0.7},
    "top p tiny": {"top_p": 0.01},
    "min p": {"min_p": 0.2},
    "typical": {"typical_p": 0.5},
    "typical small": {"typical_p": 0.1},
    "typical large": {"typical_p": 0.95},
    "epsilon": {"epsilon_cutoff": 0.04},
    "epsilon large": {"epsilon_cutoff": 0.9},
    "eta": {"eta_cutoff": 0.05},
    "eta large": {"eta_cutoff": 0.6},
    "top h": {"top_h": 0.5},
    "top h large": {"top_h": 0.9},
    "top h small": {"top_h": 0.05},
    "heat before filters": {"temperature": 2.0, "top_k": 9, "top_p": 0.8, "min_p": 0.3},
    "all filters": {
        "temperature": 1.3,
        "top_h": 0.95,
        "top_k": 12,
        "top_p": 0.93,
        "min_p": 0.05,
        "typical_p": 0.9,
        "epsilon_cutoff": 0.03,
        "eta_cutoff": 0.03,
    },
    "penalty and filters": {"repetition_penalty": 2.0, "temperature": 0.7, "top_k": 6, "typical_p": 0.8},
}


def vectors() -> list[list[float]]:
    """A spread one, a nearly flat one, and one with equal values."""
    generator = torch.Generator().manual_seed(5)
    spread = torch.randn(VOCAB, generator=generator) * 2.5
    flat = torch.randn(VOCAB, generator=generator) * 0.2
    equal = torch.tensor([float(i // 4) - 2 for i in range(VOCAB)])
    return [vector.tolist() for vector in (spread, flat, equal)]


def processed(model: Any, options: dict[str, Any], logits: list[float], sample: bool) -> list[float]:
    neutral = {"top_k": 0, "top_p": 1.0, "temperature": 1.0}
    config = GenerationConfig(**{**(neutral if sample else {}), "do_sample": sample, **options})
    model._prepare_special_tokens(config)
    processors = model._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=PROMPT,
        encoder_input_ids=torch.tensor([SOURCE]),
    )
    result = torch.tensor([logits])
    ids = torch.tensor([IDS])
    for processor in processors:
        result = processor(ids, result)
    return list(result[0].softmax(-1).tolist() if sample else result[0].tolist())


def main() -> None:
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCAB, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    rows = vectors()
    cases = [
        {"name": name, "options": options, "sample": sample, "vector": index}
        for table, sample in ((CHANGES, False), (FILTERS, True))
        for name, options in table.items()
        for index in range(len(rows))
    ]
    for case in cases:
        values = processed(model, case["options"], rows[case["vector"]], case["sample"])
        case["expected"] = [value if abs(value) < float("inf") else None for value in values]
    recorded = {
        "transformers": transformers.__version__,
        "torch": torch.__version__.partition("+")[0],
        "ids": IDS,
        "prompt": PROMPT,
        "source": SOURCE,
        "vectors": rows,
        "cases": cases,
    }
    text = json.dumps(recorded).replace('{"name"', '\n{"name"')
    Path(__file__).with_name("processors.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
