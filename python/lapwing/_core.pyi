"""Typed face of the compiled module. Ids cross, never strings.

``ids`` are the tokens of all sequences one after the other, int32 or uint32 [tokens]; ``starts`` are
the borders, [sequences + 1], from 0 to ``len(ids)``. Every method releases the interpreter while it
computes, can be interrupted by Ctrl-C, and raises the exceptions of ``lapwing.errors``.
"""

from collections.abc import Callable
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Generation",
    "Loader",
    "Machine",
    "Model",
    "default_threads",
    "isa",
    "normalize_spec",
    "render_template",
    "spec_tensors",
]

_Ids = NDArray[np.int32]
_Floats = NDArray[np.float32]

@final
class Machine:
    """What the machine can do at most with some threads: what benchmarks compare with."""

    def __new__(cls, *, threads: int | None = None, megabytes: int = 512) -> Machine: ...
    def multiply_adds(self) -> float:
        """f32 multiply-adds per second, in billions; the best of the bursts of 60 ms."""
    def read(self) -> float:
        """Bytes read per second from memory that no cache holds, in billions; the best reading of 60 ms."""

@final
class Loader:
    """Builds a model: takes the tensors one after the other and packs each at once.

    ``weights`` is "f32", "bf16", "f16", "q8" or "q4" ("stored": each matrix as its array's type), ``activations`` "int16",
    "int8" (of products with q8) or "bf16" (with bf16; OptionError with others), ``kv`` "f32", "f16", "q8" or "auto" (f32
    where all weights are, else f16).
    """

    def __new__(
        cls,
        spec: str,
        *,
        weights: str = "stored",
        activations: str = "int16",
        kv: str = "auto",
        threads: int | None = None,
    ) -> Loader: ...
    def tensors(self) -> list[tuple[str, list[int]]]:
        """Name and shape of every tensor that the spec needs."""
    def add(self, names: list[str], array: NDArray[Any], dtype: str) -> None:
        """Packs one array under all its ``names``; ``dtype`` is "float32", "float16" or "bfloat16" (then
        the array is uint16). 1-D, or 2-D with any strides."""
    def save(self, key: str, path: str) -> None:
        """Writes everything packed so far to a file, which appears when it is whole; CheckpointError where it cannot."""
    def restore(self, key: str, path: str) -> bool:
        """Maps a file that `save` wrote with the same key; False where there is none, or another."""
    def finish(self) -> Model:
        """The model; CheckpointError listing every tensor still missing."""

@final
class Model:
    def info(self) -> dict[str, Any]:
        """parameters, bytes, weight_types {name: bytes}, activations, kv, isa, threads."""
    def spec_json(self) -> str: ...
    def limit_prefixes(self, bytes: int) -> None:
        """Bounds what is kept of past sequences for prompts that begin as they did; forgets what is kept so far."""
    def prefixes(self) -> tuple[int, int, int]:
        """What is kept: sequences, bytes, and how many tokens were reused so far."""
    def close(self) -> None:
        """Frees the model and its generations; calls that run in other threads end soon with ModelClosedError."""
    def encode(self, ids: _Ids, starts: _Ids, segments: _Ids | None = None) -> _Floats:
        """Final hidden states of the encoder (or decoder-only stack), [tokens, hidden]."""
    def hidden_states(self, ids: _Ids, starts: _Ids, segments: _Ids | None = None) -> list[_Floats]:
        """Embedding, then each layer's output; the last one after the final norm. [tokens, hidden] each."""
    def attentions(self, ids: _Ids, layer: int, segments: _Ids | None = None) -> _Floats:
        """Attention probabilities of one layer for one sequence, [heads, tokens, tokens]."""
    def pooled(self, ids: _Ids, starts: _Ids, segments: _Ids | None = None) -> _Floats:
        """The pooler's output, [sequences, width]."""
    def head(self, ids: _Ids, starts: _Ids, segments: _Ids | None = None) -> _Floats:
        """The task head's output, [sequences or tokens, outputs]."""
    def embed(self, ids: _Ids, starts: _Ids, segments: _Ids | None, pooling: str, normalize: bool) -> _Floats:
        """Pooled hidden states, [sequences, hidden]: "mean", "first", "last", "max" or
        "mean_sqrt_len"; then unit length if ``normalize``."""
    def logits(self, ids: _Ids, starts: _Ids, segments: _Ids | None = None) -> _Floats:
        """Language-head logits at every position, [tokens, vocab]."""
    def decoder_head(self, source_ids: _Ids, source_starts: _Ids, ids: _Ids, starts: _Ids) -> _Floats: ...
    def decoder_logits(self, source_ids: _Ids, source_starts: _Ids, ids: _Ids, starts: _Ids) -> _Floats:
        """Teacher-forced logits of an encoder-decoder, [tokens, vocab]."""
    def decoder_hidden_states(
        self, source_ids: _Ids, source_starts: _Ids, ids: _Ids, starts: _Ids
    ) -> list[_Floats]: ...
    def decoder_attentions(self, source_ids: _Ids, ids: _Ids, layer: int, cross: bool) -> _Floats:
        """[heads, target tokens, source or target tokens] for one pair."""
    def generate(
        self,
        ids: _Ids,
        starts: _Ids,
        options: str,
        source_ids: _Ids | None = None,
        source_starts: _Ids | None = None,
        processor: Callable[[list[int], _Floats], _Floats] | None = None,
        draft: Model | None = None,
        limits: list[int] | None = None,
    ) -> Generation:
        """Adds prompts to the model's engine, whose steps all calls share; nothing is computed yet.

        ``options`` is the JSON of ``rust/decode/options.rs`` (unknown fields are refused). For an
        encoder-decoder ``ids`` are the decoder's prompts. ``processor(ids so far, logits) -> logits``.
        ``draft`` guesses tokens; results do not depend on it. ``limits`` are the new tokens at most for each prompt,
        in place of the option ``max_tokens``.
        """

@final
class Generation:
    """Prompts being continued. Ids are without the prompt. Calls of all threads share steps; a processor runs on the thread
    that called ``advance``."""

    def advance(self, steps: int) -> list[tuple[int, int, float, list[tuple[int, float]]]]:
        """Runs up to ``steps`` steps of these prompts (0: to the end) and returns the new tokens as
        (sequence, token, log-probability, top alternatives); the log-probabilities are 0 and empty
        unless asked for. With beams tokens appear only in ``results``. Empty once ``finished``."""
    def finished(self) -> bool: ...
    def unfinished(self) -> int:
        """How many prompts are not at their end."""
    def stop(self, sequence: int, reason: str) -> None:
        """Ends one sequence, e.g. because its text holds a stop string."""
    def results(self) -> list[list[tuple[list[int], float, str, list[tuple[float, list[tuple[int, float]]]]]]]:
        """Per prompt its hypotheses, best first: (ids, score, finish reason "stop" | "length" | "time" | ..., and of a
        beam search, if asked for, of each token its log-probability and the likeliest tokens with theirs)."""
    def close(self) -> None:
        """Leaves the batch; may be called from another thread, and stops a running ``advance``."""

def default_threads() -> int: ...
def isa() -> str:
    """The instruction set in use: "scalar", "avx2", "avxvnni", "avx512", "neon", "dotprod" or "i8mm"."""

def normalize_spec(spec: str) -> str:
    """Reads a spec into Rust and writes it back."""

def spec_tensors(spec: str) -> list[tuple[str, list[int]]]:
    """Name and shape of every tensor that a spec needs."""

def render_template(source: str, variables: str) -> str:
    """Renders a chat template (jinja) with JSON variables, bounded in steps, depth and output."""

def process_logits(
    logits: _Floats, options: str, ids: list[int], prompt: int, max_length: int, source: list[int]
) -> tuple[_Floats, NDArray[np.float64]]:
    """Logits [vocab] as the options of a generation change them, and the probability that each token is then drawn.

    ``ids`` are those so far, of which the first ``prompt`` were given; ``source`` is the encoder's input, or the
    prompt. The logits are before temperature and filters.
    """
