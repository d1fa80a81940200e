"""Measurements without peers, and their goals: loading, work beside busy processes, quality.

``benches/load.py``, ``company.py`` and ``quality.py`` measure and record it, ``table.py`` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

VARIANTS = ("bf16", "q8", "q8:int8", "q4")
"""Weight types, with activations after a colon, whose quality is held against f32."""
COMPARED = ("BLEU of tiny-en-de", "perplexity of tiny-shakespeare")
"""What f32 has, too; the others are already held against f32."""
MODEL, IMPORT = "llama-1b", "import above numpy"


@dataclass(frozen=True)
class Goal:
    """``at least`` or ``at most`` a number; ``within`` a distance of the figure beside, or ``within %`` of it."""

    kind: str
    number: float

    def met(self, value: float, beside: float | None) -> bool:
        if self.kind == "at least":
            return value >= self.number
        if self.kind == "at most":
            return value <= self.number
        assert beside is not None
        return abs(value - beside) <= self.number * (beside / 100 if self.kind == "within %" else 1)


@dataclass(frozen=True)
class Figure:
    """A number of a row of the table; several figures may share a row."""

    row: str
    label: str = ""
    unit: str = ""
    digits: int = 2
    goal: Goal | None = None
    beside: str | None = None
    """Name of the figure that it is compared with: the same of f32 weights."""
    relative: bool = False
    """Its distance to the figure beside is shown in percent of that."""

    @property
    def name(self) -> str:
        """Its name in a record."""
        return f"{self.row}: {self.label}" if self.label else self.row


def figures() -> list[Figure]:
    """In the order of the table."""
    found = [*loading(MODEL, "q8").values(), Figure(IMPORT, "", " s", 3, Goal("at most", 0.1))]
    for work, goals in (("decode", (50, 30)), ("prefill", (45, 25))):
        for count, goal in zip((1, 2), goals, strict=True):
            found.append(company(work, f"{MODEL} q8", count, Goal("at least", goal)))
    for variant in ("f32", *VARIANTS):
        found += quality(variant)
    return found


def loading(model: str, weights: str) -> dict[tuple[str, str], Figure]:
    """Time and memory of the first load and of one from the cache, by what ``benches/load.py`` measures."""
    first, second = f"first load {model} to {weights}", f"second load {model} {weights}"
    return {
        ("first", "seconds"): Figure(first, "", " s", 2, Goal("at most", 6)),
        ("first", "above"): Figure(first, "above the packed weights", " MB", 0, Goal("at most", 400)),
        ("second", "seconds"): Figure(second, "", " s", 2, Goal("at most", 0.3)),
    }


def company(work: str, model: str, count: int, goal: Goal | None = None) -> Figure:
    """Part of its speed alone that work keeps beside busy processes, in percent."""
    others = "a busy process" if count == 1 else f"{count} busy processes"
    return Figure(f"{work} {model} beside {others}", "of alone", " %", 0, goal)


def quality(variant: str) -> list[Figure]:
    """Quality of a weight type (activations after a colon) relative to f32; for f32 the reference values."""
    near = Goal("at least", 0.9999) if variant == "q8" else None
    bleu = {"q8": Goal("within", 0.2), "q4": Goal("within", 1.0)}.get(variant)
    loss = {"q8": Goal("within %", 0.2), "q4": Goal("within %", 4)}.get(variant)

    def figure(what: str, label: str, unit: str, digits: int, goal: Goal | None = None) -> Figure:
        compared = variant != "f32" and what in COMPARED
        beside = quality_name(what, "f32", label) if compared else None
        return Figure(_quality_row(what, variant), label, unit, digits, goal, beside, what == COMPARED[1])

    found = [figure(COMPARED[0], label, "", 2, bleu) for label in ("greedy", "beam 4")]
    found.append(figure(COMPARED[1], "", "", 3, loss))
    if variant == "f32":
        return found
    for label in ("of next tokens", "before the first difference"):
        found.append(figure("greedy agreement of tiny-shakespeare", label, " %", 1))
    for kind in ("captions", "long texts"):
        for label in ("least", "mean"):
            found.append(figure(f"cosine of minilm {kind}", label, "", 6, near))
    return found


def quality_name(what: str, variant: str, label: str) -> str:
    """The name of a figure of ``quality`` in a record."""
    return Figure(_quality_row(what, variant), label).name


def _quality_row(what: str, variant: str) -> str:
    return f"{what} {variant.replace(':', ' ')}"
