"""Folders of sentence-transformers around the BERT of ``golden/bert-model``, one for each kind of module.

As a program, in an environment with sentence-transformers, it writes what that library makes of them to
``golden/recipes.json``: ``python -m tests.recipes``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parent / "golden"
TEXTS = ["Hello, World!", "The quick brown fox jumps over the [MASK]."]
WIDTH = json.loads((GOLDEN / "bert-model" / "config.json").read_text(encoding="utf-8"))["hidden_size"]
OLD = "sentence_transformers.models"


def _dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _weights(place: Path, seed: int, **shapes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    place.mkdir(parents=True, exist_ok=True)
    tensors = {
        name.replace("_", "."): (0.4 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()
    }
    save_file(tensors, place / "model.safetensors")


def dense(place: Path, inputs: int, outputs: int, activation: str = "Tanh", seed: int = 1, **config: Any) -> None:
    shapes: dict[str, tuple[int, ...]] = {"linear_weight": (outputs, inputs)}
    if config.get("bias", True):
        shapes["linear_bias"] = (outputs,)
    if config.get("use_residual") and inputs != outputs:
        shapes["residual_weight"] = (outputs, inputs)
    _weights(place, seed, **shapes)
    settings = {
        "in_features": inputs,
        "out_features": outputs,
        "bias": config.get("bias", True),
        "activation_function": f"torch.nn.modules.activation.{activation}",
        **config,
    }
    _dump(place / "config.json", settings)


def pooling(place: Path, *modes: str, **config: Any) -> None:
    _dump(place / "config.json", {"embedding_dimension": WIDTH, "pooling_mode": list(modes), **config})


def make(folder: Path, *kinds: str, transformer: str = "") -> Path:
    """Copies the model and lists the modules; the folders of the modules are named by place and class."""
    shutil.copytree(GOLDEN / "bert-model", folder / transformer, dirs_exist_ok=True)
    for path in (folder / transformer).glob("expected.*"):
        path.unlink()
    entries = [{"idx": 0, "name": "0", "path": transformer, "type": f"{OLD}.Transformer"}]
    for index, kind in enumerate(kinds, 1):
        (folder / f"{index}_{kind}").mkdir(parents=True, exist_ok=True)
        entries.append({"idx": index, "name": str(index), "path": f"{index}_{kind}", "type": f"{OLD}.{kind}"})
    _dump(folder / "modules.json", entries)
    return folder


def normalize_first(folder: Path) -> None:
    make(folder, "Pooling", "Normalize", "Dense")
    pooling(folder / "1_Pooling", "mean")
    dense(folder / "3_Dense", WIDTH, 16)


def layer_norm(folder: Path) -> None:
    make(folder, "Pooling", "LayerNorm", "Normalize")
    pooling(folder / "1_Pooling", "cls", "max")
    _dump(folder / "2_LayerNorm" / "config.json", {"dimension": 2 * WIDTH})
    _weights(folder / "2_LayerNorm", 3, norm_weight=(2 * WIDTH,), norm_bias=(2 * WIDTH,))


def dense_of_tokens(folder: Path) -> None:
    make(folder, "Dense", "Pooling")
    dense(folder / "1_Dense", WIDTH, 12, "ReLU", bias=False, module_input_name="token_embeddings")
    pooling(folder / "2_Pooling", "weightedmean", embedding_dimension=12)


def residual(folder: Path) -> None:
    make(folder, "Pooling", "Dense", "Dense")
    pooling(folder / "1_Pooling", "mean_sqrt_len_tokens")
    dense(folder / "2_Dense", WIDTH, 20, "GELU", use_residual=True)
    dense(folder / "3_Dense", 20, 20, "SiLU", 2, use_residual=True)


def layers(folder: Path) -> None:
    make(folder, "WeightedLayerPooling", "Pooling")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _dump(folder / "config.json", {**config, "output_hidden_states": True})
    depth, start = config["num_hidden_layers"], 1
    settings = {"embedding_dimension": WIDTH, "layer_start": start, "num_hidden_layers": depth}
    _dump(folder / "1_WeightedLayerPooling" / "config.json", settings)
    weights = np.arange(1, depth + 2 - start, dtype=np.float32)
    save_file({"layer_weights": weights}, folder / "1_WeightedLayerPooling" / "model.safetensors")
    pooling(folder / "2_Pooling", "mean")


def no_mode(folder: Path) -> None:
    make(folder, "Pooling")
    flags = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False}
    _dump(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH, **flags})


def subfolder(folder: Path) -> None:
    make(folder, "Pooling", transformer="0_Transformer")
    pooling(folder / "1_Pooling", "lasttoken")


def lower(folder: Path) -> None:
    make(folder, "Pooling")
    pooling(folder / "1_Pooling", "mean")
    _dump(folder / "sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": True})


def shortened(folder: Path) -> None:
    make(folder, "Pooling", "Normalize")
    pooling(folder / "1_Pooling", "mean")
    _dump(folder / "config_sentence_transformers.json", {"truncate_dim": 8})


def prompted(folder: Path) -> None:
    make(folder, "Pooling")
    modes = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    pooling(folder / "1_Pooling", *modes, include_prompt=False)
    _dump(folder / "config_sentence_transformers.json", {"prompts": {"query": "brown fox: ", "document": "quick "}})


def router(folder: Path) -> None:
    make(folder, "Pooling", "Router", "Normalize")
    pooling(folder / "1_Pooling", "mean")
    place = folder / "2_Router"
    dense(place / "query_0_Dense", WIDTH, 16, seed=4)
    dense(place / "document_0_Dense", WIDTH, 16, seed=5)
    names = {"query": ["query_0_Dense"], "document": ["document_0_Dense"]}
    types = {name: f"{OLD}.Dense" for names in names.values() for name in names}
    parameters = {"default_route": "document", "allow_empty_key": True}
    _dump(place / "router_config.json", {"types": types, "structure": names, "parameters": parameters})


RECIPES: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (
        normalize_first,
        layer_norm,
        dense_of_tokens,
        residual,
        layers,
        no_mode,
        subfolder,
        lower,
        shortened,
        prompted,
        router,
    )
}


def main() -> None:
    from sentence_transformers import SentenceTransformer

    found: dict[str, Any] = {}
    for name, build in RECIPES.items():
        folder = Path(tempfile.mkdtemp()) / name
        build(folder)
        model = SentenceTransformer(str(folder), device="cpu")
        calls = {"embed": model.encode, "encode_query": model.encode_query, "encode_document": model.encode_document}
        found[name] = {call: encode(TEXTS).astype(np.float64).round(7).tolist() for call, encode in calls.items()}
    _dump(GOLDEN / "recipes.json", found)


if __name__ == "__main__":
    main()
