"""How a checkpoint turns texts into embeddings: the files of sentence-transformers around the transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from ..spec import Dense, Head, Model, UnitLength
from .json_file import read_object
from .late import LateInteraction, of_modules, of_pylate, of_stanford
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
        sparse: the recipe makes weights of the vocabulary's terms instead of a vector (SPLADE): whether it sums them
            over the tokens instead of taking the maximum, and how many times it takes the logarithm.
        late: the recipe makes a vector of each token, compared one by one (ColBERT).
        static: the folder has a table of vectors by token and no transformer; texts get no special tokens.
        stored: names of the heads' tensors among those of the transformer, by name in the first head.
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
    sparse: tuple[bool, int] | None = None
    late: LateInteraction | None = None
    static: bool = False
    stored: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def mean(folder: Path) -> Recipe:
        """The recipe of a folder without one: the mean of the states."""
        return Recipe(folder=folder, routes={"": Route(Head(pool=("mean",)))}, published=False)

    @staticmethod
    def read(folder: Path) -> Recipe | None:
        """The recipe of a folder, or None if it is not an embedding model of sentence-transformers."""
        extra = read_object(folder / "config_sentence_transformers.json")
        if (folder / "artifact.metadata").is_file() and not (folder / "modules.json").is_file():
            return _stanford(folder)
        if not (folder / "modules.json").is_file() or extra.get("model_type") == "CrossEncoder":
            return None
        found = _routes(folder)
        place, routes, late = found.transformer, found.chains, found.late
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
        if late is None and found.pylate:
            late = of_pylate(extra, settings)
        if similarity not in (*SIMILARITIES, "maxsim" if late is not None else ""):
            raise CheckpointError(
                f"{settings} has the similarity_fn_name {similarity}: expected {', '.join(SIMILARITIES)}"
            )
        return Recipe(
            folder=place,
            routes={name: _route(chain, late) for name, chain in routes.items() if late is not None or chain.pool},
            default_route=found.default,
            lacking=f"{folder / 'modules.json'} has no Pooling",
            files=tuple(next(iter(routes.values())).files.values()),
            sparse=found.sparse,
            late=late,
            static=found.static,
            max_tokens=limit,
            lower=bool(text.get("do_lower_case", False)),
            prompts=prompts,
            default_prompt=extra.get("default_prompt_name"),
            truncate_dim=dim if isinstance(dim, int) and dim > 0 else None,
            similarity=similarity,
        )

    def attach(
        self, spec: Model, tensors: Mapping[str, Tensor], checkpoint: Checkpoint, unused: list[str]
    ) -> tuple[Model, dict[str, Tensor]]:
        """The description of the transformer and its tensors, with the heads of all routes; tensors of the checkpoint
        that the heads use leave ``unused``."""
        heads = tuple(route.head for route in self.routes.values())
        own = {
            f"embeddings.{i}.{name}": tensor
            for i, route in enumerate(self.routes.values())
            for name, tensor in route.tensors.items()
        }
        for name, theirs in self.stored.items():
            if theirs in checkpoint.tensors:
                own[f"embeddings.0.{name}"] = checkpoint.tensors[theirs]
                unused[:] = [one for one in unused if one != theirs]
        return replace(spec, embeddings=heads), {**tensors, **own}

    def with_files(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with the modules' weight files, which the key of packed weights must cover."""
        files = tuple(file for weights in self.files for file in weights.files)
        stats = tuple(stat for weights in self.files for stat in weights.stats)
        return replace(checkpoint, files=checkpoint.files + files, stats=checkpoint.stats + stats)


def _route(chain: Chain, late: LateInteraction | None) -> Route:
    head = chain.head
    if late is not None and (not head.layers or not isinstance(head.layers[-1], UnitLength)):
        # pylate normalizes outside of its modules.
        head = replace(head, layers=(*head.layers, UnitLength()))
    return Route(head, chain.tensors, chain.include_prompt)


def _stanford(folder: Path) -> Recipe:
    """The recipe of a folder of the ColBERT repository: a linear layer beside the transformer's weights."""
    path = folder / "artifact.metadata"
    size = read_object(path).get("dim")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise CheckpointError(f"{path} has dim {size!r}: expected a whole number from 1")
    head = Head(pool=(), layers=(Dense(outputs=size, bias=False), UnitLength()))
    stored = {"0.weight": "linear.weight"}
    return Recipe(folder=folder, routes={"": Route(head)}, late=of_stanford(path), stored=stored, similarity="maxsim")


@dataclass
class _Found:
    """What modules.json lists."""

    transformer: Path
    chains: dict[str, Chain]
    default: str | None = ""
    sparse: tuple[bool, int] | None = None
    late: LateInteraction | None = None
    pylate: bool = False
    static: bool = False


def _splade(place: Path) -> tuple[bool, int]:
    config = read_object(place / "config.json")
    pool, activation = config.get("pooling_strategy", "max"), config.get("activation_function", "relu")
    if pool not in ("max", "sum") or activation not in ("relu", "log1p_relu"):
        raise CheckpointError(
            f"{place / 'config.json'} has the pooling_strategy {pool!r} and the activation_function {activation!r}: "
            "expected max or sum, and relu or log1p_relu"
        )
    return pool == "sum", 2 if activation == "log1p_relu" else 1


def _routes(folder: Path) -> _Found:
    """The transformer's folder, and the modules of each route."""
    found = _Found(folder, {"": Chain()})
    seen = False
    for kind, package, place in read_modules(folder):
        ours = package == "sentence_transformers"
        if kind in TRANSFORMERS:
            if seen:
                raise CheckpointError(f"{folder / 'modules.json'} has two transformers: expected one")
            found.transformer, seen = place, True
        elif kind in ("Router", "Asym") and ours:
            if not seen:
                raise CheckpointError(
                    f"{place}: a {kind} before the transformer, for routes with models of their own, is not supported: "
                    "load the folder of one route"
                )
            if set(found.chains) != {""}:
                raise CheckpointError(f"{place} is a second Router: expected one")
            router = read_router(place)
            config, start = read_object(found.transformer / "config.json"), found.chains[""]
            found.chains, found.default = {}, router.default
            for route, modules in router.routes.items():
                found.chains[route] = start.copy()
                for module, package_, inner in modules:
                    found.chains[route].add(module, inner, package=package_, config=config)
        elif kind == "StaticEmbedding" and ours:
            if seen:
                raise CheckpointError(f"{folder / 'modules.json'} has a transformer and a {kind}: expected one of them")
            found.transformer, found.static, seen = place, True, True
            found.chains[""].pool = ("mean",)
        elif kind == "SpladePooling" and ours:
            found.sparse = _splade(place)
        elif kind == "MultiVectorMask" and ours:
            found.late = of_modules(place, found.transformer)
        else:
            found.pylate = found.pylate or package == "pylate"
            config = read_object(found.transformer / "config.json")
            for chain in found.chains.values():
                chain.add(kind, place, package=package, config=config)
    return found
