"""Which variants of a picture are predicted and averaged: turned over, and at other scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from semseg_automl.core.config import ImageSize
from semseg_automl.core.errors import ConfigError, unknown_name

FLIPS: dict[str, tuple[int, ...]] = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}
"""Name -> axes of (..., H, W) that are turned round."""
_LEAST, _MOST = 0.25, 4.0


@dataclass(frozen=True, kw_only=True)
class Views:
    """Every flip at every scale: ``len(flips) * len(scales)`` predictions, whose probabilities are averaged.

    Attributes
    ----------
    flips : names in ``FLIPS``
    scales : factors on the size at which the model sees a picture, 0.25 to 4
    """

    flips: tuple[str, ...] = ("none",)
    scales: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, tta: Any) -> Views:
        """Check the argument ``tta`` of the estimator.

        Parameters
        ----------
        tta : bool, name in ``NAMED``, mapping with ``flips`` and/or ``scales``, or Views
            False: the picture as it is. True: "mirror".

        Raises
        ------
        ConfigError
            Anything else; an unknown flip; a scale outside 0.25..4; an empty or repeating list.
        """
        if isinstance(tta, Views):
            return tta
        if isinstance(tta, bool | np.bool_) or tta is None:
            return NAMED["mirror" if tta else "none"]
        if isinstance(tta, str):
            if tta not in NAMED:
                raise unknown_name("tta", tta, NAMED)
            return NAMED[tta]
        if not isinstance(tta, Mapping):
            raise ConfigError(
                f"tta={tta!r} must be a bool, one of {', '.join(NAMED)}, or a dict with flips and scales."
            )
        for name in tta:
            if name not in ("flips", "scales"):
                raise unknown_name("tta entry", name, ("flips", "scales"))
        return cls(flips=_flips(tta.get("flips", ("none",))), scales=_scales(tta.get("scales", (1.0,))))

    def __len__(self) -> int:
        return len(self.flips) * len(self.scales)


NAMED: dict[str, Views] = {
    "none": Views(),
    "mirror": Views(flips=("none", "horizontal")),
    "flips": Views(flips=("none", "horizontal", "vertical", "both")),
    "scales": Views(flips=("none", "horizontal"), scales=(0.75, 1.0, 1.25)),
    "flips_and_scales": Views(flips=("none", "horizontal", "vertical", "both"), scales=(0.75, 1.0, 1.25)),
}
"""What ``tta`` may be called: 1, 2, 4, 6 and 12 predictions a picture."""


def turned(picture: np.ndarray, flip: str) -> np.ndarray:
    """(H, W, C) turned over as ``flip`` names, contiguous."""
    axes = tuple(axis - 1 for axis in FLIPS[flip])  # of (H, W, C), where C is last
    return np.ascontiguousarray(np.flip(picture, axes)) if axes else picture


def scaled_size(image_size: ImageSize, scale: float) -> ImageSize:
    """The model's size times ``scale``, at least 1 pixel."""
    if scale == 1.0:
        return image_size
    if isinstance(image_size, int):
        return max(1, round(image_size * scale))
    return max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale))


def _flips(names: Any) -> tuple[str, ...]:
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in FLIPS:
            raise unknown_name("flip", name, FLIPS)
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"tta: flips={names!r} must name at least one flip, and each once.")
    return names


def _scales(values: Any) -> tuple[float, ...]:
    values = (values,) if isinstance(values, Real) else tuple(values)
    right = all(
        isinstance(v, Real) and not isinstance(v, bool) and _LEAST <= float(v) <= _MOST for v in values
    )
    if not values or not right or len(set(values)) < len(values):
        raise ConfigError(f"tta: scales={values!r} must be different numbers from {_LEAST:g} to {_MOST:g}.")
    return tuple(float(v) for v in values)
