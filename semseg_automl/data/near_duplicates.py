"""Pictures that are alike, by a perceptual hash, within seconds: copies across a split, frames of videos."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from semseg_automl.core.errors import DataError
from semseg_automl.data.images import Source, as_path, parallel, read_image
from semseg_automl.data.remote import is_remote

BITS = 128
DISTANCE = 8
"""Differing bits, of 128, up to which two pictures count as nearly the same. On the nine data sets of
``benchmarks/quality`` every validation picture is 10 bits or more from every training picture; up to 30 of
each set differ from themselves at half the size by 1 to 5 bits in the median (at most 11), from a JPEG of
quality 30 by 2 to 6 (nine in ten by at most 10, but for two sets with little detail)."""
ALIKE = 20
"""Differing bits up to which two pictures show one scene, such as frames of a video. Of the training pictures
of five sets of separate ones (leaf_disease, landcover_dubai, roads_massachusetts, nuclei_dsb2018,
crack_forest) no two are so near; 428 frames of 20 videos (polyp_clinicdb) form 116 groups, 367 of drives
through streets, a second apart (camvid), 288."""
FLAT = 2.0
"""Standard deviation of the thumbnail, in percent of the picture's range, up to which it tells nothing."""
SECONDS = 3.0
_PART, _COMPARED = 256, 1024
_SIDE = 9
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's grey
_BITS_SET = np.array([bin(i).count("1") for i in range(256)], np.uint8)


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Pairs (position in training, position in validation), one at most for each validation picture.

    ``looked_at``: training pictures that there was time for. ``variety``: number of different scenes over
    the number of these, 0..1; pictures of one scene are joined by others that are each alike (``ALIKE``).
    """

    pairs: tuple[tuple[int, int], ...]
    looked_at: int
    variety: float = 1.0


def near_duplicates(
    train: Sequence[Source], val: Sequence[Source], *, seconds: float = SECONDS, seed: int = 0
) -> NearDuplicates:
    """Validation pictures that a training picture nearly equals, and how far training pictures differ.

    Parameters
    ----------
    train, val : pictures; URLs, and what can't be read, are passed over
    seconds : float
        No new part of pictures is begun after so long: validation pictures first (half of the time at
        most), then training pictures in random order.
    seed : int
        Of that order.

    Returns
    -------
    NearDuplicates
        Of several equals the nearest training picture that was looked at.
    """
    started, rng = time.monotonic(), np.random.default_rng(seed)
    held, codes = _hash_some(val, np.arange(len(val)), started + seconds / 2)
    best = np.full(len(held), BITS + 1)
    found = np.full(len(held), -1)
    order, looked_at, seen = rng.permutation(len(train)), 0, np.empty((0, BITS // 8), np.uint8)
    for at in range(0, len(train), _PART):
        if not len(held) or (at and time.monotonic() > started + seconds):
            break
        part = order[at : at + _PART]
        positions, others = _hash_some(train, part, np.inf)
        looked_at += len(part)
        seen = np.concatenate([seen, others])[:_COMPARED]
        if len(positions):
            distance = distances(codes, others)  # (V, T)
            nearest = distance.argmin(1)
            least = distance[np.arange(len(held)), nearest]
            better = least < best
            best[better], found[better] = least[better], positions[nearest[better]]
    pairs = tuple((int(found[k]), int(held[k])) for k in np.flatnonzero(best <= DISTANCE))
    return NearDuplicates(pairs=pairs, looked_at=looked_at, variety=variety(seen))


def variety(codes: np.ndarray) -> float:
    """Groups of pictures that are alike, over the number of pictures; codes (n, 16) uint8, 1.0 for n = 0."""
    if not len(codes):
        return 1.0
    alike, groups = distances(codes, codes) <= ALIKE, 0
    left = np.ones(len(codes), bool)
    while left.any():
        groups += 1
        reached = np.arange(len(codes)) == left.argmax()
        while reached.any():
            left &= ~reached
            reached = alike[reached].any(0) & left
    return groups / len(codes)


def difference_hash(grey: np.ndarray) -> np.ndarray | None:
    """Which neighbours of a 9 x 9 thumbnail are brighter, along rows and along columns.

    The difference hash (N. Krawetz, "Kind of like that", 2013) in both directions: it does not change
    with brightness and contrast, little with size, compression and noise.

    Parameters
    ----------
    grey : (H, W) float32

    Returns
    -------
    (16,) uint8, 128 bits; None for a picture that is nearly flat, whose bits would be noise
    """
    small = np.asarray(Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.BOX))
    low, high = float(grey.min()), float(grey.max())
    if not np.isfinite([low, high]).all() or small.std() <= FLAT / 100 * max(high - low, 1.0):
        return None
    across = small[:-1, 1:] > small[:-1, :-1]  # (8, 8)
    down = small[1:, :-1] > small[:-1, :-1]
    return np.packbits(np.concatenate([across.ravel(), down.ravel()]))  # (8, 8) twice -> (128,) -> (16,)


def distances(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Differing bits of every pair: (V, 16) and (T, 16) uint8 -> (V, T) int."""
    return _BITS_SET[one[:, None] ^ two[None]].sum(-1, dtype=np.int64)  # (V, T, 16) -> (V, T)


def _hash_some(
    sources: Sequence[Source], positions: np.ndarray, until: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions that could be hashed, and their codes (n, 16)."""
    kept: list[int] = []
    codes: list[np.ndarray] = []
    for at in range(0, len(positions), _PART):
        if at and time.monotonic() > until:
            break
        part = positions[at : at + _PART]
        for position, code in zip(part, parallel(lambda i: _hash(sources[i]), part.tolist()), strict=True):
            if code is not None:
                kept.append(int(position))
                codes.append(code)
    return np.array(kept, np.int64), np.array(codes, np.uint8).reshape(-1, BITS // 8)


def _hash(source: Any) -> np.ndarray | None:
    if is_remote(source):  # fetched once more only for this: not worth it
        return None
    try:
        return difference_hash(_grey(source))
    except (DataError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # whoever reads the picture for its own sake says what is wrong with it


def _grey(source: Any) -> np.ndarray:
    """(H, W) float32 luma; a JPEG is decoded at an eighth of its size where that is enough."""
    if not isinstance(source, np.ndarray | Image.Image):
        with Image.open(as_path(source)) as image:
            image.draft("L", (4 * _SIDE, 4 * _SIDE))
            if image.mode in ("L", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
                return np.asarray(image.convert("L"), np.float32)
    pixels = read_image(source).astype(np.float32)
    return pixels[..., :3] @ _LUMA if pixels.shape[2] in (3, 4) else pixels.mean(-1)  # (H, W, C) -> (H, W)
