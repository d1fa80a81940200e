"""No file makes the library panic, abort, hang or raise errors other than its own.

``LAPWING_MUTANTS`` is the number of broken checkpoints (2,000), ``LAPWING_MUTANT`` the first seed.
"""

from __future__ import annotations

import ast
import os
import select
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from . import mutants

COUNT = int(os.environ.get("LAPWING_MUTANTS", "2000"))
FIRST = int(os.environ.get("LAPWING_MUTANT", "0"))
SECONDS = 30


class Worker:
    """A process that tries mutants; replaced when it dies or hangs."""

    def __init__(self) -> None:
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        paths = [str(Path(mutants.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.mutants"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=paths[0],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
        )

    def try_(self, folder: Path) -> str:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{folder}\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], SECONDS)
        line = process.stdout.readline() if ready else ""
        if line:
            return str(ast.literal_eval(line))
        code = self.close()
        self._process = self._start()
        return f"wrong: ended with {code}" if ready else f"wrong: no answer within {SECONDS} s"

    def close(self) -> int:
        """Ends the process; returns its exit code if it had ended by itself."""
        with self._process as process:
            process.kill()
            return process.wait()


@pytest.mark.timeout(1200)  # half a minute on a quiet machine
def test_broken_checkpoints_are_refused_or_work(tmp_path: Path) -> None:
    worker, wrong, outcomes = Worker(), [], Counter[str]()
    try:
        for seed in range(FIRST, FIRST + COUNT):
            folder = tmp_path / str(seed)
            what = mutants.make(seed, folder)
            answer = worker.try_(folder)
            outcomes[answer.split(maxsplit=1)[0]] += 1
            if answer.startswith("wrong"):
                wrong.append(f"{seed}: {what}: {answer}")
            shutil.rmtree(folder)
    finally:
        worker.close()
    assert not wrong, f"{len(wrong)} of {COUNT}:\n" + "\n".join(wrong[:40])
    # Enough of them are really broken, and enough reach a computation.
    assert outcomes["refused"] > COUNT // 4 and outcomes["ok"] > COUNT // 20, outcomes
