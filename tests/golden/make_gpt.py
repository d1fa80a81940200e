"""Makes the fixtures of GPT-2 and the decoders after it that are not built like Llama.

Works as ``make_decoders.py``, of which it is a further table:

    python tests/golden/make_gpt.py [name ...]
"""

from __future__ import annotations

from typing import Any

from make_decoders import main, rope

GPT = {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 128}
NEO = {"hidden_size": 24, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 128}
LONG = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
BLOOM = {"hidden_size": 24, "n_layer": 2, "n_head": 4}
MPT = {"d_model": 24, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}
SIX = {"num_attention_heads": 6}
"""Heads whose slopes are not all powers of two."""
ALIBI = {"alibi": True, "attn_implementation": "sdpa"}
"""Eager attention adds Falcon's bias twice, in the mask and beside it; the default implementation, as the authors',
once."""

FIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom-normed-residual": (
        "BloomForCausalLM",
        {**BLOOM, "n_head": 6, "apply_residual_connection_post_layernorm": True},
    ),
    "bloom-tokcls": ("BloomForTokenClassification", {**BLOOM, "n_head": 3, "num_labels": 3}),
    "codegen": ("CodeGenForCausalLM", {**GPT, "n_head": 8, "n_embd": 64, "rotary_dim": 4, "n_inner": 24}),
    "falcon": ("FalconForCausalLM", LONG),
    "falcon-one-norm": (
        "FalconForCausalLM",
        {
            **LONG,
            "new_decoder_architecture": True,
            "num_ln_in_parallel_attn": 1,
            "num_kv_heads": 2,
            "ffn_hidden_size": 40,
            "activation": "gelu_new",
            **rope("linear", factor=2.0),
        },
    ),
    "falcon-rw": (
        "FalconForCausalLM",
        {**LONG, **SIX, **ALIBI, "multi_query": False, "parallel_attn": False, "bias": True},
    ),
    "falcon-seqcls": (
        "FalconForSequenceClassification",
        {**LONG, **SIX, **ALIBI, "bias": True, "num_labels": 3},
    ),
    "gpt2-qa": ("GPT2ForQuestionAnswering", GPT),
    "gpt2-scaled": (
        "GPT2LMHeadModel",
        {
            **GPT,
            "n_layer": 3,
            "n_inner": 40,
            "scale_attn_by_inverse_layer_idx": True,
            "reorder_and_upcast_attn": True,
            "activation_function": "gelu",
        },
    ),
    "gpt2-seqcls": ("GPT2ForSequenceClassification", {**GPT, "num_labels": 3, "scale_attn_weights": False}),
    "gpt2-tokcls": ("GPT2ForTokenClassification", {**GPT, "num_labels": 5}),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", {**GPT, "n_inner": 40}),
    "gpt_bigcode-heads": (
        "GPTBigCodeForCausalLM",
        {**GPT, "multi_query": False, "scale_attn_weights": False, "tie_word_embeddings": False},
    ),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {**NEO, "num_layers": 3, "attention_types": [[["global", "local", "local"], 1]], "window_size": 6},
    ),
    "gpt_neox-sequential": (
        "GPTNeoXForCausalLM",
        {
            **LONG,
            "intermediate_size": 40,
            "use_parallel_residual": False,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "hidden_act": "gelu_new",
            **rope("dynamic", factor=2.0, partial_rotary_factor=0.7),
            "max_position_embeddings": 16,
        },
    ),
    "gpt_neox-tokcls": ("GPTNeoXForTokenClassification", {**LONG, "intermediate_size": 40, "num_labels": 3}),
    "gptj": ("GPTJForCausalLM", {**GPT, "rotary_dim": 4}),
    "gptj-qa": ("GPTJForQuestionAnswering", {**GPT, "n_head": 1, "n_inner": 40, "rotary_dim": 24}),
    "mpt": ("MptForCausalLM", MPT),
    "mpt-clipped": (
        "MptForCausalLM",
        {
            **MPT,
            "n_heads": 6,
            "attn_config": {"clip_qkv": 0.8, "softmax_scale": 0.3},
            "tie_word_embeddings": False,
        },
    ),
    "opt-bare": (
        "OPTForCausalLM",
        {**LONG, "ffn_dim": 40, "enable_bias": False, "layer_norm_elementwise_affine": False},
    ),
    "opt-projected": (
        "OPTForCausalLM",
        {**LONG, "ffn_dim": 40, "do_layer_norm_before": False, "word_embed_proj_dim": 16},
    ),
    "opt-qa": ("OPTForQuestionAnswering", {**LONG, "ffn_dim": 40, "word_embed_proj_dim": 16}),
    "phi-norms": (
        "PhiForCausalLM",
        {
            **LONG,
            "intermediate_size": 40,
            "num_key_value_heads": 2,
            "qk_layernorm": True,
            "tie_word_embeddings": True,
            "hidden_act": "gelu",
            **rope(partial_rotary_factor=0.7),
        },
    ),
    "phi-seqcls": (
        "PhiForSequenceClassification",
        {**LONG, "intermediate_size": 40, "num_labels": 3, **rope(partial_rotary_factor=0.4)},
    ),
}

if __name__ == "__main__":
    main(FIXTURES, {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
