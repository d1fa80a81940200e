"""What configurations and files of models with experts and with convolutions mean."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lapwing
from lapwing.architectures import check, describe
from lapwing.checkpoint import open_checkpoint
from lapwing.checkpoint.tensor import to_f32
from lapwing.spec import Attention, Body, Experts, FeedForward, Model, Router, ShortConvolution

from .test_decoders import GOLDEN, config_of, spec

Array = np.ndarray[Any, Any]
MIXTURES = {"mixtral": ("w1", "w3", "w2"), "qwen3_moe": ("gate_proj", "up_proj", "down_proj")}
"""Families with experts, and their names of an expert's matrices."""


def bodies(model: Model, place: str) -> list[Body]:
    assert model.decoder is not None
    return [layer.block(place).body for layer in model.decoder.layers]


def arrays(folder: Path) -> tuple[Model, dict[str, Array]]:
    model, tensors, unused = describe(open_checkpoint(folder))
    assert not unused
    return model, {name: to_f32(t.read(), t.dtype).reshape(t.shape) for name, t in tensors.items()}


def stacked(name: str, folder: Path) -> Path:
    """The fixture with the matrices of all experts of a layer in two tensors, as transformers 5 holds them."""
    shutil.copytree(GOLDEN / name, folder)
    tensors = load_file(folder / "model.safetensors")
    gate, up, down = MIXTURES[name]
    for i in range(config_of(name)["num_hidden_layers"]):
        for place in (f"model.layers.{i}.block_sparse_moe.", f"model.layers.{i}.mlp."):
            if f"{place}experts.0.{gate}.weight" not in tensors:
                continue
            taken: dict[str, list[Array]] = {}
            for part in (gate, up, down):
                taken[part] = [
                    tensors.pop(f"{place}experts.{e}.{part}.weight")
                    for e in range(config_of(name)["num_local_experts"])
                ]
            both = [np.concatenate(pair) for pair in zip(taken[gate], taken[up], strict=True)]
            tensors[f"model.layers.{i}.mlp.gate.weight"] = tensors.pop(f"{place}gate.weight")
            tensors[f"model.layers.{i}.mlp.experts.gate_up_proj"] = np.stack(both)
            tensors[f"model.layers.{i}.mlp.experts.down_proj"] = np.stack(taken[down])
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", MIXTURES)
def test_stacked_experts_are_those_stored_one_by_one(name: str, tmp_path: Path) -> None:
    want, got = arrays(GOLDEN / name), arrays(stacked(name, tmp_path / "model"))
    assert got[0] == want[0]
    assert got[1].keys() == want[1].keys()
    for key, value in want[1].items():
        np.testing.assert_array_equal(got[1][key], value, err_msg=key)


@pytest.mark.parametrize("name", MIXTURES)
def test_stacked_experts_of_another_shape_are_reported(name: str, tmp_path: Path) -> None:
    folder = stacked(name, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    key = "model.layers.0.mlp.experts.gate_up_proj"
    tensors[key] = tensors[key][1:]
    save_file(tensors, folder / "model.safetensors")
    _, found, unused = describe(open_checkpoint(folder))
    with pytest.raises(lapwing.CheckpointError, match=key):
        check({}, found, unused, "here")


def test_layers_with_experts_are_every_nth_but_the_listed() -> None:
    for values, want in (
        ({"mlp_only_layers": []}, [True] * 4),
        ({"mlp_only_layers": None}, [True] * 4),
        ({"mlp_only_layers": [0, 3]}, [False, True, True, False]),
        ({"mlp_only_layers": [], "decoder_sparse_step": 2}, [False, True, False, True]),
        ({"mlp_only_layers": [1], "decoder_sparse_step": 2}, [False, False, False, True]),
    ):
        found = bodies(spec(config_of("qwen3_moe", num_hidden_layers=4, **values)), "feed_forward")
        assert [isinstance(body, Experts) for body in found] == want
        widths = {body.width for body in found if isinstance(body, FeedForward)}
        assert widths <= {config_of("qwen3_moe")["intermediate_size"]}


def test_both_names_of_the_number_of_experts() -> None:
    values = config_of("qwen3_moe")
    count = values.pop("num_local_experts")
    assert spec({**values, "num_experts": count}) == spec(config_of("qwen3_moe"))


def test_scores_of_chosen_experts_add_up_to_one_where_the_configuration_says_so() -> None:
    for value in (False, True):
        (body, *_) = bodies(spec(config_of("qwen3_moe", norm_topk_prob=value)), "feed_forward")
        assert isinstance(body, Experts)
        assert body.router == Router(count=6, per_token=3, renormalize=value)
    (body, *_) = bodies(spec(config_of("mixtral")), "feed_forward")
    assert isinstance(body, Experts) and body.router == Router(count=4, per_token=2, renormalize=True)


def test_the_window_of_qwen3_moe_counts_where_it_is_used() -> None:
    for used, want in ((False, None), (True, 7)):
        (body, *_) = bodies(spec(config_of("qwen3_moe", use_sliding_window=used, sliding_window=7)), "attention")
        assert isinstance(body, Attention) and body.window == want


def test_words_of_the_first_checkpoints_of_lfm2() -> None:
    values = config_of("lfm2", layer_types=None, full_attn_idxs=[1])
    want = spec(config_of("lfm2"))
    assert spec(values) == want
    del values["intermediate_size"], values["rope_parameters"]
    assert spec({**values, "block_ff_dim": 64, "theta": 1e6, "tie_embedding": True}) == want


@pytest.mark.parametrize(
    ("values", "width"),
    [
        ({"intermediate_size": 12288}, 8192),
        ({"intermediate_size": 6656}, 4608),
        ({"intermediate_size": 100, "block_multiple_of": 7}, 70),
        ({"intermediate_size": 100, "block_ffn_dim_multiplier": 1.5, "block_multiple_of": 10}, 100),
        ({"intermediate_size": 100, "block_ffn_dim_multiplier": None, "block_multiple_of": 1}, 66),
    ],
)
def test_adjusted_widths(values: dict[str, Any], width: int) -> None:
    found = bodies(spec(config_of("lfm2", block_auto_adjust_ff_dim=True, **values)), "feed_forward")
    assert {body.width for body in found if isinstance(body, FeedForward)} == {width}


def test_biases_of_convolutions() -> None:
    (body, *_) = bodies(spec(config_of("lfm2", conv_bias=True, conv_L_cache=5)), "operator")
    assert body == ShortConvolution(kernel=5, bias=True)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mixtral", {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5}),
        ("mixtral", {"max_position_embeddings": 131072, "sliding_window": None, "rope_theta": 1e6}),
        ("qwen3_moe", {"num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8}),
        ("qwen3_moe", {"moe_intermediate_size": 768, "norm_topk_prob": False, "decoder_sparse_step": 1}),
        ("qwen3_moe", {"max_position_embeddings": 32768, "use_sliding_window": False, "rope_theta": 1e4}),
        ("lfm2", {"num_key_value_heads": 8, "max_position_embeddings": 128000, "norm_eps": 1e-5, "rope_theta": 1e6}),
        ("lfm2", {"conv_L_cache": 3, "conv_bias": False, "block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0}),
        ("lfm2", {"block_auto_adjust_ff_dim": True, "full_attn_idxs": None, "layer_types": None}),
    ],
)
def test_keys_that_a_configuration_leaves_out(name: str, values: dict[str, Any]) -> None:
    """Values of the configuration classes of transformers 5."""
    sizes = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 32}
    small = {"model_type": name, **sizes, "intermediate_size": 512}
    assert spec(small) == spec({**small, **values})


@pytest.mark.parametrize(
    ("name", "values", "key"),
    [
        ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok"),
        ("mixtral", {"num_local_experts": 10**6}, "num_local_experts"),
        ("qwen3_moe", {"mlp_only_layers": "all"}, "mlp_only_layers"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step"),
        ("lfm2", {"layer_types": ["conv"]}, "layer_types"),
        ("lfm2", {"layer_types": ["conv", "conv", "mamba"]}, "layer_types"),
        ("lfm2", {"layer_types": None, "full_attn_idxs": 1}, "full_attn_idxs"),
        ("lfm2", {"conv_L_cache": 1}, "conv_L_cache"),
        ("lfm2", {"block_auto_adjust_ff_dim": True, "block_ffn_dim_multiplier": -1.0}, "block_ffn_dim_multiplier"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, values: dict[str, Any], key: str) -> None:
    with pytest.raises(lapwing.CheckpointError, match=key):
        spec(config_of(name, **values))


def test_names_of_fixtures_fit_their_configurations() -> None:
    """Both spellings of each configuration describe the same model."""
    for name in (*MIXTURES, "lfm2"):
        older = json.loads((GOLDEN / name / "config.v4.json").read_text(encoding="utf-8"))
        assert spec(older) == spec(config_of(name))
