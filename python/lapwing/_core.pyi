"""Typed face of the compiled module. Ids cross, never strings.

``ids`` are the tokens of all sequences one after the other, int32 or uint32 [tokens]; ``starts`` are
the borders, [sequences + 1], from 0 to ``len(ids)``. Every method releases the interpreter while it
computes, can be interrupted by Ctrl-C, and raises the exceptions of ``lapwing.errors``.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Floats = NDArray[np.float32]

class Error(Exception): ...
class CheckpointError(Error, ValueError): ...
class SpecError(Error, ValueError): ...
class OptionError(Error, ValueError): ...
class ContextLengthError(Error, ValueError): ...
class NumericalError(Error, ArithmeticError): ...
class InternalError(Error, RuntimeError): ...

class Machine:
    """What the machine can do at most with some threads: what benchmarks compare with."""

    def __init__(self, *, threads: int | None = None, megabytes: int = 512) -> None: ...
    def multiply_adds(self) -> float:
        """f32 multiply-adds per second, in billions; the best of ten bursts."""
    def read(self) -> float:
        """Bytes read per second from memory that no cache holds, in billions; one reading."""

class Loader:
    """Builds a model: takes the tensors one after the other and packs each at once.

    ``weights`` is "f32", "bf16", "f16", "q8" or "q4" ("stored": each matrix as its array's type), ``activations`` of
    products with q8 "int16" or "int8", ``kv`` "f32", "f16", "q8" or "auto" (f32 where all weights are, else f16).
    """

    def __init__(
        self,
        spec: str,
        *,
        weights: str = "stored",
        activations: str = "int16",
        kv: str = "auto",
        threads: int | None = None,
    ) -> None: ...
    def tensors(self) -> list[tuple[str, list[int]]]:
        """Name and shape of every tensor that the spec needs."""
    def add(self, names: list[str], array: NDArray[Any], dtype: str) -> None:
        """Packs one array under all its ``names``; ``dtype`` is "float32", "float16" or "bfloat16" (then
        the array is uint16). 1-D, or 2-D with any strides."""
    def finish(self) -> Model:
        """The model; CheckpointError listing every tensor still missing."""

class Model:
    def info(self) -> dict[str, Any]:
        """parameters, bytes, weight_types {name: bytes}, activations, kv, isa, threads."""
    def spec_json(self) -> str: ...
    def close(self) -> None: ...
    def encode(self, ids: Ids, starts: Ids, segments: Ids | None = None) -> Floats:
        """Final hidden states of the encoder (or decoder-only stack), [tokens, hidden]."""
    def hidden_states(self, ids: Ids, starts: Ids, segments: Ids | None = None) -> list[Floats]:
        """Embedding, then each layer's output; the last one after the final norm. [tokens, hidden] each."""
    def attentions(self, ids: Ids, layer: int, segments: Ids | None = None) -> Floats:
        """Attention probabilities of one layer for one sequence, [heads, tokens, tokens]."""
    def pooled(self, ids: Ids, starts: Ids, segments: Ids | None = None) -> Floats:
        """The pooler's output, [sequences, width]."""
    def head(self, ids: Ids, starts: Ids, segments: Ids | None = None) -> Floats:
        """The task head's output, [sequences or tokens, outputs]."""
    def embed(self, ids: Ids, starts: Ids, segments: Ids | None, pooling: str, normalize: bool) -> Floats:
        """Pooled hidden states, [sequences, hidden]: "mean", "first", "last", "max" or
        "mean_sqrt_len"; then unit length if ``normalize``."""
    def logits(self, ids: Ids, starts: Ids, segments: Ids | None = None) -> Floats:
        """Language-head logits at every position, [tokens, vocab]."""
    def decoder_logits(self, source_ids: Ids, source_starts: Ids, ids: Ids, starts: Ids) -> Floats:
        """Teacher-forced logits of an encoder-decoder, [tokens, vocab]."""
    def decoder_hidden_states(self, source_ids: Ids, source_starts: Ids, ids: Ids, starts: Ids) -> list[Floats]: ...
    def decoder_attentions(self, source_ids: Ids, ids: Ids, layer: int, cross: bool) -> Floats:
        """[heads, target tokens, source or target tokens] for one pair."""
    def generate(
        self,
        ids: Ids,
        starts: Ids,
        options: str,
        source_ids: Ids | None = None,
        source_starts: Ids | None = None,
        processor: Callable[[list[int], Floats], Floats] | None = None,
    ) -> Generation:
        """Starts generation for a batch of prompts; nothing is computed yet.

        ``options`` is the JSON of ``rust/decode/options.rs`` (unknown fields are refused). For an
        encoder-decoder ``ids`` are the decoder's prompts. ``processor(ids so far, logits) -> logits``.
        """

class Generation:
    """A batch being decoded. Ids are without the prompt."""

    def advance(self, steps: int) -> list[tuple[int, int, float, list[tuple[int, float]]]]:
        """Runs up to ``steps`` steps (0: to the end) and returns the new tokens as
        (sequence, token, log-probability, top alternatives); the log-probabilities are 0 and empty
        unless asked for. With beams tokens appear only in ``results``. Empty once ``finished``."""
    def finished(self) -> bool: ...
    def stop(self, sequence: int, reason: str) -> None:
        """Ends one sequence, e.g. because its text holds a stop string."""
    def results(self) -> list[list[tuple[list[int], float, str]]]:
        """Per prompt its hypotheses, best first: (ids, score, finish reason "stop" | "length" | ...)."""
    def close(self) -> None:
        """Frees the cache; may be called from another thread, and stops a running ``advance``."""

def default_threads() -> int: ...
def isa() -> str:
    """The instruction set in use: "scalar", "avx2", "avx512" or "neon"."""

def normalize_spec(spec: str) -> str:
    """Reads a spec into Rust and writes it back."""

def render_template(source: str, variables: str) -> str:
    """Renders a chat template (jinja) with JSON variables, bounded in steps, depth and output."""
