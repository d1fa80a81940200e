"""How long a model takes to load, the first time and from the cache of packed weights, and with how much memory.

    python benches/load.py CHECKPOINT [--weights q8] [--rounds 3]

Each load is a process of its own; the cache is a folder that ends with the program. Also the time that ``import lapwing``
takes above ``import numpy``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

LOAD = """
import json, resource, sys, time
import lapwing
start = time.perf_counter()
model = lapwing.load(sys.argv[1], weights=sys.argv[2])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "peak": peak, "bytes": model.info().bytes}))
"""
IMPORT = "import time; a = time.perf_counter(); import numpy; b = time.perf_counter(); import lapwing; print(time.perf_counter() - b)"


def python(code: str, *arguments: str, cache: str = "") -> str:
    environment = {**os.environ, **({"LAPWING_CACHE": cache} if cache else {})}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--weights", default="q8")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    loads: dict[str, list[dict[str, float]]] = {"first": [], "second": []}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as cache:
            for name in loads:
                loads[name].append(json.loads(python(LOAD, arguments.checkpoint, arguments.weights, cache=cache)))
    for name, found in loads.items():
        seconds = statistics.median(x["seconds"] for x in found)
        above = max(x["peak"] - x["bytes"] for x in found) / 1e6
        print(
            f"{name} load: {seconds:.2f} s, {found[0]['bytes'] / 1e6:.0f} MB of weights, peak {above:.0f} MB above them"
        )
    seconds = statistics.median(float(python(IMPORT)) for _ in range(5))
    print(f"import above numpy: {seconds:.3f} s")


if __name__ == "__main__":
    main()
