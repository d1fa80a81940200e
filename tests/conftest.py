"""Hypothesis profiles, and the default handling of signals.

The default profile is quick and deterministic; HYPOTHESIS_PROFILE=thorough draws more examples. If ``CI`` is set, a
failing example is not shrunk, which takes minutes on a slow machine.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from .checkpoints import large_decoder
from .loaded import free

_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate) if os.environ.get("CI") else tuple(Phase)
# Registered before the default profile: a profile inherits unset values from the profile that is active at
# registration, and would otherwise be deterministic and without a database of failures.
settings.register_profile("thorough", max_examples=1000, deadline=None, derandomize=False, suppress_health_check=_SLOW)
settings.register_profile(
    "default", max_examples=25, deadline=None, derandomize=True, phases=_PHASES, suppress_health_check=_SLOW
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
if os.environ.get("HYPOTHESIS_PROFILE") == "thorough":
    # A thousand examples, and shrinking a failing one, may exceed the usual timeout.
    os.environ.setdefault("PYTEST_TIMEOUT", "3600")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells start background jobs with SIGINT ignored, which child processes inherit: the tests of Ctrl-C and
    # their programs would wait for an interrupt that never arrives.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _free_models() -> Iterator[None]:
    yield
    free()


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder that chats slowly and at length: up to 4,096 tokens of random text."""
    folder = large_decoder(tmp_path_factory.mktemp("talker"), vocabulary=320, length=4096)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(__file__).parent / "golden" / "qwen3" / name, folder / name)
    return folder
