"""The base of all loaded models: the compiled model, its tokenizer, closing and pickling."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import numpy as np

from .. import foreign
from ..checkpoint import Config, Recipe
from ..errors import ModelClosedError
from ..progress import Callback, Progress
from ..results import ModelInfo
from ..tokenizer import Tokenizer
from . import arguments
from .options import GenerateOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

    from .. import _core
    from ..spec import Model as Spec

LOGIT_BYTES = 256 << 20
"""Bound of the logits in memory where those of every position are needed."""

Item = TypeVar("Item")
Result = TypeVar("Result")
IdList: TypeAlias = "Sequence[int] | NDArray[np.integer[Any]]"
"""The token ids of one sequence."""

DEFAULT_BATCH_TOKENS = 8192
"""Tokens per batch: enough rows to keep all cores busy, and little memory even for wide models."""


@dataclass(frozen=True)
class LoadedParts:
    """What `loading` gives a model.

    Attributes:
        core: the compiled model.
        folder: the checkpoint's folder.
        config: config.json.
        spec: the description that ``core`` was built from.
        identity: the name under which the checkpoint can be loaded again.
        options: the options of `load` that differ from None.
        reload: loads the model again from ``identity`` and ``options``, for pickling.
        architecture: ``model_type`` of config.json.
        task: the task that was requested, if any.
        generation: generation_config.json with the overrides of the call.
        recipe: how to pool embeddings, for an embedding model.
    """

    core: _core.Model
    folder: Path
    config: Config
    spec: Spec
    identity: str
    options: dict[str, Any]
    reload: Callable[[str, Mapping[str, Any]], Any]
    architecture: str
    task: str | None
    generation: Mapping[str, Any] | None = None
    recipe: Recipe | None = None


class BaseModel:
    """A loaded model, returned by `lapwing.load`. It is a context manager; pickling stores its name and
    options, and unpickling loads it again.

    A model may be used from several threads; its computations are serialized.
    """

    kind: ClassVar[str] = "model"

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Public methods name the right option where a caller gives one of another library."""
        super().__init_subclass__(**keywords)
        foreign.check_methods(cls, GenerateOptions.__annotations__)

    if not TYPE_CHECKING:  # a type checker would otherwise accept any attribute

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            raise foreign.missing_attribute(self, name, _methods(BaseModel))

    def __init__(self, parts: LoadedParts) -> None:
        self._parts = parts
        self._core: _core.Model | None = parts.core
        self._tokenizer: Tokenizer | None = None
        self._lock = threading.Lock()

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, read when first used."""
        with self._lock:
            if self._tokenizer is None:
                recipe = self._parts.recipe
                self._tokenizer = Tokenizer(self._parts.folder, lowercase=recipe is not None and recipe.lower)
            return self._tokenizer

    @property
    def config(self) -> Config:
        """The checkpoint's config.json, a mapping."""
        return self._parts.config

    @property
    def spec(self) -> Spec:
        """The description that the model was built from."""
        return self._parts.spec

    @property
    def core(self) -> _core.Model:
        """The compiled model.

        Raises:
            ModelClosedError: the model is closed.
        """
        core = self._core
        if core is None:
            raise ModelClosedError(f"the model {self._parts.identity} is closed: load it again")
        return core

    @property
    def max_length(self) -> int | None:
        """The maximum sequence length in tokens."""
        stack = self.spec.decoder or self.spec.encoder
        return None if stack is None else stack_length(stack)

    def info(self) -> ModelInfo:
        """Size, weight types, instruction set and threads."""
        facts = self.core.info()
        stack = self.spec.decoder or self.spec.encoder
        return ModelInfo(
            id=self._parts.identity,
            kind=self.kind,
            architecture=self._parts.architecture,
            task=self._parts.task,
            parameters=int(facts["parameters"]),
            bytes=int(facts["bytes"]),
            weight_types={str(name): int(size) for name, size in facts["weight_types"].items()},
            activations=str(facts["activations"]),
            kv=str(facts["kv"]),
            isa=str(facts["isa"]),
            threads=int(facts["threads"]),
            vocab_size=0 if stack is None else stack.stem.vocab_size,
            max_length=self.max_length,
        )

    def close(self) -> None:
        """Frees the weights, the caches and all unfinished streams; also called at the end of a ``with``
        block.

        Any thread may call it at any time, and it does not block: calls running in other threads, and open
        streams, end soon with `ModelClosedError` and release their memory then. Later computations raise the
        same error; the tokenizer and the configuration remain usable. Closing twice has no effect.
        """
        core, self._core = self._core, None
        if core is not None:
            core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self._core is not None else ", closed"
        return f"{type(self).__name__}({self._parts.identity!r}, architecture={self._parts.architecture!r}{state})"

    def __reduce__(self) -> tuple[Any, ...]:
        return self._parts.reload, (self._parts.identity, dict(self._parts.options))

    # -- helpers for derived classes ---------------------------------------------------------------

    def _check_ids(self, ids: Any, vocab_size: int, limit: int | None, what: str = "ids") -> list[int]:
        """Validated ids of one sequence."""
        return arguments.ids(ids, vocab_size, limit, what)

    def _logit_tokens(self, batch_tokens: int) -> int:
        """``batch_tokens``, reduced if the vocabulary is large."""
        stack = self.spec.decoder or self.spec.encoder
        width = 1 if stack is None else stack.stem.vocab_size
        return min(arguments.whole("batch_tokens", batch_tokens), max(1, LOGIT_BYTES // (4 * width)))

    def _map(
        self,
        items: Sequence[Item],
        size: Callable[[Item], int],
        run: Callable[[list[Item]], list[Result]],
        *,
        batch_tokens: int,
        progress: bool | Callback | None,
        what: str,
    ) -> list[Result]:
        """Runs batches of similarly sized items within the token budget, and restores the order of the
        items."""
        arguments.whole("batch_tokens", batch_tokens)
        sizes = [size(item) for item in items]
        order = sorted(range(len(items)), key=lambda index: -sizes[index])
        results: list[Any] = [None] * len(items)
        with Progress(progress, len(items), what) as bar:
            start = 0
            while start < len(order):
                stop, total = start, 0
                while stop < len(order) and (stop == start or total + sizes[order[stop]] <= batch_tokens):
                    total += sizes[order[stop]]
                    stop += 1
                batch = order[start:stop]
                for index, result in zip(batch, run([items[index] for index in batch]), strict=True):
                    results[index] = result
                bar.advance(len(batch))
                start = stop
        return results


def _methods(base: type) -> dict[str, type]:
    """The public methods of all classes of models, and a class that `load` returns that has each."""
    found: dict[str, type] = {}
    kind: type
    for kind in base.__subclasses__():
        found.update(_methods(kind))
        if not kind.__subclasses__():
            found.update({name: kind for name in dir(kind) if not name.startswith("_")})
    return found


def stack_length(stack: Any) -> int | None:
    """The maximum sequence length of a stack: the rows of its position table, or the bound of the
    configuration."""
    if stack.stem.positions:
        return int(stack.stem.positions)
    return int(stack.max_length) if stack.max_length else None


def split_rows(rows: NDArray[np.float32], starts: NDArray[np.int32]) -> list[NDArray[np.float32]]:
    """The inverse of `ragged`: the rows of each sequence."""
    return [rows[first:last] for first, last in pairwise(starts)]


def ragged(sequences: Sequence[IdList]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The concatenated ids of all sequences, and the offsets of the sequences."""
    starts = np.zeros(len(sequences) + 1, np.int32)
    starts[1:] = np.cumsum([len(ids) for ids in sequences])
    flat = np.empty(int(starts[-1]), np.int32)
    for index, ids in enumerate(sequences):
        flat[starts[index] : starts[index + 1]] = ids
    return flat, starts
