"""The README's table of speeds and a plot, from a record of ``benches/compare.py``.

    python benches/table.py [--record NAME] [--write] [--plot]

``--write`` puts the table between the marks in README.md, ``--plot`` draws ``benches/record/NAME.png`` (needs matplotlib).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from compare import Row, rows  # noqa: E402

START, END = "<!-- speed -->", "<!-- /speed -->"


def newest() -> str:
    """The record that was written last."""
    found = sorted(HERE.glob("record/*.json"), key=lambda path: path.stem)
    if not found:
        raise SystemExit("no record: run benches/compare.py --record NAME first")
    return found[-1].stem


def read(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((HERE / "record" / f"{name}.json").read_text(encoding="utf-8"))
    return record


def best(row: Row, rates: dict[str, list[float]]) -> tuple[str, float] | None:
    """The fastest peer of a row and its median."""
    peers = {name: statistics.median(rates[name]) for name in row.peers if rates.get(name)}
    return max(peers.items(), key=lambda item: item[1]) if peers else None


def table(record: dict[str, Any]) -> str:
    """A row for each kind of work that was measured."""
    lines = [
        "| Work | Lapwing, 1/s | best peer, 1/s | ratio | goal | of the bound |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows():
        rates = record["rates"].get(row.name)
        if not rates or not rates.get(row.ours):
            continue
        ours, peer = statistics.median(rates[row.ours]), best(row, rates)
        found = f"{peer[1]:.1f} ({peer[0]}) | {ours / peer[1]:.2f}" if peer else "- | -"
        bound = (
            "-"
            if row.bound is None
            else f"{100 * share(row, rates):.0f} % of {row.bound[0]}, goal {100 * row.bound[2]:.0f} %"
        )
        lines.append(f"| {row.name} | {ours:.1f} | {found} | {row.wanted} | {bound} |")
    return "\n".join(lines)


def share(row: Row, rates: dict[str, list[float]]) -> float:
    """Which part of its bound a row reaches: its rate times what one unit takes, over the machine's in the same round."""
    assert row.bound is not None
    name, cost, _ = row.bound
    return statistics.median(ours * cost / limit for ours, limit in zip(rates[row.ours], rates[name], strict=True))


def facts(record: dict[str, Any]) -> str:
    machine = record["machine"]
    versions = ", ".join(
        f"{name} {machine[name]}"
        for name in ("llama-cpp-python", "ctranslate2", "onnxruntime", "openvino")
        if machine.get(name)
    )
    return f"{machine.get('cpu', 'unknown processor')}, {machine['threads']} threads, {machine['isa']}, {machine['time']}; {versions}."


def text(name: str) -> str:
    record = read(name)
    return f"{START}\n{table(record)}\n\n{facts(record)}\n{END}"


def plot(name: str) -> Path:
    """Bars of the ratios to the best peer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    record = read(name)
    found = []
    for row in rows():
        rates = record["rates"].get(row.name, {})
        peer = best(row, rates) if rates.get(row.ours) else None
        if peer:
            found.append((row.name, statistics.median(rates[row.ours]) / peer[1], row.wanted))
    figure, axes = pyplot.subplots(figsize=(9, 0.32 * len(found) + 1.2))
    places = range(len(found))
    axes.barh(places, [ratio for _, ratio, _ in found], color="#3b7a78")
    axes.plot([wanted for _, _, wanted in found], places, "|", color="#b03a2e", markersize=14, label="goal")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(places, [name for name, _, _ in found])
    axes.invert_yaxis()
    axes.set_xlabel("times the speed of the best peer, medians of rounds in turn")
    axes.legend(loc="lower right")
    figure.tight_layout()
    out = HERE / "record" / f"{name}.png"
    figure.savefig(out, dpi=110)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", default="")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--plot", action="store_true")
    arguments = parser.parse_args()
    name = arguments.record or newest()
    print(text(name))
    if arguments.plot:
        print(plot(name))
    if arguments.write:
        path = HERE.parent / "README.md"
        readme = path.read_text(encoding="utf-8")
        before, rest = readme.split(START, 1)
        path.write_text(before + text(name) + rest.split(END, 1)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
