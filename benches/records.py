"""Records of measurements, ``benches/record/NAME.json``: benches write them, ``benches/table.py`` reads them.

A record is ``{"machine": facts, "rates": {row: {engine: [of a round, ...]}}, "figures": {name: [value, ...]}}``: rates
are what ``benches/compare.py`` measures in turn with peers and bounds, figures what ``benches/figures.py`` names. The
facts of the machine hold, under "avx512", which engines used AVX-512 when they were measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "record"
PACKAGES = ("llama-cpp-python", "ctranslate2", "onnxruntime", "openvino", "numpy")


def machine() -> dict[str, Any]:
    """What measurements belong to."""
    import lapwing
    from lapwing import _core

    found: dict[str, Any] = {"time": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "threads": 2}
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        models = [x for x in cpu.read_text().splitlines() if x.startswith(("model name", "flags"))]
        found["cpu"] = models[0].split(":", 1)[1].strip() if models else ""
        flags = models[1].split() if len(models) > 1 else []
        found["flags"] = [x for x in flags if x.startswith(("avx", "amx", "fma"))]
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found | {"lapwing": lapwing.__version__, "isa": _core.isa()}


def newest() -> str:
    """The record whose name comes last."""
    found = sorted(path.stem for path in FOLDER.glob("*.json"))
    if not found:
        raise SystemExit("no record: run benches/compare.py --record NAME first")
    return found[-1]


def read(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return {"figures": {}, "rates": {}, **record}


def add_option(parser: argparse.ArgumentParser) -> None:
    """``--record`` of every bench."""
    parser.add_argument("--record", metavar="NAME", help="add what is measured to benches/record/NAME.json")


class Recorder:
    """Adds measurements to a record; those of the same name are replaced, all others stay.

    ``name`` may be None: then nothing is written. Made before anything is measured, so that a record of another
    instruction set is refused in time.
    """

    def __init__(self, name: str | None) -> None:
        self._path = None if name is None else FOLDER / f"{name}.json"
        self.machine = machine()
        old = {} if self._path is None or not self._path.is_file() else read(self._path.stem)["machine"]
        if old and old["isa"] != self.machine["isa"]:
            raise SystemExit(
                f"{self._path} was measured with {old['isa']} and this is {self.machine['isa']}: "
                "set LAPWING_ISA, or give another --record"
            )

    def add(self, section: str, found: dict[str, Any]) -> None:
        """Writes ``found`` into "rates" or "figures"."""
        if self._path is None:
            return
        self._path.parent.mkdir(exist_ok=True)
        old: dict[str, Any] = {"machine": {}, "rates": {}, "figures": {}}
        if self._path.is_file():
            old |= read(self._path.stem)
        # A package that is missing here was there when the peers were measured.
        facts = {**old["machine"], **{key: value for key, value in self.machine.items() if value is not None}}
        facts["avx512"] = {**old["machine"].get("avx512", {}), **self.machine.get("avx512", {})}
        record = {"machine": facts, "rates": old["rates"], "figures": old["figures"]}
        record[section] = {**record[section], **found}
        self._path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
