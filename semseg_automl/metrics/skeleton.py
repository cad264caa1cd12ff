"""Skeletons of masks and the centreline Dice of thin, branching objects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def cl_dice(pred: NDArray[np.bool_], truth: NDArray[np.bool_], valid: NDArray[np.bool_]) -> float:
    """Centreline Dice of one class in one picture, 0..1, higher is better.

    Harmonic mean of the share of the predicted skeleton inside the true mask and of the true skeleton
    inside the predicted mask (Shit et al., clDice, CVPR 2021, eq. 1 and 2).

    Parameters
    ----------
    pred, truth, valid
        (H, W) bool masks; pixels that are not valid are outside of both masks.

    Returns
    -------
    float
        0 if only one of the two holds a pixel, NaN if none does.
    """
    pred, truth = pred & valid, truth & valid
    if not pred.any() or not truth.any():
        return 0.0 if pred.any() or truth.any() else float("nan")
    precision = float(truth[skeleton(pred)].mean())
    sensitivity = float(pred[skeleton(truth)].mean())
    total = precision + sensitivity
    return 2 * precision * sensitivity / total if total else 0.0


def skeleton(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin a mask to lines of one pixel that keep its pieces and holes.

    Guo and Hall, Parallel Thinning with Two-Subiteration Algorithms, Communications of the ACM, 1989,
    algorithm A1, until nothing changes. (The authors of clDice use scikit-image's ``skeletonize``, whose
    lines lie a pixel aside in places; this one equals its ``thin``.)

    Parameters
    ----------
    mask
        (H, W) bool; outside of the picture is background.

    Returns
    -------
    (H, W) bool, a subset of the mask.
    """
    height, width = mask.shape
    padded = np.pad(mask, 1)  # (H, W) -> (H + 2, W + 2)
    cells = padded.ravel()  # a view: deleting cells deletes pixels
    row = width + 2
    around = np.array([1, 1 - row, -row, -row - 1, -1, row - 1, row, row + 1])  # from the right on
    weights = 1 << np.arange(8)
    active = np.flatnonzero(cells)
    changed = True
    while changed:
        changed = False
        for deletable in _DELETABLE:
            code = cells[active[:, None] + around] @ weights  # (N, 8) -> (N,)
            gone = active[deletable[code]]
            if gone.size:
                changed = True
                cells[gone] = False
                active = np.union1d(active, gone[:, None] + around)
            active = active[cells[active]]
        code = cells[active[:, None] + around] @ weights
        active = active[code != 255]  # inner pixels wait until a neighbour is deleted
    return padded[1 : height + 1, 1 : width + 1]


def _deletable() -> NDArray[np.bool_]:
    """(2, 256): which neighbourhoods let a pixel go in the first and in the second half of a round."""
    x = (((np.arange(256) >> np.arange(8)[:, None]) & 1) == 1).astype(np.int64)  # (8, 256), from the right on
    following = np.roll(x, -1, axis=0)
    even, odd = slice(0, None, 2), slice(1, None, 2)  # straight neighbours, diagonal ones
    crossings = ((1 - x[even]) * (x[odd] | np.roll(x, -2, axis=0)[even])).sum(0)
    pairs = np.minimum((x[even] | x[odd]).sum(0), (x[odd] | following[odd]).sum(0))
    border = (crossings == 1) & (pairs >= 2) & (pairs <= 3)
    right, above_right, above, above_left, left, below_left, below, below_right = x.astype(bool)
    first = ~((above_right | above | ~below_right) & right)
    second = ~((below_left | below | ~above_left) & left)
    return np.stack([border & first, border & second])


_DELETABLE = _deletable()
