"""No mutation of a saved model ends in anything but an ArtifactError or equal masks; no hang, no code run."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.apart import figures_of
from tests.chaos.figures import keep

PEAK_MIB = 1024


def fuzz(count: int, seed: int, timeout: float) -> dict[str, Any]:
    found = figures_of("tests.fuzz.run", count, seed, timeout)
    assert sum(found["outcomes"].values()) == count
    assert found["outcomes"].get("equal masks", 0) > 0  # the harness does load what is unharmed
    assert found["peak_mib"] is None or found["peak_mib"] < PEAK_MIB, found
    return found


def test_a_hundred_mutations() -> None:
    fuzz(100, seed=1, timeout=900)


@pytest.mark.chaos
def test_two_thousand_mutations() -> None:
    keep("mutated_models", fuzz(2000, seed=2, timeout=3600))
