"""Configurations of decoders: spellings, missing keys, refusals by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lapwing
from lapwing.architectures import family
from lapwing.checkpoint import Config
from lapwing.spec import FeedForward, Model

GOLDEN = Path(__file__).parent / "golden"
DEFAULTS: dict[str, dict[str, Any]] = json.loads((GOLDEN / "defaults.json").read_text(encoding="utf-8"))
SIZES = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)
"""Keys of every configuration."""
COMPLETE = ["bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "opt", "phi"]
"""Families with default sizes too."""


def config_of(name: str, **values: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / name / "config.json").read_text(encoding="utf-8"))
    return {**found, **values}


def spec(values: Mapping[str, Any], task: str = "generation") -> Model:
    found = family(Config(values))
    return found.spec(Config({**found.defaults, **values}), task)


def attentions(model: Model) -> list[Any]:
    assert model.decoder is not None
    return [layer.block("attention").body for layer in model.decoder.layers]


def rotaries(model: Model) -> list[Any]:
    return [attention.rotary for attention in attentions(model)]


def test_older_names_of_longrope() -> None:
    name = "phi3-longrope"
    want = spec(config_of(name))
    for kind in ("su", "yarn"):
        for key in ("rope_type", "type"):
            rope = {k: v for k, v in config_of(name)["rope_parameters"].items() if k not in ("rope_type", "type")}
            found = config_of(name, rope_scaling={**rope, key: kind}, rope_parameters=None)
            assert spec(found) == want


def test_the_length_of_training_at_the_top_stands_above_the_one_of_the_rotation() -> None:
    name = "phi3-longrope"
    rope = {**config_of(name)["rope_parameters"], "original_max_position_embeddings": 7}
    found = rotaries(spec(config_of(name, rope_parameters=rope, original_max_position_embeddings=50)))
    assert found[0].long.after == 50


def test_a_factor_stands_above_the_ratio_of_lengths() -> None:
    rope = dict(config_of("llama-longrope")["rope_parameters"])
    scales = {
        rotaries(spec(config_of("llama-longrope", rope_parameters={**rope, "factor": f})))[0].scale for f in (2, 9)
    }
    assert len(scales) == 2


@pytest.mark.parametrize(
    ("kind", "values", "length"),
    [
        ("default", {}, 128),
        ("linear", {"factor": 4.0}, 512),
        ("yarn", {"factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ("yarn", {"factor": 4.0, "original_max_position_embeddings": 16}, 128),
        ("dynamic", {"factor": 2.0}, 1 << 30),
    ],
)
def test_scaled_rotations_reach_further(kind: str, values: dict[str, Any], length: int) -> None:
    rope = {"rope_type": kind, "rope_theta": 10000.0, **values}
    model = spec(config_of("llama", rope_parameters=rope))
    assert model.decoder is not None
    assert model.decoder.max_length == length


def test_an_odd_number_of_rotated_dimensions_is_rounded_up() -> None:
    rope = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
    found = rotaries(spec(config_of("nemotron", head_dim=6, hidden_size=24, rope_parameters=rope)))[0]
    assert found.inv_freq == (1.0, 100.0 ** (-2 / 3))


def test_every_nth_layer_sees_everything_where_types_are_not_listed() -> None:
    for name, key in (("gemma3_text", "sliding_window_pattern"), ("cohere2", "sliding_window_pattern")):
        values = config_of(name, layer_types=None, num_hidden_layers=6, **{key: 3})
        assert [attention.window is None for attention in attentions(spec(values))] == [False, False, True] * 2


def test_letters_of_exaone_name_the_layers() -> None:
    values = config_of("exaone4", layer_types=None, num_hidden_layers=6, sliding_window_pattern="LLG")
    assert [one is None for one in rotaries(spec(values))] == [False, False, True] * 2


def test_a_null_window_is_none_and_an_absent_one_the_default() -> None:
    for value, want in ((None, None), (7, 7)):
        assert attentions(spec(config_of("mistral", sliding_window=value)))[0].window == want
    values = config_of("mistral")
    del values["sliding_window"]
    assert attentions(spec(values))[0].window == 4096


def test_gemma_calls_the_approximation_gelu() -> None:
    model = spec(config_of("gemma", hidden_act="gelu"))
    assert model.decoder is not None
    feed_forward = model.decoder.layers[0].block("feed_forward").body
    assert isinstance(feed_forward, FeedForward) and feed_forward.activation == "gelu_tanh"


@pytest.mark.parametrize(
    ("name", "values", "key"),
    [
        ("llama", {"rope_parameters": {"rope_type": "mrope"}}, "rope_type"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor"),
        ("llama", {"head_dim": 64, "rope_parameters": {"rope_theta": 5e-324}}, "rope_theta"),
        ("llama", {"hidden_act": "xielu"}, "hidden_act"),
        ("llama", {"head_dim": 5}, "even number of rotated dimensions, not 5"),
        ("stablelm", {"head_dim": 10, "rope_parameters": {"partial_rotary_factor": 0.3}}, "partial_rotary_factor"),
        ("persimmon", {"rope_parameters": {"partial_rotary_factor": 0.4}}, "partial_rotary_factor"),
        (
            "nemotron",
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "partial_rotary_factor": 0.4}},
            "rope_type is 'yarn': expected another kind where 3 dimensions are rotated",
        ),
        ("phi3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type"),
        ("phi3-longrope", {"hidden_size": 64}, "long_factor"),
        ("gemma2", {"sliding_window": None}, "sliding_window"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"layer_types": ["sliding_attention"]}, "layer_types"),
        ("olmo", {"clip_qkv": -1}, "clip_qkv"),
        ("granite", {"logits_scaling": 0}, "logits_scaling"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers"),
        ("exaone4", {"layer_types": None, "sliding_window_pattern": "LXG"}, "sliding_window_pattern"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name: str, values: dict[str, Any], key: str) -> None:
    with pytest.raises(lapwing.CheckpointError, match=key):
        spec(config_of(name, **values))


def test_newer_names_of_the_language_model_beside_images(tmp_path: Path) -> None:
    source, folder = GOLDEN / "gemma3", tmp_path / "model"
    shutil.copytree(source, folder)
    names = {"language_model.model.": "model.language_model.", "vision_tower.": "model.vision_tower."}
    tensors = load_file(source / "model.safetensors")
    for old, new in names.items():
        tensors = {name.replace(old, new, 1) if name.startswith(old) else name: t for name, t in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    ids = list(range(3, 20))
    np.testing.assert_array_equal(lapwing.load(folder).logits(ids), lapwing.load(source).logits(ids))


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_keys_that_a_configuration_leaves_out(name: str) -> None:
    full = DEFAULTS[name]
    small = {key: full[key] for key in (("model_type",) if name in COMPLETE else SIZES)}
    assert spec(small) == spec(full)
    ties = family(Config(small)).defaults.get("tie_word_embeddings", False)
    assert ties == full["tie_word_embeddings"]
