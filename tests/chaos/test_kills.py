"""A process that is killed while it saves leaves the old model or the new one, never neither."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.chaos.apart import figures_of
from tests.chaos.figures import keep

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")


def kill(count: int, seed: int, timeout: float) -> dict[str, Any]:
    found = figures_of("tests.chaos.kill_saves", count, seed, timeout)
    assert sum(found["found"].values()) == count
    return found


def test_five_kills() -> None:
    kill(5, seed=1, timeout=120)


@pytest.mark.chaos
def test_two_hundred_kills() -> None:
    found = kill(200, seed=2, timeout=1800)
    keep("killed_saves", found)
    assert found["killed_amid_a_write"] >= 20, found  # the kills do come while something is written
    assert set(found["found"]) == {"model 0", "model 1"}
