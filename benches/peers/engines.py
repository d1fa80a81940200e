"""One engine in a process of its own: ``python -m peers.engines ENGINE VARIANT FOLDER [TEXT]``.

Reads a JSON object a line, ``{"work": method, ...arguments}``, does it and answers ``{"seconds": ..., "units": ...}``,
``"multiply_adds"`` where only the engine knows how many the work takes, and ``"avx512"``, whether it used AVX-512, if
the system reports it. Preparation (reading a long context) is not timed. Two threads everywhere. It answers when all
its threads are idle.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from peers import inputs

THREADS = 2
TRANSLATED = 32
"""New tokens of each translation, forced."""
WARM = 4
"""Tokens decoded before the clock starts: threads that wake up share a core for some milliseconds."""
REST, PATIENCE = 0.02, 5.0
"""Seconds in which threads that rest take less than a twentieth of a core, and how long that is waited for."""


def random_ids(count: int, seed: int = 0, vocab: int = 30000) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(16, vocab, count)]


def sources() -> list[list[int]]:
    """64 sources of 8 to 40 tokens."""
    return [random_ids(int(n), seed) for seed, n in enumerate(np.random.default_rng(0).integers(8, 40, 64))]


def texts(path: str) -> dict[str, list[list[int]]]:
    """Token ids: 512 sentences as they are, and 64 texts of 16 sentences, cut at 256 tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(inputs.minilm() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    short = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()][:512]
    long = [" ".join(short[i : i + 16]) for i in range(0, 256, 4)]
    return {name: [e.ids for e in tokenizer.encode_batch(t)] for name, t in (("short", short), ("long", long))}


def clock(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def settle() -> None:
    """Waits until no thread of this process computes: some engines' spin for 10 to 80 ms after their work.

    The next engine needs their core.

    Raises:
        RuntimeError: they do not become idle.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        before = time.process_time()
        time.sleep(REST)
        if time.process_time() - before < REST / 20:
            return
    raise RuntimeError(f"threads still compute {PATIENCE:g} s after the work: others cannot be measured beside them")


def used_avx512(seconds: float) -> bool | None:
    """Whether a thread of this process used AVX-512 registers within the last seconds, as Linux records when it
    deschedules the thread; None if the system does not report it."""
    found = None
    for path in Path("/proc/self/task").glob("*/arch_status"):
        with suppress(OSError):  # a thread that ended meanwhile
            for name, _, value in (line.partition(":") for line in path.read_text().splitlines()):
                if name == "AVX512_elapsed_ms":
                    found = bool(found) or 0 <= int(value) < 1000 * seconds
    return found


class Lapwing:
    """VARIANT is "weights[:activations]"."""

    def __init__(self, shape: str, variant: str, folder: Path, text: str) -> None:
        import lapwing

        weights, _, activations = variant.partition(":")
        if shape == "opus-mt":
            path = inputs.marian(folder)
        elif shape == "minilm":
            path = inputs.minilm()
            self._texts = texts(text)
        else:
            path = inputs.checkpoint(shape, folder)
        options: dict[str, Any] = {"weights": weights, "threads": THREADS, "activations": activations or "int16"}
        self.model = lapwing.load(path, **options)
        self._running: dict[tuple[int, int], Any] = {}
        self._prompts = 0

    def prefill(self, tokens: int) -> tuple[float, int]:
        # Another prompt each time: prefixes in common with an earlier one would not be computed again.
        self._prompts += 1
        ids = random_ids(tokens, self._prompts)
        options: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "ignore_eos": True}
        return clock(lambda: self.model.generate_ids(ids, **options)), tokens

    def decode(self, tokens: int, context: int, batch: int) -> tuple[float, int]:
        from lapwing.cli.bench import start_decoding

        key = (context, batch)
        if key not in self._running:
            prompts = [random_ids(context, seed) for seed in range(batch)]
            self._running[key] = start_decoding(self.model, prompts, 2048)
            self._running[key].advance(1)
        self._running[key].advance(WARM)
        return clock(lambda: self._running[key].advance(tokens)), tokens * batch

    def encode(self, kind: str) -> tuple[float, int, int]:
        from lapwing.cost import products

        ids = self._texts[kind]
        seconds = clock(lambda: self.model.encode(ids))
        return seconds, len(ids), sum(products(self.model.spec.encoder, len(one)) for one in ids)

    def translate(self, beams: int, batch: int) -> tuple[float, int]:
        found = sources()[: 8 if batch == 1 else 64]
        options: dict[str, Any] = {"beams": beams, "min_tokens": TRANSLATED, "max_tokens": TRANSLATED}

        def run() -> None:
            for i in range(0, len(found), batch):
                self.model.generate_ids(found[i : i + batch], temperature=0, **options)

        return clock(run), len(found) * TRANSLATED


class LlamaCpp:
    """VARIANT is a type of gguf file."""

    def __init__(self, shape: str, variant: str, folder: Path, text: str) -> None:
        import llama_cpp

        self._c = llama_cpp
        path = inputs.gguf_file(shape, variant, folder)
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        self._contexts: dict[tuple[int, int], list[Any]] = {}

    def _context(self, length: int, sequences: int) -> Any:
        parameters = self._c.llama_context_default_params()
        parameters.n_ctx = length * sequences
        parameters.n_batch = parameters.n_ubatch = 512
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = THREADS
        return self._c.llama_init_from_model(self._model, parameters)

    def _feed(self, context: Any, rows: list[tuple[int, int, int, bool]]) -> None:
        """Rows of (token, position, sequence, whether its logits are wanted)."""
        batch = self._c.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        if self._c.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        self._c.llama_batch_free(batch)

    def _choose(self, context: Any, row: int) -> int:
        size = self._c.llama_vocab_n_tokens(self._c.llama_model_get_vocab(self._model))
        return int(np.ctypeslib.as_array(self._c.llama_get_logits_ith(context, row), (size,)).argmax())

    def _prompt(self, context: Any, ids: list[int], sequence: int = 0) -> int:
        for at in range(0, len(ids), 512):
            part = ids[at : at + 512]
            self._feed(context, [(t, at + i, sequence, at + i == len(ids) - 1) for i, t in enumerate(part)])
        return self._choose(context, len(ids) % 512 - 1 if len(ids) % 512 else 511)

    def prefill(self, tokens: int) -> tuple[float, int]:
        key = (tokens, 0)
        if key not in self._contexts:
            self._contexts[key] = [self._context(tokens + 8, 1)]
        context = self._contexts[key][0]
        self._c.llama_memory_clear(self._c.llama_get_memory(context), True)
        ids = random_ids(tokens)
        return clock(lambda: self._prompt(context, ids)), tokens

    def decode(self, tokens: int, context: int, batch: int) -> tuple[float, int]:
        key = (context, batch)
        if key not in self._contexts:
            made = self._context(context + 2048, batch)
            last = [self._prompt(made, random_ids(context, seed), seed) for seed in range(batch)]
            self._contexts[key] = [made, last, context]
        state = self._contexts[key]

        def run(count: int) -> None:
            made, last, position = state
            for _ in range(count):
                self._feed(made, [(last[s], position, s, True) for s in range(batch)])
                last = [self._choose(made, s) for s in range(batch)]
                position += 1
            state[1:] = [last, position]

        run(WARM)
        return clock(lambda: run(tokens)), tokens * batch


class CTranslate2:
    """VARIANT is a compute type."""

    def __init__(self, shape: str, variant: str, folder: Path, text: str) -> None:
        import ctranslate2

        if shape == "opus-mt":
            path = inputs.marian_ct2(folder, variant)
            options = {"device": "cpu", "compute_type": variant, "inter_threads": 1, "intra_threads": THREADS}
            self._translator = ctranslate2.Translator(str(path), **options)
            return
        path = folder / "minilm-ct2"
        if not (path / "model.bin").is_file():
            ctranslate2.converters.TransformersConverter(str(inputs.minilm())).convert(str(path), force=True)
        self._encoder = ctranslate2.Encoder(str(path), compute_type=variant, intra_threads=THREADS)
        self._texts = texts(text)

    def translate(self, beams: int, batch: int) -> tuple[float, int]:
        found = [[f"t{i}" for i in source] for source in sources()[: 8 if batch == 1 else 64]]
        options = {"beam_size": beams, "max_decoding_length": TRANSLATED, "min_decoding_length": TRANSLATED}

        def run() -> None:
            for i in range(0, len(found), batch):
                self._translator.translate_batch(found[i : i + batch], max_batch_size=batch, **options)

        return clock(run), len(found) * TRANSLATED

    def encode(self, kind: str) -> tuple[float, int]:
        ids = sorted(self._texts[kind], key=len, reverse=True)
        batches = [ids[i : i + 32] for i in range(0, len(ids), 32)]

        def run() -> None:
            for batch in batches:
                np.asarray(self._encoder.forward_batch(batch).last_hidden_state)

        return clock(run), len(ids)


class Onnx:
    """Encoders on padded batches of 32, sorted by length; VARIANT is "f32" or "int8"."""

    def __init__(self, shape: str, variant: str, folder: Path, text: str) -> None:
        self._texts = texts(text)
        name = "minilm.onnx" if variant == "f32" else "minilm-int8.onnx"
        self.start(inputs.minilm_onnx(folder) / name)

    def start(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.infer = lambda ids, mask: session.run(None, {"i": ids, "a": mask})

    def encode(self, kind: str) -> tuple[float, int]:
        ids = sorted(self._texts[kind], key=len, reverse=True)
        batches = []
        for i in range(0, len(ids), 32):
            rows = ids[i : i + 32]
            padded = np.zeros((len(rows), len(rows[0])), np.int64)
            mask = np.zeros_like(padded)
            for row, source in enumerate(rows):
                padded[row, : len(source)], mask[row, : len(source)] = source, 1
            batches.append((padded, mask))

        def run() -> None:
            for padded, mask in batches:
                self.infer(padded, mask)

        return clock(run), len(ids)


class OpenVino(Onnx):
    def start(self, path: Path) -> None:
        import openvino

        options = {
            "INFERENCE_NUM_THREADS": THREADS,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = openvino.Core().compile_model(str(path), "CPU", options).create_infer_request()
        self.infer = lambda ids, mask: request.infer({"i": ids, "a": mask})


class Bounds:
    """The rooflines of the machine; units are bytes or multiply-adds."""

    def __init__(self, shape: str, variant: str, folder: Path, text: str) -> None:
        from lapwing import _core

        self._machine = _core.Machine(threads=THREADS)

    def read(self) -> tuple[float, float]:
        return 1.0, self._machine.read() * 1e9

    def multiply_adds(self) -> tuple[float, float]:
        return 1.0, self._machine.multiply_adds() * 1e9


ENGINES: dict[str, Any] = {
    "bounds": Bounds,
    "ctranslate2": CTranslate2,
    "lapwing": Lapwing,
    "llama.cpp": LlamaCpp,
    "onnxruntime": Onnx,
    "openvino": OpenVino,
}


def main() -> None:
    engine, shape, variant, folder, text = sys.argv[1:6]
    # Output of libraries is redirected: standard output is for answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    made = ENGINES[engine](shape, variant, Path(folder), text)
    settle()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request, start = json.loads(line), time.perf_counter()
        seconds, units, *counted = getattr(made, request.pop("work"))(**request)
        settle()
        avx512 = used_avx512(time.perf_counter() - start)
        answer = {
            "seconds": seconds,
            "units": units,
            "multiply_adds": counted[0] if counted else None,
            "avx512": avx512,
        }
        answer = {key: value for key, value in answer.items() if value is not None}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
