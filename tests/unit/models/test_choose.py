"""What backbone="auto" means, on devices that the test makes up."""

from __future__ import annotations

from pathlib import Path

import pytest

from semseg_automl.models import choose
from semseg_automl.models.devices import DeviceChoice

GIB = 2**30


@pytest.mark.parametrize(
    ("kind", "free", "local", "expected"),
    [
        ("cpu", 500, {"sam_vit_h", "sam_vit_b"}, "mobile_sam"),
        ("cuda", 80, {"sam_vit_h", "sam_vit_b"}, "sam_vit_h"),
        ("cuda", 16, {"sam_vit_h", "sam_vit_b"}, "sam_vit_b"),
        ("cuda", 80, set(), "mobile_sam"),
        ("cuda", 4, {"sam_vit_b"}, "mobile_sam"),
    ],
)
def test_choice(
    monkeypatch: pytest.MonkeyPatch, kind: str, free: int, local: set[str], expected: str
) -> None:
    there = {name: Path(name) if name in local else None for name in (*choose.NEEDED_GIB, "mobile_sam")}
    monkeypatch.setattr(choose, "available_weights", lambda: there)
    monkeypatch.setattr(choose, "free_memory", lambda _devices: free * GIB)
    name, reason = choose.choose_backbone(DeviceChoice(kind))
    assert name == expected
    assert reason
