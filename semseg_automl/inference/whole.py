"""Pictures that are seen whole: batches of equal shapes, read ahead of the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semseg_automl.core.errors import DataError
from semseg_automl.core.hardware import usable_cores
from semseg_automl.data.images import IntensityScaling, Source, describe, read_image, to_rgb
from semseg_automl.data.preprocess import Geometry, prepare_image
from semseg_automl.inference.views import FLIPS, Views, turned
from semseg_automl.models.postprocess import logits_to_original, probabilities

Geometries = tuple[Geometry, ...]
"""How one picture is seen, for each scale of the views."""
Trouble = Callable[[int, DataError], None]
"""Told the position of a picture that can't be read, and why; it raises, or the picture is left out."""

_PIXELS_PER_BATCH = {"cpu": 4 * 512 * 512, "mps": 8 * 512 * 512, "cuda": 16 * 1024 * 1024}
_LARGEST_BATCH = 32
_READERS = 8


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures read together: positions, and per scale (B * F, 3, H', W') with a picture's flips together."""

    positions: tuple[int, ...]
    images: tuple[Tensor, ...]


def plan_batches(
    geometries: Mapping[int, Geometries], batch_size: int | str, device_type: str = "cpu", *, flips: int = 1
) -> list[list[int]]:
    """Positions grouped by padded shapes (in order of first appearance), cut to batches."""
    groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for position, seen in geometries.items():
        groups.setdefault(tuple(g.padded for g in seen), []).append(position)
    batches = []
    for shapes, members in groups.items():
        size = batch_size
        if isinstance(size, str):
            size = automatic_batch_size(max(shapes, key=math.prod), device_type, flips=flips)
        batches += [members[i : i + size] for i in range(0, len(members), size)]
    return batches


def automatic_batch_size(shape: tuple[int, int], device_type: str = "cpu", *, flips: int = 1) -> int:
    """Pictures of a padded (H', W') per batch: as many as fill the device's pixel budget, 1 to 32.

    A picture and its mirror image count as one, four flips as two.
    """
    pixels = shape[0] * shape[1] * math.ceil(flips / 2)
    fitting = _PIXELS_PER_BATCH.get(device_type, _PIXELS_PER_BATCH["cpu"]) // pixels
    return max(1, min(_LARGEST_BATCH, fitting))


def read_batches(
    sources: Sequence[Source],
    geometries: Mapping[int, Geometries],
    batches: Sequence[Sequence[int]],
    flips: Sequence[str],
    scaling: IntensityScaling | None,
    trouble: Trouble,
) -> Iterator[Batch]:
    """Yield each batch while threads read the next one; at most two are in memory."""
    with ThreadPoolExecutor(max_workers=min(_READERS, usable_cores())) as pool:

        def submit(batch: Sequence[int]) -> list[tuple[int, Future[list[Tensor]]]]:
            return [(i, pool.submit(_read, sources[i], geometries[i], flips, scaling)) for i in batch]

        pending = submit(batches[0]) if batches else []
        for number in range(len(batches)):
            found = dict(_results(pending, trouble))
            pending = submit(batches[number + 1]) if number + 1 < len(batches) else []
            if found:
                yield Batch(
                    positions=tuple(found),
                    images=tuple(_joined(images) for images in zip(*found.values(), strict=True)),
                )


def _joined(images: Sequence[Tensor]) -> Tensor:
    """(n, 3, H', W') each, behind one another; one alone is not copied."""
    return images[0] if len(images) == 1 else torch.cat(list(images))


def _results(
    pending: Sequence[tuple[int, Future[list[Tensor]]]], trouble: Trouble
) -> Iterator[tuple[int, list[Tensor]]]:
    for position, future in pending:
        try:
            images = future.result()
        except DataError as error:
            trouble(position, error)
        else:
            yield position, images


def _read(
    source: Source, geometries: Geometries, flips: Sequence[str], scaling: IntensityScaling | None
) -> list[Tensor]:
    """For each scale (F, 3, H', W'): the flips, made before padding, which stays right and bottom."""
    picture = to_rgb(read_image(source), scaling)
    planned = geometries[0].original
    if picture.shape[:2] != planned:
        raise DataError(f"{describe(source)}: its size is no longer the {planned} that was planned for.")
    variants = [turned(picture, flip) for flip in flips]
    return [_joined([prepare_image(v, geometry)[None] for v in variants]) for geometry in geometries]


@torch.inference_mode()
def mean_probabilities(logits: Sequence[Tensor], geometries: Geometries, views: Views) -> np.ndarray:
    """Probabilities of one picture from the logits of its views.

    Parameters
    ----------
    logits : for each scale (F, K, h, w) float, in the order of ``views.flips``
    geometries : for each scale

    Returns
    -------
    ndarray
        (K, H, W) float32, the mean over all views, each turned back.
    """
    total: Tensor | None = None
    for found, geometry in zip(logits, geometries, strict=True):
        for one, flip in zip(found, views.flips, strict=True):
            back = probabilities(logits_to_original(one, geometry))
            back = back.flip(FLIPS[flip]) if FLIPS[flip] else back  # which copies even without axes
            total = back if total is None else total + back
    if total is None:
        raise RuntimeError("no views")
    return (total / len(views) if len(views) > 1 else total).float().cpu().numpy()
