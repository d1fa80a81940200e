"""How long a model takes to load, the first time and from the cache of packed weights, and with how much memory.

    python benches/load.py CHECKPOINT [--weights q8] [--rounds 3] [--folder FOLDER] [--record NAME]

Each load is a process of its own; the cache is a folder that ends with the program, in ``--folder`` or where temporary
files are. A first load is measured with the cache off, too: the rest is the time of writing it. Also the time that
importing Lapwing takes above numpy, with all that loading a model needs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import records
from figures import IMPORT, figures, loading

LOAD = """
import json, resource, sys, time
import lapwing
start = time.perf_counter()
model = lapwing.load(sys.argv[1], weights=sys.argv[2])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "peak": peak, "bytes": model.info().bytes}))
"""
NUMPY_THEN_LAPWING = """
import time
import numpy
start = time.perf_counter()
import lapwing
lapwing.load
print(time.perf_counter() - start)
"""
"""``lapwing.load`` imports what ``import lapwing`` puts off."""


IMPORTS = 5


def python(code: str, *arguments: str, cache: str = "") -> str:
    environment = {**os.environ, **({"LAPWING_CACHE": cache} if cache else {})}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--weights", default="q8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where the cache is put: on the disk whose speed is meant")
    records.add_option(parser)
    arguments = parser.parse_args()
    recorder = records.Recorder(arguments.record)
    loads: dict[str, list[dict[str, float]]] = {"uncached": [], "first": [], "second": []}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as cache:
            for name, found in loads.items():
                place = "off" if name == "uncached" else cache
                found.append(json.loads(python(LOAD, arguments.checkpoint, arguments.weights, cache=place)))
    measured: dict[str, list[float]] = {}
    known = loading(Path(arguments.checkpoint).name, arguments.weights)
    for name, found in loads.items():
        seconds, above = [x["seconds"] for x in found], [(x["peak"] - x["bytes"]) / 1e6 for x in found]
        print(
            f"{name} load: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), "
            f"{found[0]['bytes'] / 1e6:.0f} MB of weights, peak {max(above):.0f} MB above them"
        )
        for what, values in (("seconds", seconds), ("above", above)):
            if (name, what) in known:
                measured[known[name, what].name] = values
    imports = [float(python(NUMPY_THEN_LAPWING)) for _ in range(IMPORTS)]
    print(f"{IMPORT}: {statistics.median(imports):.3f} s")
    measured[IMPORT] = imports
    wanted = {figure.name for figure in figures()}
    recorder.add("figures", {name: values for name, values in measured.items() if name in wanted})


if __name__ == "__main__":
    main()
