"""Random fields that generated pictures are made of."""

from __future__ import annotations

import numpy as np


def noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    frequency: float,
    orientations: int = 0,
    angle: float = 0.0,
) -> np.ndarray:
    """Band-limited Gaussian noise (H, W), mean 0, variance 1; grained along so many directions."""
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    radius = np.hypot(fy, fx)
    band = np.exp(-0.5 * (np.log(np.maximum(radius, 1e-6) / frequency) / 0.35) ** 2)
    if orientations:
        turn = np.arctan2(fy, fx) - angle
        width = 0.22
        band = band * sum(
            np.exp(-0.5 * (np.sin(turn - k * np.pi / orientations) / width) ** 2) for k in range(orientations)
        )
    out = np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) * band, s=shape)
    scaled: np.ndarray = (out - out.mean()) / max(float(out.std()), 1e-9)
    return scaled
