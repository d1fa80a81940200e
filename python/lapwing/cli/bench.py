"""``lapwing bench``: hands its arguments to the benchmark."""

from __future__ import annotations

import argparse
from importlib import import_module


def bench(arguments: argparse.Namespace) -> int:
    """Runs the benchmark with its own options."""
    module = import_module("lapwing.bench")
    return int(module.main(arguments.arguments) or 0)
