"""The modules of sentence-transformers that follow the transformer, as a head of the description.

modules.json lists them in the order in which they run; each has a folder with a configuration and perhaps weights.
https://github.com/huggingface/sentence-transformers
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..errors import CheckpointError, short_repr
from ..spec import Activation, Dense, Head, HeadLayer, Norm, Normalization, Pooling, UnitLength
from .json_file import read_json, read_object
from .tensor import Tensor
from .weights import Weights, read_weights

POOLINGS: dict[str, Pooling] = {
    "cls": "first",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
"""Values of ``pooling_mode``."""

FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Flags of older configurations, in the order in which their results are concatenated."""

ACTIVATIONS: dict[str, Activation] = {
    "Identity": "identity",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
}
"""Classes of torch.nn without arguments, as the activations of dense layers."""

TRANSFORMERS = ("Transformer", "MLMTransformer", "BERT", "RoBERTa", "DistilBERT", "ALBERT", "CamemBERT", "XLMRoBERTa")
"""Classes that run the model itself."""

_TOKENS, _TEXT = "token_embeddings", "sentence_embedding"


@dataclass
class Chain:
    """The modules read so far: what they make of the states, and their weights."""

    pool: tuple[Pooling, ...] | None = None
    layers: list[HeadLayer] = field(default_factory=list)
    token_layers: int = 0
    mixture: int | None = None
    include_prompt: bool = True
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """By name within the head."""
    files: dict[Path, Weights] = field(default_factory=dict)
    """The weights of modules by folder. Copies share it, so that a module of several routes is stored once."""

    def copy(self) -> Chain:
        """The same modules, to be followed by others."""
        return Chain(
            self.pool,
            list(self.layers),
            self.token_layers,
            self.mixture,
            self.include_prompt,
            dict(self.tensors),
            self.files,
        )

    @property
    def head(self) -> Head:
        """The head that computes the modules."""
        layers = tuple(self.layers)
        return Head(pool=self.pool or (), layers=layers, token_layers=self.token_layers, mixture=self.mixture)

    def add(self, kind: str, place: Path, *, package: str, config: Mapping[str, Any]) -> None:
        """Adds the module of a class, whose files are in ``place``; ``config`` is the transformer's.

        Raises:
            CheckpointError: the module is unknown or its files are damaged.
        """
        if package != "sentence_transformers" and not (package == "pylate" and kind == "Dense"):
            raise CheckpointError(
                f"{place}: the module {package}.{kind} is code of another package, which is not run: expected classes of "
                "sentence_transformers"
            )
        if kind == "Pooling":
            self._pooling(place)
        elif kind == "Dense":
            self._dense(place, tokens=package == "pylate")
        elif kind == "LayerNorm":
            self._layer_norm(place)
        elif kind == "Normalize":
            self._check_input(place, read_object(place / "config.json"), "Normalize")
            self.layers.append(UnitLength())
        elif kind == "WeightedLayerPooling":
            self._mixture(place, config)
        elif kind != "Dropout":
            raise CheckpointError(
                f"{place}: the module {kind} is not supported: expected Transformer, Pooling, Dense, LayerNorm, "
                "Normalize, WeightedLayerPooling, Dropout or a Router of them"
            )

    def _pooling(self, place: Path) -> None:
        path, config = place / "config.json", read_object(place / "config.json")
        if self.pool is not None:
            raise CheckpointError(f"{path} is a second Pooling: expected one")
        named = config.get("pooling_mode")
        if named is None:
            names = [name for flag, name in FLAGS.items() if config.get(flag)] or ["mean"]
        else:
            names = [str(name) for name in named] if isinstance(named, list) else [str(named)]
        unknown = [name for name in names if name not in POOLINGS]
        if unknown or not names:
            raise CheckpointError(f"{path} has the pooling_mode {short_repr(named)}: expected {', '.join(POOLINGS)}")
        self.pool = tuple(POOLINGS[name] for name in names)
        self.include_prompt = bool(config.get("include_prompt", True))
        self.token_layers = len(self.layers)

    def _check_input(self, place: Path, config: Mapping[str, Any], kind: str, default: str = _TEXT) -> None:
        """Refuses a module that reads or writes another feature than the one that runs through the modules."""
        source = config.get("module_input_name", default)
        target = config.get("module_output_name") or source
        expected = _TOKENS if self.pool is None else _TEXT
        if (source, target) != (expected, expected):
            where = "before" if self.pool is None else "after"
            raise CheckpointError(
                f"{place / 'config.json'}: {kind} reads {short_repr(source)} and writes {short_repr(target)}: expected "
                f"{expected} {where} the Pooling"
            )

    def _take(self, place: Path, names: Mapping[str, str], required: int) -> dict[str, Tensor]:
        """Adds the weights of a module's folder, by name there and in the head; the first ones must exist."""
        weights = self.files.get(place) or read_weights(place)
        lacking = [name for name in list(names)[:required] if name not in weights.tensors]
        unknown = sorted(set(weights.tensors) - set(names))
        if lacking or unknown:
            what = f"lacks the tensor {lacking[0]}" if lacking else f"has the unknown tensor {unknown[0]}"
            raise CheckpointError(f"{place} {what}: expected {', '.join(names)}")
        self.files[place] = weights
        for theirs, ours in names.items():
            if theirs in weights.tensors:
                self.tensors[ours] = weights.tensors[theirs]
        return dict(weights.tensors)

    def _dense(self, place: Path, *, tokens: bool) -> None:
        path, config = place / "config.json", read_object(place / "config.json")
        self._check_input(place, config, "Dense", _TOKENS if tokens else _TEXT)
        name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
        activation = ACTIVATIONS.get(str(name).rsplit(".", 1)[-1].removesuffix("()"))
        if name is None:
            activation = "identity"
        if activation is None or (isinstance(name, str) and not name.startswith("torch.")):
            known = ", ".join(ACTIVATIONS)
            raise CheckpointError(f"{path} has the activation_function {short_repr(name)}: expected torch.nn's {known}")
        sizes = config.get("out_features"), config.get("in_features")
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise CheckpointError(f"{path} has {sizes} as out_features and in_features: expected whole numbers from 1")
        at = len(self.layers)
        names = {
            "linear.weight": f"{at}.weight",
            "linear.bias": f"{at}.bias",
            "residual.weight": f"{at}.residual.weight",
        }
        found = self._take(place, names, 1)
        if found["linear.weight"].shape != sizes:
            raise CheckpointError(f"{place} has linear.weight {list(found['linear.weight'].shape)}: expected {sizes}")
        if "bias" in config and bool(config["bias"]) != ("linear.bias" in found):
            raise CheckpointError(f"{path} has bias={config['bias']}, but the weights say otherwise")
        self.layers.append(
            Dense(
                outputs=cast(int, sizes[0]),
                bias="linear.bias" in found,
                activation=activation,
                residual=bool(config.get("use_residual", False)),
            )
        )

    def _layer_norm(self, place: Path) -> None:
        if self.pool is None:
            raise CheckpointError(f"{place}: LayerNorm stands before the Pooling: expected it after")
        at = len(self.layers)
        self._take(place, {"norm.weight": f"{at}.norm.weight", "norm.bias": f"{at}.norm.bias"}, 2)
        self.layers.append(Normalization(norm=Norm(kind="layer", eps=1e-5, bias=True)))

    def _mixture(self, place: Path, config: Mapping[str, Any]) -> None:
        if self.pool is not None or self.layers or self.mixture is not None:
            raise CheckpointError(f"{place}: WeightedLayerPooling does not follow the Transformer: expected it there")
        if not config.get("output_hidden_states"):
            # The transformer returns its last states alone then, and the module passes them on.
            return
        start = read_object(place / "config.json").get("layer_start", 4)
        if not isinstance(start, int) or start < 0:
            raise CheckpointError(
                f"{place / 'config.json'} has layer_start {short_repr(start)}: expected a number from 0"
            )
        self._take(place, {"layer_weights": "mixture"}, 1)
        self.mixture = start


@dataclass(frozen=True)
class Router:
    """A module that runs others, depending on the kind of text: the names of its routes, their modules as (class,
    package, folder), and the route of a text without a kind."""

    routes: Mapping[str, list[tuple[str, str, Path]]]
    default: str | None


def read_router(place: Path) -> Router:
    """Reads a Router, or an Asym of older versions."""
    path = place / "router_config.json"
    path = path if path.is_file() else place / "config.json"
    config = read_object(path)
    types, structure, parameters = (config.get(key) for key in ("types", "structure", "parameters"))
    if not isinstance(types, dict) or not isinstance(structure, dict) or not structure:
        raise CheckpointError(f"{path} lacks types and structure: expected those of a Router")
    parameters = parameters if isinstance(parameters, dict) else {}
    if parameters.get("route_mappings"):
        raise CheckpointError(f"{path} has route_mappings, which are not supported: expected routes by name")
    routes = {}
    for route, names in structure.items():
        if not isinstance(names, list) or not all(name in types for name in names):
            raise CheckpointError(f"{path} has the route {short_repr(route)} of modules without types")
        routes[route] = [(*split_type(str(types[name])), inside(place, str(name))) for name in names]
    default = parameters.get("default_route")
    if default is None and parameters.get("allow_empty_key", True):
        default = next(iter(routes))
    if default is not None and default not in routes:
        raise CheckpointError(f"{path} has the default_route {short_repr(default)}: expected {', '.join(routes)}")
    return Router(routes, default)


def split_type(name: str) -> tuple[str, str]:
    """The class and the package of a module's type."""
    parts = name.split(".")
    return parts[-1], parts[0] if len(parts) > 1 else "sentence_transformers"


def inside(folder: Path, name: str) -> Path:
    """A folder in a folder, never outside of it."""
    place = (folder / name).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise CheckpointError(f"modules.json names the path {short_repr(name)}, which is outside {folder}")
    return place


def read_modules(folder: Path) -> list[tuple[str, str, Path]]:
    """Class, package and folder of each module that modules.json lists, in the order in which they run."""
    path = folder / "modules.json"
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{path} is not a list of modules")
    found = []
    for module in modules:
        kind, package = split_type(str(module.get("type", "")))
        found.append((kind, package, inside(folder, str(module.get("path", "")))))
    return found
