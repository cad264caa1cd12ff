"""Which backbone ``backbone="auto"`` means on this machine, and why."""

from __future__ import annotations

from semseg_automl.models.checkpoints import available_weights
from semseg_automl.models.devices import DeviceChoice, free_memory

FALLBACK = "mobile_sam"
NEEDED_GIB: dict[str, int] = {"sam_vit_h": 40, "sam_vit_l": 24, "sam_vit_b": 12}
"""Free GPU memory from which a backbone is chosen, best first. Estimates from the models' sizes with a
margin, not measurements; an out-of-memory trial still halves its micro-batch."""


def choose_backbone(devices: DeviceChoice) -> tuple[str, str]:
    """Return a registered name and the reason in words.

    On a GPU the largest SAM encoder whose weights lie in a local folder and that fits the free memory;
    else mobile_sam, which a CPU can train and whose weights every package registry carries. Nothing
    is downloaded to find out.
    """
    if devices.kind != "cuda":
        return FALLBACK, f"the backbone that a {devices.kind} device trains in reasonable time"
    free = (free_memory(devices) or 0) / 2**30
    local = available_weights()
    for name, needed in NEEDED_GIB.items():
        if local.get(name) is not None and free >= needed:
            return name, f"the largest with local weights that {free:.0f} GiB of GPU memory hold"
    return FALLBACK, "no weights of a larger one lie in a local folder, or the GPU's memory is too small"
