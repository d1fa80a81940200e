"""Profiles of hypothesis, and signals as a terminal gives them.

The default profile is quick and the same each time; HYPOTHESIS_PROFILE=thorough looks further. Where ``CI`` is set a
failing example is shown as it was found: making it small takes minutes on a slow machine.
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
# Before the default one: a profile takes what it does not say from the profile that is the default when it is registered,
# and would neither draw at random nor remember what failed.
settings.register_profile("thorough", max_examples=1000, deadline=None, derandomize=False, suppress_health_check=_SLOW)
settings.register_profile(
    "default", max_examples=25, deadline=None, derandomize=True, phases=_PHASES, suppress_health_check=_SLOW
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
if os.environ.get("HYPOTHESIS_PROFILE") == "thorough":
    # A thousand examples, and making a failing one small, may take longer than a test may otherwise.
    os.environ.setdefault("PYTEST_TIMEOUT", "3600")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells start what runs in the background with Ctrl-C ignored, and programs inherit that: the tests of Ctrl-C and
    # the programs they start would wait for an interrupt that never comes.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _free_models() -> Iterator[None]:
    yield
    free()


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder that chats at length, and not too fast: up to 4,096 tokens of random text."""
    folder = large_decoder(tmp_path_factory.mktemp("talker"), vocabulary=320, length=4096)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(__file__).parent / "golden" / "qwen3" / name, folder / name)
    return folder
