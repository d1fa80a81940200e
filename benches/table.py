"""The table of speed and quality and a plot, from a record of the benches.

    python benches/table.py [--record NAME] [--write] [--plot]

``--write`` puts the table between the marks of that record in docs/speed.md, ``--plot`` draws
``docs/images/NAME.png`` (needs matplotlib). What misses its goal is bold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import records  # noqa: E402
from compare import COST, ITSELF, Row, rows  # noqa: E402
from figures import Figure, Goal, figures  # noqa: E402

DOCUMENT = HERE.parent / "docs" / "speed.md"
BOUNDS = {"read": "read bandwidth", "multiply_adds": "f32 peak", ITSELF: "its speed at short context"}


@dataclass(frozen=True)
class Line:
    """A row of the table; ``met`` is None without a goal."""

    name: str
    ours: str
    beside: str = "-"
    ratio: str = "-"
    goal: str = "-"
    bound: str = "-"
    met: bool | None = None

    def __str__(self) -> str:
        met = {None: "-", True: "yes", False: "**no**"}[self.met]
        return f"| {' | '.join((self.name, self.ours, self.beside, self.ratio, self.goal, self.bound, met))} |"


def marked(text: str, met: bool | None) -> str:
    return f"**{text}**" if met is False else text


def best(row: Row, rates: dict[str, list[float]], wide: dict[str, bool] | None = None) -> tuple[str, float] | None:
    """The fastest peer of a row and its median; ``wide`` are the peers that used AVX-512 beside ours
    without: they count only if there is no other."""
    peers = {name: statistics.median(rates[name]) for name in row.peers if rates.get(name)}
    equal = {name: rate for name, rate in peers.items() if wide is None or wide.get(name) is False}
    return max((equal or peers).items(), key=lambda item: item[1]) if peers else None


def unequal(machine: dict[str, Any]) -> dict[str, bool] | None:
    """Which engines used AVX-512, where Lapwing did without on a machine that has it; None elsewhere."""
    has = any(flag.startswith("avx512") for flag in machine.get("flags", ()))
    return machine.get("avx512", {}) if has and machine["isa"] != "avx512" else None


def mark(wide: bool | None) -> str:
    """The remark on a peer beside Lapwing without AVX-512."""
    return {True: "with AVX-512", False: "without AVX-512", None: "AVX-512 not known"}[wide]


def share(row: Row, rates: dict[str, list[float]]) -> float | None:
    """Which part of its bound a row reaches: its rate times what one unit takes, over the machine's in the same
    round."""
    if row.bound is None:
        return None
    name, cost, _ = row.bound
    if name not in rates or (cost is None and COST not in rates):
        return None
    taken = statistics.median(rates[COST]) if cost is None else cost
    return statistics.median(ours * taken / limit for ours, limit in zip(rates[row.ours], rates[name], strict=True))


def speed(row: Row, rates: dict[str, list[float]], wide: dict[str, bool] | None = None) -> Line:
    """A row of ``benches/compare.py``."""
    ours, peer, part = statistics.median(rates[row.ours]), best(row, rates, wide), share(row, rates)
    beside = ratio = goal = bound = "-"
    met: list[bool] = []
    if row.wanted is not None:
        goal = f"{row.wanted:g}"
    if peer:
        times = ours / peer[1]
        found = None if row.wanted is None else round(times, 2) >= row.wanted
        met += [] if found is None else [found]
        note = "" if wide is None or wide.get(peer[0]) is False else f", {mark(wide.get(peer[0]))}"
        beside, ratio = f"{peer[1]:.1f} ({peer[0]}{note})", marked(f"{times:.2f}", found)
        fastest = best(row, rates)
        if fastest and fastest[0] != peer[0]:
            beside += f"; {fastest[1]:.1f} ({fastest[0]}, {mark((wide or {}).get(fastest[0]))})"
    if row.bound is not None and part is not None:
        reached = round(part, 2) >= row.bound[2]
        met.append(reached)
        bound = f"{marked(f'{100 * part:.0f} %', reached)} of {BOUNDS[row.bound[0]]}, goal {100 * row.bound[2]:.0f} %"
    return Line(row.name, f"{ours:.1f}", beside, ratio, goal, bound, all(met) if met else None)


def wanted(goal: Goal, unit: str) -> str:
    number = f"{goal.number:g}"
    signs = {"at least": f"≥ {number}{unit}", "at most": f"≤ {number}{unit}", "within": f"± {number}"}
    return signs.get(goal.kind, f"± {number} %")


def measured(row: list[Figure], values: dict[str, list[float]]) -> Line:
    """A row of figures without peers."""
    ours, goals, met = [], [], []
    besides, differences = [], []
    for figure in row:
        value = statistics.median(values[figure.name])
        beside = None if figure.beside is None else statistics.median(values[figure.beside])
        reached = None if figure.goal is None else figure.goal.met(value, beside)
        number = f"{value:.{figure.digits}f}{figure.unit}"
        ours.append(" ".join(filter(None, (marked(number, reached), figure.label))))
        if figure.goal is not None and reached is not None:
            goals.append(wanted(figure.goal, figure.unit))
            met.append(reached)
        if beside is not None:
            besides.append(f"{beside:.{figure.digits}f}")
            change = 100 * (value / beside - 1) if figure.relative else value - beside
            change = round(change, 2) + 0.0  # no minus before a zero
            differences.append(f"{change:+.2f}{' %' if figure.relative else ''}")
    return Line(
        row[0].row,
        ", ".join(ours),
        f"{', '.join(besides)} (f32)" if besides else "-",
        ", ".join(differences) or "-",
        ", ".join(dict.fromkeys(goals)) or "-",
        "-",
        all(met) if met else None,
    )


def lines(record: dict[str, Any]) -> Iterator[Line]:
    """A row for each kind of work that was measured."""
    for row in rows(record["machine"]["isa"]):
        rates = record["rates"].get(row.name)
        if rates and rates.get(row.ours):
            yield speed(row, rates, unequal(record["machine"]))
    values = record["figures"]
    known = [f for f in figures() if values.get(f.name) and (f.beside is None or values.get(f.beside))]
    for name, group in groupby(known, key=lambda figure: figure.row):
        if not name.endswith(" f32"):  # stands beside the others
            yield measured(list(group), values)


def used_by(package: str, wide: dict[str, bool]) -> bool | None:
    """Whether any engine of a package used AVX-512; None if it is not known of any."""
    engine = {"llama-cpp-python": "llama.cpp"}.get(package, package)
    found = [used for name, used in wide.items() if name.split()[0] == engine]
    return any(found) if found else None


def facts(record: dict[str, Any]) -> str:
    machine = record["machine"]
    peers = [f"{name} {machine[name]}" for name in records.PACKAGES if name != "numpy" and machine.get(name)]
    wide = unequal(machine)
    if wide is not None:
        peers = [f"{peer} ({mark(used_by(peer.split()[0], wide))})" for peer in peers]
    words = (
        f"{machine.get('cpu', 'unknown processor')}, {machine['threads']} threads, {machine['isa']}, {machine['time']}"
    )
    return f"{'; '.join(filter(None, (words, ', '.join(peers))))}."


def text(name: str) -> str:
    """The table between its marks."""
    record = records.read(name)
    head = "| Work | Lapwing | best peer | ratio | goal | of the bound | met |\n|---|---|---|---|---|---|---|"
    table = "\n".join([head, *map(str, lines(record))])
    return f"<!-- table {name} -->\n{table}\n\n{facts(record)}\n<!-- /table {name} -->"


def replaced(document: str, name: str) -> str | None:
    """A document with the table of a record put between its marks; None without such marks."""
    start, end = f"<!-- table {name} -->", f"<!-- /table {name} -->"
    if start not in document:
        return None
    before, rest = document.split(start, 1)
    return before + text(name) + rest.split(end, 1)[1]


def plot(name: str) -> Path:
    """Bars of the ratios to the best peer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    record = records.read(name)
    found = []
    for row in rows(record["machine"]["isa"]):
        rates = record["rates"].get(row.name, {})
        peer = best(row, rates, unequal(record["machine"])) if rates.get(row.ours) else None
        if peer:
            found.append((row.name, statistics.median(rates[row.ours]) / peer[1], row.wanted))
    figure, axes = pyplot.subplots(figsize=(9, 0.32 * len(found) + 1.2))
    places = range(len(found))
    axes.barh(places, [ratio for _, ratio, _ in found], color="#3b7a78")
    goals = [(goal, place) for place, (_, _, goal) in enumerate(found) if goal is not None]
    axes.plot(*zip(*goals, strict=True), "|", color="#b03a2e", markersize=14, label="goal")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(places, [name for name, _, _ in found])
    axes.invert_yaxis()
    axes.set_xlabel("times the speed of the best peer, medians of rounds in turn")
    axes.legend(loc="lower right")
    figure.tight_layout()
    out = DOCUMENT.parent / "images" / f"{name}.png"
    figure.savefig(out, dpi=110)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", default="")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--plot", action="store_true")
    arguments = parser.parse_args()
    name = arguments.record or records.newest()
    print(text(name))
    if arguments.plot:
        print(plot(name))
    if arguments.write:
        document = replaced(DOCUMENT.read_text(encoding="utf-8"), name)
        if document is None:
            raise SystemExit(f"{DOCUMENT} lacks the marks <!-- table {name} --> and <!-- /table {name} -->")
        DOCUMENT.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()
