"""Configurations and files of GPT-2 and similar decoders: spellings, prefixes, refusals by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lapwing
from lapwing.spec import Attention, Stack

from .test_decoders import GOLDEN, config_of, spec


def stack(values: dict[str, Any]) -> Stack:
    found = spec(values).decoder
    assert found is not None
    return found


def attention(values: dict[str, Any]) -> Attention:
    found = stack(values).layers[0].block("attention").body
    assert isinstance(found, Attention)
    return found


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("gpt2", {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}),
        ("gpt2", {"n_positions": "max_position_embeddings"}),
        ("gptj", {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}),
        ("gpt_neo", {"num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"}),
        ("bloom", {"hidden_size": "n_embed", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}),
        ("falcon", {"hidden_size": "n_embed"}),
        ("mpt", {"d_model": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers"}),
    ],
)
def test_other_names_of_sizes(name: str, keys: dict[str, str]) -> None:
    values = config_of(name)
    assert spec({keys.get(key, key): value for key, value in values.items()}) == spec(values)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "gptj", "codegen", "bloom", "falcon-new-decoder", "mpt", "opt"])
def test_keys_of_other_families_do_not_count(name: str) -> None:
    others = {"head_dim": 2, "num_key_value_heads": 1, "rope_theta": 10000.0}
    assert spec(config_of(name, **others)) == spec(config_of(name))


def test_the_steepest_slope_of_mpt() -> None:
    found = attention(config_of("mpt", attn_config={"alibi_bias_max": 4})).alibi
    assert found is not None
    assert found.slopes == (2**-1, 2**-2, 2**-3, 2**-4)
    five = attention(config_of("mpt", d_model=40, n_heads=5, attn_config=None)).alibi
    assert five is not None
    assert five.slopes == (2**-2, 2**-4, 2**-6, 2**-8, 2**-1)


def test_no_clipping_of_mpt_is_written_as_null_or_0() -> None:
    assert [attention(config_of("mpt", attn_config={"clip_qkv": clip})).clip for clip in (None, 0, 6)] == [
        None,
        None,
        6,
    ]


def test_slopes_of_heads_beyond_a_power_of_two() -> None:
    found = attention(config_of("bloom", hidden_size=42, n_head=7)).alibi
    assert found is not None
    assert found.slopes == pytest.approx((2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3, 2**-5))


def test_models_with_slopes_have_no_longest_sequence() -> None:
    lengths = [stack(config_of(name)).max_length for name in ("bloom", "falcon-rw", "falcon", "mpt")]
    assert lengths == [1 << 30, 1 << 30, 128, 128]


def test_older_keys_of_the_rotation_of_gpt_neox_give_way_to_newer() -> None:
    values = config_of("gpt_neox", rotary_pct=1.0, rotary_emb_base=7.0)
    assert spec(values) == spec(config_of("gpt_neox"))
    del values["rope_parameters"]
    rotary = attention(values).rotary
    assert rotary is not None
    assert rotary.inv_freq == pytest.approx([7.0 ** (-j / 8) for j in range(8)])


def test_one_rotated_dimension_of_gpt_neox_makes_a_pair() -> None:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    rotary = attention(config_of("gpt_neox", hidden_size=12, rope_parameters=rope)).rotary
    assert rotary is not None
    assert rotary.inv_freq == (1.0,)


def test_heads_of_falcon() -> None:
    def kv_heads(name: str, **values: Any) -> int:
        return attention(config_of(name, **values)).kv_heads

    assert kv_heads("falcon") == 1
    assert kv_heads("falcon", num_kv_heads=2) == 1
    assert kv_heads("falcon", multi_query=False) == 4
    assert kv_heads("falcon-new-decoder") == 2
    assert kv_heads("falcon-new-decoder", num_kv_heads=None) == 4


def test_final_norms_of_opt() -> None:
    found = [
        stack(config_of("opt", **values)).final_norm is not None
        for values in ({}, {"do_layer_norm_before": False}, {"_remove_final_layer_norm": True})
    ]
    assert found == [True, False, False]


@pytest.mark.parametrize(
    ("name", "values", "key"),
    [
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"n_head": 3}, "n_head"),
        ("gpt2", {"activation_function": "xielu"}, "activation_function"),
        ("gpt_bigcode", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt_neo", {"attention_types": [[["global", "sliding"], 1]]}, "attention_types"),
        ("gpt_neo", {"attention_types": [[["global"], 2]]}, "attention_types"),
        ("gpt_neo", {"attention_types": [[["global"], 1 << 60]]}, "attention_types"),
        ("gpt_neo", {"attention_types": "global"}, "attention_types"),
        ("gptj", {"rotary_dim": None}, "rotary_dim"),
        ("gptj", {"rotary_dim": 3}, "rotary_dim"),
        ("codegen", {"rotary_dim": 12}, "rotary_dim"),
        ("falcon", {"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn"),
        ("falcon-new-decoder", {"parallel_attn": False}, "parallel_attn"),
        ("falcon-new-decoder", {"num_kv_heads": 3}, "num_kv_heads"),
        ("phi", {"rope_parameters": {"partial_rotary_factor": 0.3}}, "partial_rotary_factor"),
        ("mpt", {"attn_config": {"qk_ln": True}}, "qk_ln"),
        ("mpt", {"attn_config": {"alibi": False}}, "alibi"),
        ("mpt", {"attn_config": {"prefix_lm": True}}, "prefix_lm"),
        ("mpt", {"attn_config": {"attn_type": "multiquery_attention"}}, "attn_type"),
        ("mpt", {"attn_config": {"clip_qkv": -1}}, "clip_qkv"),
        ("mpt", {"attn_config": {"rope": True}}, "rope"),
        ("mpt", {"norm_type": "rmsnorm"}, "norm_type"),
        ("mpt", {"logit_scale": "inv_sqrt_d_model"}, "logit_scale"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name: str, values: dict[str, Any], key: str) -> None:
    with pytest.raises(lapwing.CheckpointError, match=key):
        spec(config_of(name, **values))


Tensors = dict[str, Any]
IDS = list(range(3, 30))


def _same(name: str, folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """A checkpoint with other tensor names gives bit-identical logits."""
    shutil.copytree(GOLDEN / name, folder)
    save_file(change(load_file(GOLDEN / name / "model.safetensors")), folder / "model.safetensors")
    np.testing.assert_array_equal(lapwing.load(folder).logits(IDS), lapwing.load(GOLDEN / name).logits(IDS))


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("gpt2-scaled", "transformer."), ("bloom", "transformer."), ("falcon", "transformer."), ("opt", "model.")],
)
def test_prefixes_may_be_missing(name: str, prefix: str, tmp_path: Path) -> None:
    _same(name, tmp_path / "model", lambda tensors: {key.removeprefix(prefix): t for key, t in tensors.items()})


def test_prefixes_may_be_there(tmp_path: Path) -> None:
    _same("gpt2", tmp_path / "model", lambda tensors: {f"transformer.{key}": t for key, t in tensors.items()})


@pytest.mark.parametrize(
    ("name", "buffers"),
    [
        ("gpt2", ["h.0.attn.masked_bias", "h.1.attn.bias"]),
        ("gpt_neo", ["transformer.h.0.attn.attention.bias", "transformer.h.1.attn.attention.masked_bias"]),
        ("gpt_neox", [f"gpt_neox.layers.0.attention.{x}" for x in ("bias", "masked_bias", "rotary_emb.inv_freq")]),
        ("gptj", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
        ("codegen", ["transformer.h.0.attn.causal_mask"]),
    ],
)
def test_stored_masks_are_left_out(name: str, buffers: list[str], tmp_path: Path) -> None:
    zero = np.zeros((1, 1, 4, 4), np.float32)
    _same(name, tmp_path / "model", lambda tensors: {**tensors, **dict.fromkeys(buffers, zero)})


def test_the_language_head_of_gpt_neox_under_its_newer_name(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> Tensors:
        return {("lm_head.weight" if key == "embed_out.weight" else key): t for key, t in tensors.items()}

    _same("gpt_neox", tmp_path / "model", change)


def test_a_stored_copy_of_the_tied_head(tmp_path: Path) -> None:
    _same("gpt2", tmp_path / "model", lambda tensors: {**tensors, "lm_head.weight": tensors["wte.weight"]})


def test_the_head_for_choices_is_left_out(tmp_path: Path) -> None:
    extra = {f"multiple_choice_head.summary.{key}": np.zeros(1, np.float32) for key in ("weight", "bias")}
    _same("gpt2", tmp_path / "model", lambda tensors: {**tensors, **extra})


def test_a_fused_matrix_of_another_size_is_reported(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "bloom", tmp_path / "model")
    config = {**json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8")), "n_head": 8}
    config["hidden_size"] = 48
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(lapwing.CheckpointError, match=r"query_key_value\.weight \(.*\) has shape"):
        lapwing.load(tmp_path / "model")
