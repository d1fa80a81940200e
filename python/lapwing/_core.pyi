"""Types of the compiled module, whose interface takes token ids and arrays, never text.

``ids`` are the concatenated tokens of all sequences, int32 or uint32 [tokens]; ``starts`` are the offsets of
the sequences, [sequences + 1], from 0 to ``len(ids)``. Every method releases the GIL while it computes, can
be interrupted by Ctrl-C, and raises the exceptions of ``lapwing.errors``.
"""

from collections.abc import Callable, Sequence
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
    "process_logits",
    "render_template",
    "spec_tensors",
    "weight_sizes",
]

_Ids = NDArray[np.int32]
_Floats = NDArray[np.float32]

@final
class Machine:
    """Measured limits of the machine for a number of threads: the roofline of benchmarks."""

    def __new__(cls, *, threads: int | None = None, megabytes: int = 512) -> Machine: ...
    def multiply_adds(self) -> float:
        """Billions of f32 multiply-adds per second: the best burst of 60 ms."""
    def read(self) -> float:
        """Read bandwidth of uncached memory in GB/s: the best burst of 60 ms."""

@final
class Loader:
    """Builds a model: takes the tensors one by one and packs each immediately.

    ``weights`` is "f32", "bf16", "f16", "q8", "q4" or "stored" (each matrix in the type of its array);
    ``activations`` is "int16", "int8" (q8 weights only) or "bf16" (bf16 weights only; OptionError otherwise);
    ``kv`` is "f32", "f16", "q8" or "auto" (f32 if all weights are f32, else f16).
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
        """Name and shape of every tensor that the spec requires."""
    def add(self, names: list[str], array: NDArray[Any], dtype: str) -> None:
        """Packs an array under all its ``names``; ``dtype`` is "float32", "float16" or "bfloat16" (a uint16
        array). 1-D, or 2-D with any strides."""
    def save(self, key: str, path: str) -> None:
        """Writes all packed weights to a file atomically; CheckpointError if that fails."""
    def restore(self, key: str, path: str) -> bool:
        """Maps a file written by `save` with the same key; False if it is missing or its key differs."""
    def finish(self) -> Model:
        """The model; CheckpointError lists every missing tensor."""

@final
class Model:
    def info(self) -> dict[str, Any]:
        """parameters, bytes, weight_types {name: bytes}, activations, kv, isa, threads."""
    def spec_json(self) -> str: ...
    def limit_prefixes(self, bytes: int) -> None:
        """Bounds the prefix cache (keys and values of past sequences) and clears it."""
    def prefixes(self) -> tuple[int, int, int]:
        """The prefix cache: sequences, bytes, and the number of tokens reused so far."""
    def close(self) -> None:
        """Frees the model and its generations; calls running in other threads end soon with
        ModelClosedError."""
    def encode(self, ids: _Ids, starts: _Ids, segments: _Ids | None = None) -> _Floats:
        """Final hidden states of the encoder (or of a decoder-only stack), [tokens, hidden]."""
    def hidden_states(self, ids: _Ids, starts: _Ids, segments: _Ids | None = None) -> list[_Floats]:
        """Hidden states of all layers: the embedding, then each layer's output, the last after the final
        norm; [tokens, hidden] each."""
    def attentions(self, ids: _Ids, layer: int, segments: _Ids | None = None) -> _Floats:
        """Attention probabilities of one layer for one sequence, [heads, tokens, tokens]."""
    def pooled(self, ids: _Ids, starts: _Ids, segments: _Ids | None = None) -> _Floats:
        """The pooler's output, [sequences, width]."""
    def head(self, ids: _Ids, starts: _Ids, segments: _Ids | None = None) -> _Floats:
        """The task head's output, [sequences or tokens, outputs]."""
    def embed(
        self,
        ids: _Ids,
        starts: _Ids,
        route: int = 0,
        skip: int = 0,
        size: int | None = None,
        normalize: bool | None = None,
        unseen: Sequence[int] | None = None,
    ) -> _Floats:
        """Embeddings by the head ``route``, [sequences, width], or [tokens, width] where it does not pool.

        The poolings leave out the first ``skip`` tokens; ``size`` keeps the first dimensions; ``normalize`` gives
        rows unit length at the end, or leaves out that the head does it; no token attends to
        the last ``unseen`` tokens of each sequence."""
    def term_weights(self, ids: _Ids, starts: _Ids, sum: bool, logs: int) -> _Floats:
        """The maximum over the tokens, or the sum, of log(1 + max(logit, 0)), [sequences, vocab]; ``logs`` is how many
        times the logarithm is taken."""
    def logits(self, ids: _Ids, starts: _Ids, segments: _Ids | None = None) -> _Floats:
        """Language-head logits at every position, [tokens, vocab]."""
    def state_logits(self, states: _Floats, normed: bool) -> _Floats:
        """Language-head logits of given hidden states, [rows, vocab]; unless ``normed``, the final norm is applied
        first."""
    def decoder_head(self, source_ids: _Ids, source_starts: _Ids, ids: _Ids, starts: _Ids) -> _Floats:
        """The task head's output on the decoder of an encoder-decoder."""
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
        row: int | None = None,
    ) -> Generation:
        """Adds prompts to the model's engine, whose steps all calls share; nothing is computed yet.

        ``options`` is the JSON of ``rust/decode/options.rs`` (unknown fields are refused). For an
        encoder-decoder ``ids`` are the decoder's prompts. ``processor(ids so far, logits) -> logits``.
        ``draft`` guesses tokens; results do not depend on it. ``limits`` are the maximum new tokens of each prompt,
        in place of the option ``max_tokens``. ``row`` makes the call one of several that share steps though one
        thread advances them in turn: the number of its first prompt among those of all, for random draws.
        """

@final
class Generation:
    """Prompts being continued. Ids are without the prompt. Calls of all threads share steps; a processor runs on the
    thread that called ``advance``."""

    def advance(self, steps: int) -> list[tuple[int, int, float, list[tuple[int, float]]]]:
        """Runs up to ``steps`` steps of these prompts (0: to the end) and returns the new tokens as
        (sequence, token, log-probability, top alternatives); log-probability and alternatives are 0 and
        empty unless requested. With beams tokens appear only in ``results``. Empty once ``finished``."""
    def finished(self) -> bool: ...
    def unfinished(self) -> int:
        """The number of prompts that have not finished."""
    def stop(self, sequence: int, reason: str) -> None:
        """Ends one sequence, e.g. because its text contains a stop string."""
    def results(self) -> list[list[tuple[list[int], float, str, list[tuple[float, list[tuple[int, float]]]]]]]:
        """The hypotheses of each prompt, best first: (ids, score, finish reason "stop" | "length" | "time", and for a
        beam search, if requested, each token's log-probability and the top tokens with theirs)."""
    def close(self) -> None:
        """Frees the cache and stops a running ``advance``; may be called from another thread."""

def default_threads() -> int: ...
def isa() -> str:
    """The instruction set in use: "scalar", "avx2", "avxvnni", "avx512", "neon", "dotprod" or "i8mm"."""

def normalize_spec(spec: str) -> str:
    """Parses a spec in Rust and serializes it again."""

def spec_tensors(spec: str) -> list[tuple[str, list[int]]]:
    """Name and shape of every tensor that a spec requires."""

def weight_sizes(spec: str, weights: str, tensors: list[tuple[list[str], str]]) -> tuple[int, dict[str, int]]:
    """The number of parameters, and the bytes in memory of each weight type, of the tensors of a spec, which are given
    as the names of each and its stored dtype. Reads no weights."""

def render_template(source: str, variables: str) -> str:
    """Renders a chat template (Jinja) with JSON variables; steps, depth and output size are bounded."""

def process_logits(
    logits: _Floats, options: str, ids: list[int], prompt: int, max_length: int, source: list[int]
) -> tuple[_Floats, NDArray[np.float64]]:
    """Applies the logits processors of a generation: returns the processed logits [vocab], before temperature
    and filters, and the probability of drawing each token.

    ``ids`` are the prompt and the tokens so far, ``prompt`` is the prompt's length; ``source`` is the
    encoder's input, or the prompt of a decoder.
    """
