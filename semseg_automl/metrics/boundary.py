"""How well boundaries agree: the boundary F-measure and the Hausdorff distance of one mask's edges.

A mask's edge is its pixels with one of four neighbours outside the mask. Ignored neighbours are
neither in nor out, so that a border which the truth doesn't know counts on neither side.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TOLERANCE = 0.0075
"""Share of the picture's diagonal by which boundaries may differ in :func:`boundary_f`."""

_CROSS = ndimage.generate_binary_structure(2, 1)


def edge(mask: NDArray[np.bool_], valid: NDArray[np.bool_], *, frame: bool) -> NDArray[np.bool_]:
    """The edge pixels of a mask.

    Parameters
    ----------
    mask, valid
        (H, W) bool; pixels that are not valid are neither in nor outside the mask.
    frame
        Whether the picture's own border counts as outside.

    Returns
    -------
    (H, W) bool.
    """
    outside = np.pad(valid & ~mask, 1, constant_values=frame)  # (H, W) -> (H + 2, W + 2)
    return mask & valid & ndimage.binary_dilation(outside, _CROSS)[1:-1, 1:-1]


def boundary_f(pred: NDArray[np.bool_], truth: NDArray[np.bool_], valid: NDArray[np.bool_]) -> float:
    """Boundary F-measure of one class in one picture, 0..1, higher is better.

    Precision is the share of predicted edge pixels within the tolerance of a true one, recall the
    reverse, F their harmonic mean (Csurka et al., What is a Good Evaluation Measure for Semantic
    Segmentation?, BMVC 2013). The tolerance is :data:`TOLERANCE` of the diagonal, rounded up to
    whole pixels as in DAVIS (Perazzi et al., CVPR 2016), Euclidean. The picture's border is no edge.

    Parameters
    ----------
    pred, truth, valid
        (H, W) bool masks.

    Returns
    -------
    float
        0 if only one of the two has an edge; NaN if none has, or if the truth has no known edge
        because it lies next to ignored pixels.
    """
    ours, theirs = edge(pred, valid, frame=False), edge(truth, valid, frame=False)
    if not ours.any() and not theirs.any():
        return float("nan")
    if not theirs.any() and _is_cut_off(truth, valid):
        return float("nan")
    if not ours.any() or not theirs.any():
        return 0.0
    tolerance = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    there, back = surface_distances(ours, theirs)
    precision, recall = (float((d <= tolerance).mean()) for d in (there, back))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def hausdorff_95(pred: NDArray[np.bool_], truth: NDArray[np.bool_], valid: NDArray[np.bool_]) -> float:
    """95 % Hausdorff distance of one class in one picture, in pixels, lower is better.

    The larger of the two directed 95th percentiles (linear between ranks) of the distances from
    one's edge to the other's, as in MONAI; the picture's border is an edge (Huttenlocher et al.,
    PAMI 1993, for the partial distance).

    Parameters
    ----------
    pred, truth, valid
        (H, W) bool masks.

    Returns
    -------
    float
        The picture's diagonal (no distance is larger; MONAI has NaN) if only one of the two holds a
        pixel. NaN if none does, or if one has pixels but no known edge (next to ignored ones).
    """
    if bool(pred.any()) != bool(truth.any()):
        return math.hypot(*truth.shape)
    ours, theirs = edge(pred, valid, frame=True), edge(truth, valid, frame=True)
    if not ours.any() or not theirs.any():
        return float("nan")
    return max(float(np.percentile(d, 95)) for d in surface_distances(ours, theirs))


def surface_distances(
    first: NDArray[np.bool_], second: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances in pixels from each edge pixel to the other's nearest: (N,) first to second, (M,) back.

    Both (H, W) masks must hold a pixel.
    """
    box = ndimage.find_objects((first | second).astype(np.int8))[0]
    first, second = first[box], second[box]
    return (
        ndimage.distance_transform_edt(~second)[first],
        ndimage.distance_transform_edt(~first)[second],
    )


def _is_cut_off(mask: NDArray[np.bool_], valid: NDArray[np.bool_]) -> bool:
    """Whether the mask lies next to ignored pixels."""
    return bool((ndimage.binary_dilation(~valid, _CROSS) & mask).any())
