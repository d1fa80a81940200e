"""The records of the benches, their tables, and the cost model."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lapwing
from lapwing import cost
from lapwing.cli import bench
from lapwing.cli.bench import translate
from lapwing.spec import (
    Attention,
    Block,
    Body,
    Experts,
    FeedForward,
    Layer,
    Router,
    ShortConvolution,
    Stack,
    TokenStem,
)

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benches"))

import records  # noqa: E402
import table  # noqa: E402
from figures import Goal, figures  # noqa: E402
from peers import engines  # noqa: E402

DOCUMENT = table.DOCUMENT.read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(records, "FOLDER", tmp_path / "record")
    return tmp_path / "record"


def cells(name: str) -> dict[str, list[str]]:
    """The rows of a record's table, by name."""
    rows = [line.strip("| ").split(" | ") for line in table.text(name).splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows[1:]}


@pytest.mark.parametrize("name", sorted(path.stem for path in records.FOLDER.glob("*.json")))
def test_documents_show_the_tables_of_the_records(name: str) -> None:
    assert DOCUMENT.count(f"<!-- table {name} -->") == 1
    assert table.text(name) in DOCUMENT, f"run benches/table.py --record {name} --write"


def test_rows_that_miss_their_goals_are_explained() -> None:
    name = "zen5-avx512"
    text = DOCUMENT.split("## What stands in the way")[1].split("\n## ")[0]
    missed = [row for row, found in cells(name).items() if found[-1] == "**no**"]
    assert [row for row in missed if f"`{row}`" not in text] == []


def test_a_record_keeps_what_other_benches_added(folder: Path) -> None:
    recorder = records.Recorder("some")
    recorder.add("rates", {"one": {"lapwing q8": [1.0]}, "two": {"lapwing q8": [1.0]}})
    recorder.add("figures", {"loading": [3.0]})
    records.Recorder("some").add("rates", {"two": {"lapwing q8": [2.0]}})
    found = records.read("some")
    assert found["rates"] == {"one": {"lapwing q8": [1.0]}, "two": {"lapwing q8": [2.0]}}
    assert found["figures"] == {"loading": [3.0]} and records.newest() == "some"


def test_versions_of_peers_stay_where_none_is_installed(folder: Path) -> None:
    first = records.Recorder("some")
    first.machine["ctranslate2"] = "4.0"
    first.add("figures", {})
    second = records.Recorder("some")
    second.machine["ctranslate2"] = None
    second.add("figures", {})
    assert records.read("some")["machine"]["ctranslate2"] == "4.0"


def test_instruction_sets_do_not_share_a_record(folder: Path) -> None:
    recorder = records.Recorder("some")
    recorder.machine["isa"] = "another"
    recorder.add("figures", {})
    with pytest.raises(SystemExit, match="was measured with another"):
        records.Recorder("some")


def test_without_a_name_nothing_is_written(folder: Path) -> None:
    records.Recorder(None).add("figures", {"loading": [3.0]})
    assert not folder.exists()


def written(folder: Path, rates: dict[str, Any], values: dict[str, list[float]], isa: str = "avx512") -> None:
    folder.mkdir(exist_ok=True)
    record = {"machine": {"isa": isa, "threads": 2, "time": "now"}, "rates": rates, "figures": values}
    (folder / "some.json").write_text(json.dumps(record))


def test_rows_are_held_against_peers_and_bounds(folder: Path) -> None:
    rounds = {"read": [1.0], "multiply_adds": [100.0]}
    peers = {"onnxruntime f32": [1.0, 2.0, 9.0], "openvino f32": [3.0, 3.0, 3.0]}
    encode = {**rounds, "lapwing f32": [4.0, 4.0, 4.0], "multiply_adds": [100.0] * 3, "multiply_adds of a unit": [19.0]}
    late = {"lapwing q8": [8.0, 6.0], "itself at short context": [10.0, 10.0], "llama.cpp q8_0": [5.0, 5.0]}
    written(folder, {"minilm short f32": {**encode, **peers}, "decode after 4096 llama-1b q8": late}, {})
    found = cells("some")
    assert found["minilm short f32"] == [
        *("4.0", "3.0 (openvino f32)", "1.33", "1.2"),
        *("**76 %** of f32 peak, goal 80 %", "**no**"),
    ]
    assert found["decode after 4096 llama-1b q8"] == [
        *("7.0", "5.0 (llama.cpp q8_0)", "1.40", "1.4"),
        *("**70 %** of its speed at short context, goal 75 %", "**no**"),
    ]


def test_a_record_without_peers_and_bounds_has_a_table(folder: Path) -> None:
    written(folder, {"minilm short f32": {"lapwing f32": [4.0]}, "unknown": {"lapwing f32": [4.0]}}, {})
    assert cells("some") == {"minilm short f32": ["4.0", "-", "-", "1.2", "-", "-"]}
    written(folder, {}, {})
    assert cells("some") == {}


def test_goals_are_those_of_the_instruction_set(folder: Path) -> None:
    for isa, goal in (("avx512", "3"), ("avx2", "-")):
        rates = {"prefill 512 llama-1b q8 int8": {"lapwing q8:int8": [4.0], "llama.cpp q8_0": [2.0]}}
        written(folder, rates, {}, isa)
        met = "**no**" if isa == "avx512" else "-"
        ratio = "**2.00**" if isa == "avx512" else "2.00"
        assert cells("some")["prefill 512 llama-1b q8 int8"] == ["4.0", "2.0 (llama.cpp q8_0)", ratio, goal, "-", met]


def test_peers_with_avx512_stand_apart_where_lapwing_has_none(folder: Path) -> None:
    rates = {"minilm short q8": {"lapwing q8": [4.0], "onnxruntime int8": [8.0], "ctranslate2 int8": [2.0]}}
    machine = {
        "isa": "avx2",
        "threads": 2,
        "time": "now",
        "flags": ["avx2", "avx512f"],
        "onnxruntime": "1",
        "openvino": "2",
    }
    wide = {"onnxruntime int8": True, "ctranslate2 int8": False}

    def beside(**changed: Any) -> list[str]:
        folder.mkdir(exist_ok=True)
        record = {"machine": {**machine, "avx512": wide, **changed}, "rates": rates, "figures": {}}
        (folder / "some.json").write_text(json.dumps(record))
        return cells("some")["minilm short q8"][1:3]

    assert beside() == ["2.0 (ctranslate2 int8); 8.0 (onnxruntime int8, with AVX-512)", "2.00"]
    assert "onnxruntime 1 (with AVX-512), openvino 2 (AVX-512 not known)." in table.text("some")
    assert beside(avx512={}) == ["8.0 (onnxruntime int8, AVX-512 not known)", "**0.50**"]
    # Machines without AVX-512, and Lapwing itself, need no remark.
    assert beside(flags=["avx2"]) == beside(isa="avx512") == ["8.0 (onnxruntime int8)", "**0.50**"]


def test_what_engines_used_is_kept_engine_by_engine(folder: Path) -> None:
    for used in ({"one": True, "two": True}, {"two": False}):
        recorder = records.Recorder("some")
        recorder.machine["avx512"] = used
        recorder.add("rates", {})
    assert records.read("some")["machine"]["avx512"] == {"one": True, "two": False}


def test_engines_answer_when_their_threads_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    end = time.perf_counter() + 0.15

    def spin() -> None:
        while time.perf_counter() < end:
            pass

    threading.Thread(target=spin).start()
    engines.settle()
    assert time.perf_counter() >= end
    monkeypatch.setattr(engines, "PATIENCE", 0.1)
    end = time.perf_counter() + 0.5
    thread = threading.Thread(target=spin)
    thread.start()
    with pytest.raises(RuntimeError, match="still compute"):
        engines.settle()
    thread.join()


def test_figures_are_held_against_their_goals(folder: Path) -> None:
    values = {
        "first load llama-1b to q8": [5.0, 7.0, 6.5],
        "first load llama-1b to q8: above the packed weights": [120.0],
        "BLEU of tiny-en-de f32: greedy": [34.45],
        "BLEU of tiny-en-de f32: beam 4": [35.71],
        "BLEU of tiny-en-de q8: greedy": [34.44],
        "BLEU of tiny-en-de q8: beam 4": [36.0],
        "perplexity of tiny-shakespeare f32": [50.0],
        "perplexity of tiny-shakespeare q4": [51.0],
        "perplexity of tiny-shakespeare q8 int8": [51.0],
    }
    written(folder, {}, values)
    assert cells("some") == {
        "first load llama-1b to q8": [
            *("**6.50 s**, 120 MB above the packed weights", "-", "-", "≤ 6 s, ≤ 400 MB", "-", "**no**")
        ],
        "BLEU of tiny-en-de q8": [
            *("34.44 greedy, **36.00** beam 4", "34.45, 35.71 (f32)", "-0.01, +0.29", "± 0.2", "-", "**no**")
        ],
        "perplexity of tiny-shakespeare q4": ["51.000", "50.000 (f32)", "+2.00 %", "± 4 %", "-", "yes"],
        "perplexity of tiny-shakespeare q8 int8": ["51.000", "50.000 (f32)", "+2.00 %", "-", "-", "-"],
    }


def test_figures_have_names_of_their_own() -> None:
    names = [figure.name for figure in figures()]
    assert len(set(names)) == len(names)
    assert {figure.beside for figure in figures()} - {None} <= set(names)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("at least", (0.5, 1.0), (0.49,)),
        ("at most", (0.5, 0.1), (0.51,)),
        ("within", (9.5, 10.5), (9.4, 10.6)),
        ("within %", (9.96, 10.04), (9.94, 10.06)),
    ],
)
def test_goals(kind: str, good: tuple[float, ...], bad: tuple[float, ...]) -> None:
    goal = Goal(kind, 0.5)
    assert all(goal.met(value, 10.0 if "within" in kind else None) for value in good)
    assert not any(goal.met(value, 10.0 if "within" in kind else None) for value in bad)


def stack(*bodies: Body) -> Stack:
    layer = Layer(blocks=tuple(Block(body=body) for body in bodies))
    return Stack(hidden_size=32, stem=TokenStem(vocab_size=9), layers=(layer,), max_length=9)


def test_products_of_a_sequence_are_counted() -> None:
    attention = Attention(heads=4, kv_heads=2, head_dim=8, scale=1.0)
    feed_forward = FeedForward(width=64, activation="silu", gated=True)
    for causal, window, seen in ((False, None, 25), (True, None, 15), (True, 2, 9), (False, 2, 13), (True, 9, 15)):
        one = stack(replace(attention, causal=causal, window=window), feed_forward)
        # Queries and outputs, keys and values, three matrices of 64; then scores and sums over visible tokens.
        assert cost.products(one, 5) == 5 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 2 * 32 * seen
        # Of four tokens the last layer has keys and values alone.
        saved = 4 * (2 * 32 * 32 + 3 * 32 * 64) + cost.scores(one.layers[0].blocks[0].body, 4)
        assert cost.prefill(one, 5) == cost.products(one, 5) - (saved if causal else 0)


def test_a_token_costs_the_experts_that_it_chooses() -> None:
    expert = FeedForward(width=8, activation="silu", gated=True)
    body = Experts(router=Router(count=8, per_token=2), expert=expert)
    one, many = cost.of_body(body, 32), cost.of_body(body, 32, rows=1000)
    assert one.held == 8 * 32 + 8 * 3 * 32 * 8
    assert one.products == one.read == 8 * 32 + 2 * 3 * 32 * 8
    assert many.products == one.products and many.read == pytest.approx(many.held)


def test_state_of_convolutions_does_not_grow() -> None:
    found = cost.of_layers(stack(ShortConvolution(kernel=3), FeedForward(width=8, activation="relu")))
    assert found.products == 4 * 32 * 32 + 3 * 32 + 2 * 32 * 8
    assert (found.cached, found.state) == (0, 2 * 32)
    assert cost.state_bytes(found, "f16", 5) == cost.state_bytes(found, "f16", 500) == 2 * 32 * 4


def test_work_of_a_translation_is_counted() -> None:
    with lapwing.load("lapwing/tiny-en-de", weights="bf16") as model:
        one, two, beams = (translate(model, steps, 1, width) for steps, width in ((1, 1), (2, 1), (2, 4)))
        held = model.info()
    # The first step reads every matrix once and the cached source; a further step reads those of the decoder.
    assert held.weight_types["bf16"] < one.bytes < held.bytes
    step = two.bytes - one.bytes
    assert 0.5 < step / one.bytes < 0.75
    # Another text adds one multiply-add per weight, each of two bytes.
    assert (two.multiply_adds - one.multiply_adds) == pytest.approx(step / 2, rel=0.01)
    assert (beams.multiply_adds - two.multiply_adds) / 3 == pytest.approx(step / 2, rel=0.01)
    assert step < beams.bytes - one.bytes < 1.02 * step


def test_prompts_are_read_before_the_clock_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a text fills the model and another one starts."""
    begun: list[int] = []
    start = bench.start_decoding
    monkeypatch.setattr(bench, "start_decoding", lambda *words: begun.append(len(begun)) or start(*words))
    with lapwing.load("lapwing/tiny-shakespeare") as model:
        work = bench.decode(model, 200, 1, 16)
        for _ in range(5):
            work.prepare()
            before = len(begun)
            work.run()
            assert len(begun) == before
    assert len(begun) == 3
