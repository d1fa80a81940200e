"""How a checkpoint turns texts into embeddings: the files of sentence-transformers around the transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from ..spec import Head, Model
from .json_file import read_object
from .modules import TRANSFORMERS, Chain, read_modules, read_router
from .tensor import Tensor
from .weights import Weights

if TYPE_CHECKING:
    from . import Checkpoint

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


@dataclass(frozen=True)
class Route:
    """A head for embeddings, its tensors by name within the head, and whether prompts count in its pooling."""

    head: Head
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    include_prompt: bool = True


@dataclass(frozen=True)
class Recipe:
    """How hidden states become an embedding, and how the text is prepared.

    Attributes:
        folder: the transformer's folder, with its weights and its tokenizer.
        routes: heads by name; one without a Router is called "".
        default_route: the route of a text that is neither a query nor a document; None if it must be one.
        lacking: why there is no embedding, if ``routes`` is empty.
        files: the weights of the modules.
        max_tokens: bound of a text in tokens; the rest is cut off.
        lower: texts are in lower case.
        prompts: prompts by name.
        default_prompt: name of the prompt of a call without one.
        truncate_dim: number of dimensions that are kept.
        similarity: one of `SIMILARITIES`.
        published: the folder says so itself.
    """

    folder: Path
    routes: Mapping[str, Route]
    default_route: str | None = ""
    lacking: str = ""
    files: tuple[Weights, ...] = ()
    max_tokens: int | None = None
    lower: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    truncate_dim: int | None = None
    similarity: str = "cosine"
    published: bool = True

    @staticmethod
    def mean(folder: Path) -> Recipe:
        """The recipe of a folder without one: the mean of the states."""
        return Recipe(folder=folder, routes={"": Route(Head(pool=("mean",)))}, published=False)

    @staticmethod
    def read(folder: Path) -> Recipe | None:
        """The recipe of a folder, or None if it is not an embedding model of sentence-transformers."""
        extra = read_object(folder / "config_sentence_transformers.json")
        if not (folder / "modules.json").is_file() or extra.get("model_type") == "CrossEncoder":
            return None
        place, routes, default, files = _routes(folder)
        text = read_object(place / "sentence_bert_config.json")
        # Newer folders have the bound in the tokenizer's settings.
        bounds = (
            text.get("max_seq_length"),
            read_object(place / "tokenizer_config.json").get("model_max_length"),
        )
        limit = next((int(b) for b in bounds if isinstance(b, int | float) and 0 < b < 1 << 30), None)
        prompts, dim = extra.get("prompts") or {}, extra.get("truncate_dim")
        settings = folder / "config_sentence_transformers.json"
        if not isinstance(prompts, dict) or not all(isinstance(value, str) for value in prompts.values()):
            raise CheckpointError(f"{settings} has prompts that are not texts")
        similarity = str(extra.get("similarity_fn_name") or "cosine")
        if similarity not in SIMILARITIES:
            raise CheckpointError(
                f"{settings} has the similarity_fn_name {similarity}: expected {', '.join(SIMILARITIES)}"
            )
        return Recipe(
            folder=place,
            routes={name: _route(chain) for name, chain in routes.items() if chain.pool is not None},
            default_route=default,
            lacking=f"{folder / 'modules.json'} has no Pooling" if not all(c.pool for c in routes.values()) else "",
            files=files,
            max_tokens=limit,
            lower=bool(text.get("do_lower_case", False)),
            prompts=prompts,
            default_prompt=extra.get("default_prompt_name"),
            truncate_dim=dim if isinstance(dim, int) and dim > 0 else None,
            similarity=similarity,
        )

    def attach(self, spec: Model, tensors: Mapping[str, Tensor]) -> tuple[Model, dict[str, Tensor]]:
        """The description of the transformer and its tensors, with the heads of all routes."""
        heads = tuple(route.head for route in self.routes.values())
        own = {
            f"embeddings.{i}.{name}": tensor
            for i, route in enumerate(self.routes.values())
            for name, tensor in route.tensors.items()
        }
        return replace(spec, embeddings=heads), {**tensors, **own}

    def with_files(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with the modules' weight files, which the key of packed weights must cover."""
        files = tuple(file for weights in self.files for file in weights.files)
        stats = tuple(stat for weights in self.files for stat in weights.stats)
        return replace(checkpoint, files=checkpoint.files + files, stats=checkpoint.stats + stats)


def _route(chain: Chain) -> Route:
    return Route(chain.head, chain.tensors, chain.include_prompt)


def _routes(folder: Path) -> tuple[Path, dict[str, Chain], str | None, tuple[Weights, ...]]:
    """The transformer's folder, the modules of each route, the default route, and all weight files of modules."""
    transformer: Path | None = None
    chains = {"": Chain()}
    default: str | None = ""
    for kind, package, place in read_modules(folder):
        if kind in TRANSFORMERS:
            if transformer is not None:
                raise CheckpointError(f"{folder / 'modules.json'} has two transformers: expected one")
            transformer = place
        elif kind in ("Router", "Asym") and package == "sentence_transformers":
            if transformer is None:
                raise CheckpointError(
                    f"{place}: a {kind} before the transformer, for routes with models of their own, is not supported: "
                    "load the folder of one route"
                )
            if set(chains) != {""}:
                raise CheckpointError(f"{place} is a second Router: expected one")
            router = read_router(place)
            config, start = _config(transformer), chains[""]
            chains = {}
            for route, modules in router.routes.items():
                chains[route] = start.copy()
                for module, package_, inner in modules:
                    chains[route].add(module, inner, package=package_, config=config)
            default = router.default
        else:
            config = _config(transformer or folder)
            for chain in chains.values():
                chain.add(kind, place, package=package, config=config)
    files = next(iter(chains.values())).files
    return transformer or folder, chains, default, tuple(files.values())


def _config(transformer: Path) -> Mapping[str, Any]:
    return read_object(transformer / "config.json")
