"""Lapwing beside its peers: the same work in turn on the same machine, medians of several rounds.

    python benches/compare.py [--rounds 5] [--only WORDS ...] [--text FILE] [--folder FOLDER] [--record NAME]
    python benches/compare.py --baseline CHECKOUT ...

With ``--baseline`` another revision is the peer: CHECKOUT is a clone of it with Lapwing installed in its .venv.

Peers come from PyPI: llama-cpp-python (built with CMAKE_ARGS=-DGGML_NATIVE=ON), ctranslate2, onnxruntime with onnx,
openvino, and gguf; for CTranslate2's encoder transformers and torch. A peer that is not installed leaves its cells
empty. Inputs are made once in ``--folder`` (random weights at real shapes; about 12 GB). ``--text`` is a file of
sentences for the encoders, one a line. ``--record`` adds the rates to ``benches/record/NAME.json``, from which
``benches/table.py`` makes the table.

With LAPWING_ISA=avx2 or avxvnni peers are limited to AVX2, too, where they have a switch: CTranslate2 and NumPy as a
whole, OpenVINO in part (its oneDNN), ONNX Runtime not at all; llama.cpp needs a build of its own
(CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_AVX512=OFF"). The record says of each
engine whether it used AVX-512.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import records
from peers.inputs import SHAPES, head_size

from lapwing.cost import WEIGHT_BYTES

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One kind of work: our variant, those of the peers, and the goals.

    Variants are "engine variant". ``bound`` is (what is measured beside it, what a unit of work takes of it in bytes or
    multiply-adds, the part that is wanted); a cost of None is counted by the engine. ``itself`` is other work of our
    variant that is measured in the same rounds. For ``fresh`` work all engines are started anew for each round, with
    weights in files that are written anew: memory may be faster in one place than in another, and a median of several
    says more.
    """

    name: str
    shape: str
    ours: str
    peers: tuple[str, ...]
    work: dict[str, Any]
    wanted: float | None
    bound: tuple[str, float | None, float] | None = None
    itself: dict[str, Any] | None = None
    fresh: bool = False


ITSELF, COST = "itself at short context", "multiply_adds of a unit"
"""Names in the rates of a row."""
BOUNDS = "bounds -"
"""The engine that measures what the machine can do."""


LIMITS = {
    "CT2_FORCE_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL",
}
"""Variables that keep peers, and the libraries all share, from AVX-512."""


def layers(shape: str) -> float:
    """Weights of the layers of a shape that a token reads: of experts, the chosen ones."""
    s = SHAPES[shape]
    hidden, size = s["hidden_size"], head_size(s)
    query, key = size * s["num_attention_heads"], size * s["num_key_value_heads"]
    inner = s["intermediate_size"]
    if "num_experts" in s:
        inner = s["num_experts_per_tok"] * s["moe_intermediate_size"]
    return float(s["num_hidden_layers"] * hidden * (2 * query + 2 * key + 3 * inner))


def prompt_work(shape: str, length: int) -> float:
    """Multiply-adds of a token of a prompt: its weights and the keys and values it sees, on average.

    Only the last token needs logits: for all others the last layer computes only keys and values.
    """
    s = SHAPES[shape]
    count, hidden = s["num_hidden_layers"], s["hidden_size"]
    key = hidden // s["num_attention_heads"] * s["num_key_value_heads"]
    return layers(shape) * (count - 1) / count + 2 * hidden * key + (count - 1) * hidden * (length + 1)


def step_bytes(shape: str, kind: str) -> float:
    """Bytes that decoding a token reads: the layers, and the table of tokens, which 4-bit models keep in 6 bits."""
    table = SHAPES[shape]["vocab_size"] * SHAPES[shape]["hidden_size"]
    return layers(shape) * WEIGHT_BYTES[kind] + table * WEIGHT_BYTES["q6" if kind == "q4" else kind]


def rows(isa: str) -> list[Row]:
    """The table with its goals for an instruction set: relative to f32, AVX-512 multiplies integers faster."""
    wide = isa == "avx512"
    q8, q4 = ("llama.cpp q8_0",), ("llama.cpp q4_0", "llama.cpp q4_k_m")
    short, long = {"work": "decode", "tokens": 32, "context": 16, "batch": 1}, {"work": "prefill", "tokens": 512}
    one, found = "llama-1b", []
    for shape, times, part in (
        (one, 1.3, {"q8": 0.88, "q4": 0.82}),
        ("qwen-0.5b", 1.3, {"q8": 0.8, "q4": 0.8}),
        ("smollm-135m", 2.0, {"q8": 0.7, "q4": 0.7}),
        ("qwen3-moe-2b", 1.3, {"q8": 0.8, "q4": 0.8}),
    ):
        for kind, peers in (("q8", q8), ("q4", q4)):
            bound = ("read", step_bytes(shape, kind), part[kind])
            name, ours = f"decode {shape} {kind}", f"lapwing {kind}"
            found.append(Row(name, shape, ours, peers, short, times, bound, fresh=True))
    for kind, peers in (("q8", q8), ("q4", q4)):
        late, bound = {**short, "context": 4096}, (ITSELF, 1.0, 0.75)
        found.append(Row(f"decode after 4096 {one} {kind}", one, f"lapwing {kind}", peers, late, 1.4, bound, short))
    for kind, peers, times, part in (
        ("q8", q8, 2.0, 1.5 if wide else 1.2),
        ("q8:int8", q8, 3.0 if wide else None, None),
        ("q4", q4, 2.5, 2.5 if wide else 2.0),
        ("bf16", ("llama.cpp bf16",), 2.0, 0.8),
        ("bf16:bf16", ("llama.cpp bf16",), 2.0, None),
    ):
        limit = None if part is None else ("multiply_adds", prompt_work(one, long["tokens"]), part)
        name = f"prefill 512 {one} {kind.replace(':', ' ')}"
        found.append(Row(name, one, f"lapwing {kind}", peers, long, times, limit))
    bound = ("read", step_bytes(one, "bf16"), 0.8)
    found.append(Row(f"decode {one} bf16", one, "lapwing bf16", ("llama.cpp bf16",), short, 1.0, bound, fresh=True))
    for kind, peers in (("q8", q8), ("q4", q4)):
        eight = {**short, "batch": 8}
        found.append(Row(f"8 prompts {one} {kind}", one, f"lapwing {kind}", peers, eight, 1.5))
    f32, int8 = ("onnxruntime f32", "openvino f32", "ctranslate2 float32"), ("onnxruntime int8", "ctranslate2 int8")
    for kind in ("short", "long"):
        work = {"work": "encode", "kind": kind}
        bound = ("multiply_adds", None, 0.8)
        found.append(Row(f"minilm {kind} f32", "minilm", "lapwing f32", f32, work, 1.2, bound))
        found.append(Row(f"minilm {kind} q8", "minilm", "lapwing q8", int8, work, 1.1))
        found.append(Row(f"minilm {kind} q8 int8", "minilm", "lapwing q8:int8", int8, work, 1.5 if wide else None))
    for beams in (1, 4):
        for batch in (1, 32):
            name = f"opus-mt q8 {'greedy' if beams == 1 else 'beam 4'} x{batch}"
            work = {"work": "translate", "beams": beams, "batch": batch}
            for ours in ("q8", "q8:int8"):
                label = name.replace("q8", ours.replace(":", " "))
                wanted = 3.0 if batch == 1 else 2.0
                found.append(Row(label, "opus-mt", f"lapwing {ours}", ("ctranslate2 int8",), work, wanted))
    return found


BASELINE = "baseline"
"""The engine that is Lapwing in another revision."""


class Engine:
    """A process that does one engine's work; ``more`` is added to its environment."""

    baseline: Path | None = None
    """Checkout of the other revision."""

    def __init__(self, shape: str, name: str, folder: Path, text: str, more: dict[str, str]) -> None:
        engine, variant = name.split(" ", 1)
        python, benches, path = sys.executable, HERE, os.environ.get("PYTHONPATH")
        if engine == BASELINE:
            assert self.baseline is not None
            python, benches, path = str(self.baseline / ".venv/bin/python"), self.baseline / "benches", None
            engine = "lapwing"
        command = [python, "-m", "peers.engines", engine, shape, variant, str(folder), text]
        paths = [str(benches), *filter(None, [path])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", **more}
        # A file, since an unread pipe blocks a peer that prints much.
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  # closed with the engine
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=environment,
            cwd=benches,  # the first place where modules are looked for
        )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._said.seek(0)
            last = self._said.read().strip().splitlines()
            raise RuntimeError(last[-1] if last else "ended without a word")
        found: dict[str, Any] = json.loads(line)
        return found

    def measure(self, work: dict[str, Any]) -> dict[str, float]:
        """Does a work; its seconds, its units, its multiply-adds where the engine counts them, whether it used
        AVX-512."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(work) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._said.close()


class Engines:
    """The engines of a shape, each started when it is first needed; one that cannot start is omitted."""

    def __init__(self, shape: str, folder: Path, text: str, limits: dict[str, str]) -> None:
        self._shape, self._folder, self._text, self._limits = shape, folder, text, limits
        self._started: dict[str, Engine | None] = {}

    def get(self, name: str) -> Engine | None:
        if name not in self._started:
            try:
                self._started[name] = Engine(self._shape, name, self._folder, self._text, self._limits)
            except RuntimeError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                self._started[name] = None
        return self._started[name]

    def renew(self, names: Iterable[str], place: Path) -> None:
        """Starts engines again with copies of their files, or a cache of packed weights, in ``place``, which stays as
        long as other copies are made: what is freed would be given out again."""
        for name in names:
            old = self._started.get(name)
            if old is None:
                continue
            old.close()
            here = place / name.replace(":", "-").replace(" ", "-")
            here.mkdir(parents=True)
            engine, variant = name.split(" ", 1)
            folder, more = self._folder, {**self._limits, "LAPWING_CACHE": str(here / "cache")}
            if engine in ("lapwing", BASELINE):
                # The first start leaves packed weights, the second maps them.
                Engine(self._shape, name, folder, self._text, more).close()
            else:
                file = f"{self._shape}-{variant}.gguf"
                folder = Path(shutil.copyfile(folder / file, here / file)).parent
            self._started[name] = Engine(self._shape, name, folder, self._text, more)

    def close(self) -> None:
        for engine in self._started.values():
            if engine is not None:
                engine.close()


def measure(
    chosen: list[Row], rounds: int, folder: Path, text: str, limits: dict[str, str]
) -> tuple[dict[str, Any], dict[str, bool]]:
    """Rows of one shape, which take turns, engine by engine, round by round; rates, and which engines used AVX-512."""
    results: dict[str, Any] = {}
    wide: dict[str, bool] = {}
    engines = Engines(chosen[0].shape, folder, text, limits)
    try:
        for row in chosen:
            # What is measured in each round: its name in the record, by whom, and the work.
            works = [(bound, BOUNDS, {"work": bound}) for bound in ("read", "multiply_adds")]
            works += [(name, name, row.work) for name in (row.ours, *row.peers)]
            works += [(ITSELF, row.ours, row.itself)] if row.itself else []
            works = [work for work in works if engines.get(work[1]) is not None]
            rates: dict[str, list[float]] = {name: [] for name, _, _ in works}
            with tempfile.TemporaryDirectory(dir=folder) as place:
                for turn in range(rounds):
                    if row.fresh:
                        engines.renew((row.ours, *row.peers), Path(place) / str(turn))
                    if row.fresh or turn == 0:
                        for _, name, work in works:
                            started(engines, name).measure(work)
                    for key, name, work in works:
                        found = started(engines, name).measure(work)
                        rates[key].append(found["units"] / found["seconds"])
                        if "multiply_adds" in found:
                            rates.setdefault(COST, []).append(found["multiply_adds"] / found["units"])
                        if "avx512" in found and name != BOUNDS:
                            wide[name] = wide.get(name, False) or bool(found["avx512"])
            results[row.name] = rates
            print(line(row, rates), flush=True)
    finally:
        engines.close()
    return results, wide


def started(engines: Engines, name: str) -> Engine:
    engine = engines.get(name)
    assert engine is not None
    return engine


def line(row: Row, rates: dict[str, list[float]]) -> str:
    """A row in words."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ours = medians[row.ours]
    parts = [f"{row.name}: {ours:.1f}/s"]
    parts += [f"{name} {medians[name]:.1f} (x{ours / medians[name]:.2f})" for name in row.peers if name in medians]
    return "; ".join(parts + ([] if row.wanted is None else [f"wanted x{row.wanted}"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], help="rows whose names hold one of these words")
    parser.add_argument("--text", default="", help="sentences for the encoders, one a line")
    parser.add_argument("--baseline", type=Path, help="a checkout of another revision, measured instead of the peers")
    parser.add_argument("--folder", type=Path, default=HERE / "inputs", help="where inputs are made and kept")
    records.add_option(parser)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    arguments.folder = arguments.folder.resolve()
    arguments.text = str(Path(arguments.text).resolve()) if arguments.text else ""
    recorder = records.Recorder(arguments.record)
    chosen = rows(recorder.machine["isa"])
    if arguments.baseline:
        Engine.baseline = arguments.baseline.resolve()
        chosen = [replace(row, peers=(row.ours.replace("lapwing", BASELINE),), wanted=None) for row in chosen]
    if arguments.only:
        chosen = [row for row in chosen if any(word in row.name for word in arguments.only)]
    if not arguments.text:
        chosen = [row for row in chosen if row.shape != "minilm"]
    limits = LIMITS if recorder.machine["isa"] in ("avx2", "avxvnni") else {}
    print(json.dumps(recorder.machine))
    for shape in dict.fromkeys(row.shape for row in chosen):
        here = [row for row in chosen if row.shape == shape]
        found, wide = measure(here, arguments.rounds, arguments.folder, arguments.text, limits)
        recorder.machine.setdefault("avx512", {}).update(wide)
        recorder.add("rates", found)
        if limits:
            unlimited = sorted(name for name, used in wide.items() if used)
            print(f"used AVX-512 all the same: {', '.join(unlimited) or 'none'}", flush=True)


if __name__ == "__main__":
    main()
