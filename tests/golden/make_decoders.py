"""Makes the fixtures of decoders whose families, scalings or heads have no other.

Needs torch and transformers 5; nothing in the tests does. Run it as

    python tests/golden/make_decoders.py [name ...]

Each folder is a checkpoint with tiny random weights; ``config.v4.json``, the configuration as transformers 4 wrote it,
where that gives the same outputs to the bit; ``expected.safetensors`` (float32, computed with eager attention) and
``expected.json``: prompts, ids by argmax with cached keys and values, and a tolerance for each tensor. That is three
times what a relative change of 1e-6 in all weights does, at least 2e-5 of the largest value; all ids survive this
change.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
import warnings
import zlib
from typing import Any

import numpy as np
import torch
import transformers as t
from make_encoders import GOLDEN, randomize
from safetensors.torch import save_file

STEPS = 24
TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "vocab_size": 64,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FOUR = {"hidden_size": 16, "num_hidden_layers": 4, "intermediate_size": 24}
"""Sizes of models whose layers alternate."""


def rope(kind: str = "default", **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


LONG = {"short_factor": [1.0, 1.1, 1.3], "long_factor": [1.2, 2.5, 7.0]}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
FIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "arcee": ("ArceeForCausalLM", {"head_dim": 8, "attention_bias": True, "mlp_bias": True}),
    "cohere-norms": ("CohereForCausalLM", {"use_qk_norm": True, "attention_bias": True, "logit_scale": 0.3}),
    "cohere2-heads": ("Cohere2ForCausalLM", {**FOUR, "head_dim": 8, "sliding_window": 6}),
    "cohere2": ("Cohere2ForCausalLM", {**FOUR, "sliding_window": 6, "logit_scale": 0.25}),
    "ernie4_5": ("Ernie4_5ForCausalLM", {"head_dim": 8, "use_bias": True}),
    "exaone4": ("Exaone4ForCausalLM", {**FOUR, "sliding_window": 7}),
    "exaone4-full": ("Exaone4ForCausalLM", {"sliding_window": None, "layer_types": ["full_attention"] * 2}),
    "gemma": ("GemmaForCausalLM", {"head_dim": 8}),
    "gemma2-biases": (
        "Gemma2ForCausalLM",
        {
            **FOUR,
            "head_dim": 8,
            "attention_bias": True,
            "sliding_window": 5,
            "query_pre_attn_scalar": 12,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        {
            "mm_tokens_per_image": 1,
            "text_config": {**FOUR, "head_dim": 8, "sliding_window": 5},
            "vision_config": {
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 8,
                "image_size": 8,
                "patch_size": 4,
            },
        },
    ),
    "gemma3_text-encoder": (
        "Gemma3TextModel",
        {**FOUR, "head_dim": 8, "sliding_window": 8, "sliding_window_pattern": 3, "use_bidirectional_attention": True},
    ),
    "gemma3_text-linear": (
        "Gemma3ForCausalLM",
        {
            **FOUR,
            "head_dim": 8,
            "sliding_window": 5,
            "sliding_window_pattern": 2,
            "final_logit_softcapping": 20.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 50000.0, "factor": 4.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        },
    ),
    "glm": ("GlmForCausalLM", {"head_dim": 8}),
    "glm4": ("Glm4ForCausalLM", {"head_dim": 8, "attention_bias": False, **rope(partial_rotary_factor=0.75)}),
    "granite-biases": (
        "GraniteForCausalLM",
        {"attention_bias": True, "mlp_bias": True, "residual_multiplier": 0.6, "logits_scaling": 3.0},
    ),
    "helium": ("HeliumForCausalLM", {"head_dim": 6, "attention_bias": True, "mlp_bias": True}),
    "hunyuan_v1_dense": (
        "HunYuanDenseV1ForCausalLM",
        {"head_dim": 8, "tie_word_embeddings": True, **rope("dynamic", alpha=50.0, factor=1.0)},
    ),
    "llama-dynamic": ("LlamaForCausalLM", {"max_position_embeddings": 16, **rope("dynamic", factor=3.0)}),
    "llama-linear": (
        "LlamaForCausalLM",
        {"head_dim": 8, "attention_bias": True, "mlp_bias": True, **rope("linear", factor=4.0)},
    ),
    "llama-longrope": (
        "LlamaForCausalLM",
        {"tie_word_embeddings": True, **rope("longrope", original_max_position_embeddings=38, factor=3.0, **LONG)},
    ),
    "llama-qa": ("LlamaForQuestionAnswering", {}),
    "llama-seqcls": ("LlamaForSequenceClassification", {"num_labels": 3}),
    "llama-yarn": ("LlamaForCausalLM", {"head_dim": 12, **rope("yarn", **YARN, beta_fast=8, truncate=False)}),
    "ministral": (
        "MinistralForCausalLM",
        {
            **FOUR,
            "head_dim": 8,
            "sliding_window": 6,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
        },
    ),
    "ministral3": (
        "Ministral3ForCausalLM",
        {
            "head_dim": 8,
            **rope(
                "yarn",
                factor=16.0,
                original_max_position_embeddings=16,
                mscale=1.0,
                mscale_all_dim=0.5,
                llama_4_scaling_beta=0.3,
            ),
        },
    ),
    "mistral-tokcls": ("MistralForTokenClassification", {"num_labels": 5, "sliding_window": None}),
    "nemotron": ("NemotronForCausalLM", {"head_dim": 8, "attention_bias": True, "mlp_bias": True}),
    "olmo": ("OlmoForCausalLM", {"clip_qkv": 0.8}),
    "olmo3": (
        "Olmo3ForCausalLM",
        {
            **FOUR,
            "sliding_window": 6,
            "rope_parameters": {
                "full_attention": {"rope_type": "yarn", "rope_theta": 500000.0, **YARN, "attention_factor": 1.1},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
            },
        },
    ),
    "persimmon": ("PersimmonForCausalLM", {"hidden_size": 32, "intermediate_size": 24}),
    "phi3-longrope": (
        "Phi3ForCausalLM",
        {
            "hidden_size": 32,
            "original_max_position_embeddings": 38,
            "tie_word_embeddings": True,
            **rope("longrope", partial_rotary_factor=0.75, **LONG),
        },
    ),
    "seed_oss": ("SeedOssForCausalLM", {"head_dim": 8, "attention_out_bias": True, "mlp_bias": True}),
    "smollm3-windows": (
        "SmolLM3ForCausalLM",
        {**FOUR, "use_sliding_window": True, "sliding_window": 6, "no_rope_layers": [0, 1, 0, 1]},
    ),
    "stablelm-parallel": (
        "StableLmForCausalLM",
        {"hidden_size": 32, "intermediate_size": 24, "use_parallel_residual": True, "qk_layernorm": True},
    ),
    "starcoder2": ("Starcoder2ForCausalLM", {"sliding_window": 9}),
    "vaultgemma": ("VaultGemmaForCausalLM", {**FOUR, "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 12}),
}
COMPLETE = ["bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "opt", "phi"]
"""Families of make_gpt.py, whose configurations may leave out their sizes too."""


def older(config: Any) -> dict[str, Any]:
    """The configuration in the words of transformers 4."""
    values = config.to_dict()
    for key in ("rope_parameters", "_sliding_window_pattern", "dtype"):
        values.pop(key, None)
    if not values.get("use_bidirectional_attention"):
        values.pop("use_bidirectional_attention", None)
    if hasattr(config, "rope_parameters"):
        values |= older_rotation(config)
    if config.tie_word_embeddings:
        values.pop("tie_word_embeddings")
        if not type(config)().tie_word_embeddings:
            values["tie_word_embeddings"] = True
    if config.model_type in ("cohere2", "gemma3_text", "olmo3", "smollm3", "exaone4"):
        values.pop("layer_types")
    return {**values, "torch_dtype": "float32", "transformers_version": "4.51.3"}


def older_rotation(config: Any) -> dict[str, Any]:
    """The keys of the rotation in the words of transformers 4."""
    found, values = copy.deepcopy(config.rope_parameters), {}
    if "full_attention" in found:
        if "gemma3" in config.model_type:
            values["rope_local_base_freq"] = found["sliding_attention"]["rope_theta"]
        found = found["full_attention"]
    neox = config.model_type == "gpt_neox"
    values["rotary_emb_base" if neox else "rope_theta"] = found.pop("rope_theta")
    if "partial_rotary_factor" in found:
        values["rotary_pct" if neox else "partial_rotary_factor"] = found.pop("partial_rotary_factor")
    values["rope_scaling"] = None if found["rope_type"] == "default" else found
    if found["rope_type"] in ("linear", "longrope") and "gemma" not in config.model_type:
        found["type"] = found.pop("rope_type")
    if "phi3" in config.model_type and found.get("type") == "longrope":
        found.pop("original_max_position_embeddings", None)
    return values


def ids_of(rng: np.random.Generator, n: int) -> list[int]:
    return [int(i) for i in rng.integers(3, 64, n)]


def greedy(model: Any, prompt: list[int], fixed: list[int] | None = None) -> tuple[list[int], float, torch.Tensor]:
    """Ids by argmax with a cache, the smallest gap between the best two logits, and the logits after the last id.

    ``fixed`` are ids to feed instead of the best ones.
    """
    out = model(torch.tensor([prompt]), use_cache=True)
    ids, margin = [], float("inf")
    cache_name = "cache" if getattr(out, "cache", None) is not None else "past_key_values"
    cache = getattr(out, cache_name)
    for step in range(STEPS):
        best = out.logits[0, -1].float().topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
        fed = ids[-1] if fixed is None else fixed[step]
        out = model(torch.tensor([[fed]]), use_cache=True, **{cache_name: cache})
    return ids, margin, out.logits[0, -1].float().clone()


def causal(model: Any, prompts: dict[str, list[int]], fixed: dict[str, list[int]] | None) -> tuple[dict, dict]:
    values, rows = {}, {}
    for key, prompt in prompts.items():
        out = model(torch.tensor([prompt]), output_hidden_states=key == "p7", use_cache=False)
        values[f"{key}.logits"] = out.logits[0].float().clone()
        # A last state of another width does not go into one tensor with the others.
        if key == "p7" and len({state.shape for state in out.hidden_states}) == 1:
            values["p7.hidden_states"] = torch.cat(out.hidden_states).float().clone()
        found, margin, last = greedy(model, prompt, None if fixed is None else fixed[key])
        values[f"{key}.decode_logits"] = last
        rows[key] = {"ids": found, "min_margin": margin}
    return values, rows


def encoder(model: Any, prompts: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    values = {}
    for key, prompt in prompts.items():
        out = model(torch.tensor([prompt]), use_cache=False)
        for name in ("last_hidden_state", "logits", "start_logits", "end_logits"):
            if getattr(out, name, None) is not None:
                values[f"{key}.{name}"] = getattr(out, name).float().clone()
    return values


def make(name: str, class_name: str, values: dict[str, Any], seed: int) -> bool:
    """Writes a fixture; False where its ids do not survive a small change of the weights."""
    cls, values = getattr(t, class_name), copy.deepcopy(values)
    config = cls.config_class(**{"attn_implementation": "eager", **values})
    generator = torch.Generator().manual_seed(seed)
    model = cls(config).eval()
    randomize(model, generator)
    rng = np.random.default_rng(seed)
    prompts = {f"p{n}": ids_of(rng, n) for n in (1, 7, 40)}
    if class_name.endswith("ForSequenceClassification"):
        prompts["padded"] = [*prompts["p7"], 0, 0]
    generates = class_name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))

    def run(model: Any, fixed: dict[str, list[int]] | None = None) -> tuple[dict, dict]:
        return causal(model, prompts, fixed) if generates else (encoder(model, prompts), {})

    values, rows = run(model)
    fixed = {key: row["ids"] for key, row in rows.items()}
    spread = dict.fromkeys(values, 0.0)
    kept = {key: p.clone() for key, p in model.named_parameters()}
    for _ in range(4):
        for key, p in model.named_parameters():
            p.copy_(kept[key] * (1 + 1e-6 * torch.randn(p.shape, generator=generator)))
        changed, others = run(model, fixed)
        if any(others[key]["ids"] != row["ids"] for key, row in rows.items()):
            return False
        for key, value in changed.items():
            spread[key] = max(spread[key], float((value - values[key]).abs().max()))
    for key, p in model.named_parameters():
        p.copy_(kept[key])
    if any(row["min_margin"] < 1e-3 for row in rows.values()):
        return False
    tolerance = {k: float(f"{max(3 * spread[k], 2e-5 * float(v.abs().max())):.2g}") for k, v in values.items()}
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    older_config(name, model, run, values, fixed)
    save_file({key: value.contiguous() for key, value in values.items()}, folder / "expected.safetensors")
    expected = {
        "name": name,
        "architecture": class_name,
        "model_type": config.model_type,
        "task": "causal" if generates else "encoder",
        "seed": seed,
        "storage_dtype": "float32",
        "transformers": t.__version__,
        "tolerance": tolerance,
    }
    if generates:
        expected |= {"prompts": prompts, "greedy": rows}
    else:
        expected |= {"inputs": {key: {"input_ids": [ids]} for key, ids in prompts.items()}}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")
    return True


def older_config(name: str, model: Any, run: Any, values: dict[str, torch.Tensor], fixed: Any) -> None:
    """Writes config.v4.json where it means the same."""
    written = older(model.config)
    try:
        config = type(model.config).from_dict(
            copy.deepcopy(written), attn_implementation=model.config._attn_implementation
        )
        other = type(model)(config).eval()
        other.load_state_dict(model.state_dict())
        again, _ = run(other, fixed)
        same = all(torch.equal(again[key], value) for key, value in values.items())
    except (KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        same = False
        print(f"{name}: {type(error).__name__} {error}"[:300])
    if same:
        (GOLDEN / name / "config.v4.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    else:
        print(f"{name}: transformers 5 reads the older configuration otherwise; left out")


def defaults() -> None:
    """Writes defaults.json: what a configuration of each family means that says nothing but its sizes."""
    types = sorted({getattr(t, name).config_class.model_type for name, _ in FIXTURES.values()} - {"gemma3"})
    found = {}
    for kind in [*types, "gemma3_text", "phi3", "qwen2", "qwen3", *COMPLETE]:
        values = t.AutoConfig.for_model(kind, **({} if kind in COMPLETE else {"num_hidden_layers": 8})).to_dict()
        if kind == "ministral":
            values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
        plain = t.PretrainedConfig().to_dict()
        found[kind] = {k: v for k, v in values.items() if k not in plain or v != plain[k] or k == "tie_word_embeddings"}
    text = ",\n".join(f"{json.dumps(kind)}: {json.dumps(values)}" for kind, values in sorted(found.items()))
    (GOLDEN / "defaults.json").write_text(f"{{{text}}}\n", encoding="utf-8")


def main(fixtures: dict[str, tuple[str, dict[str, Any]]], small: dict[str, Any]) -> None:
    """Makes the fixtures that the command names, or all; ``small`` holds sizes that all share."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with torch.no_grad():
        for name in sys.argv[1:] or fixtures:
            class_name, changes = fixtures[name]
            inner = {"text_config": {**small, **changes["text_config"]}} if "text_config" in changes else small
            values = {**inner, **changes} if inner is small else {**changes, **inner}
            start = zlib.crc32(name.encode()) % 10000
            if not any(make(name, class_name, values, start + attempt) for attempt in range(20)):
                raise SystemExit(f"{name}: no seed whose ids survive a small change of the weights")


if __name__ == "__main__":
    defaults()
    main(FIXTURES, TINY)
