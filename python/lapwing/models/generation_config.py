"""What generation_config.json says, or config.json if there is none, as in transformers.

Each key is honoured (`HONOURED`), refused by name if its value has an effect (`REFUSED`), or without effect on
the text (`WITHOUT_EFFECT`, and any key that transformers does not know).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, short_repr

HONOURED = {
    "max_length": "max_tokens (minus the prompt, or the decoder's start token)",
    "max_new_tokens": "max_tokens",
    "min_length": "min_tokens (minus the prompt, or the decoder's start token)",
    "min_new_tokens": "min_tokens",
    "do_sample": "temperature: 0 if false",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "top_h": "top_h",
    "epsilon_cutoff": "epsilon_cutoff",
    "eta_cutoff": "eta_cutoff",
    "max_time": "max_time",
    "num_beams": "beams",
    "num_return_sequences": "num_hypotheses, or n without beams",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
    "repetition_penalty": "repetition_penalty",
    "encoder_repetition_penalty": "encoder_repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size": "encoder_no_repeat_ngram_size",
    "bad_words_ids": "bad_words",
    "suppress_tokens": "suppress_tokens",
    "begin_suppress_tokens": "begin_suppress_tokens",
    "forced_bos_token_id": "forced_bos",
    "forced_eos_token_id": "forced_eos",
    "sequence_bias": "sequence_bias",
    "exponential_decay_length_penalty": "exponential_decay_length_penalty",
    "remove_invalid_values": "remove_invalid_values",
    "renormalize_logits": "renormalize_logits",
    "eos_token_id": "the end tokens",
    "bos_token_id": "the start of an empty prompt",
    "decoder_start_token_id": "the decoder's first token",
    "stop_strings": "stop",
}
"""Keys of generation_config.json and the options that they set."""

REFUSED: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (None, 0),
    "constraints": (None,),
    "diversity_penalty": (None, 0, 0.0),
    "dola_layers": (None,),
    "force_words_ids": (None,),
    "guidance_scale": (None, 1, 1.0),
    "num_beam_groups": (None, 1),
    "penalty_alpha": (None, 0, 0.0),
    "token_healing": (None, False),
    "watermarking_config": (None,),
}
"""Unsupported keys that would change the text, with their neutral values."""

WITHOUT_EFFECT = frozenset(
    [
        "assistant_confidence_threshold",
        "assistant_ensemble_weight",
        "assistant_lookbehind",
        "cache_config",
        "cache_implementation",
        "compile_config",
        "continuous_batching_config",
        "disable_compile",
        "is_assistant",
        "low_memory",
        "max_cache_len",
        "max_matching_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "pad_token_id",
        "prefill_chunk_size",
        "prompt_lookup_num_tokens",
        "return_dict_in_generate",
        "speculation_type",
        "target_lookbehind",
        "transformers_version",
        "use_cache",
        "use_mtp",
        "_from_model_config",
    ]
)
"""Keys for caches, drafts, compilation, padding and the form of transformers' results."""


@dataclass(frozen=True)
class Defaults:
    """The checkpoint's settings, under their names in generation_config.json."""

    values: Mapping[str, Any]
    source: str
    encoder_decoder: bool
    end_ids: tuple[int, ...] = ()

    def get(self, key: str) -> Any:
        return self.values.get(key)

    @staticmethod
    def read(generation: Mapping[str, Any] | None, config: Mapping[str, Any], encoder_decoder: bool) -> Defaults:
        """From generation_config.json, or from config.json if there is none."""
        keys = {*HONOURED, *REFUSED}
        source = "config.json" if generation is None else "generation_config.json"
        values = dict(generation) if generation is not None else {k: config[k] for k in keys if k in config}
        for key in ("eos_token_id", "bos_token_id", "decoder_start_token_id"):
            if values.get(key) is None and config.get(key) is not None:
                values[key] = config[key]
        ends = id_list(values.get("eos_token_id"), f"eos_token_id of {source}")
        return Defaults(values, source, encoder_decoder, tuple(ends))


def id_list(value: Any, what: str) -> list[int]:
    """One id, several or none."""
    if value is None:
        return []
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise CheckpointError(f"{what} is {short_repr(value)}: expected an id or a list of ids")
    for index in value:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 1 << 31:
            raise CheckpointError(f"{what} holds {short_repr(index)}: expected ids from 0")
    return list(value)
