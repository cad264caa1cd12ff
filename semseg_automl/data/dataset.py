"""Torch data set over checked samples: decode and resize once, augment every epoch anew."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from semseg_automl.core.config import ImageSize
from semseg_automl.core.errors import DataError
from semseg_automl.core.hardware import detect
from semseg_automl.data.augment import Augment, Augmentation, check_answer, random_window, resolve_augment
from semseg_automl.data.channels import in_threes
from semseg_automl.data.class_crops import ClassCrops, place_of
from semseg_automl.data.frame import Samples
from semseg_automl.data.images import IntensityScaling, describe, parallel, read_seen
from semseg_automl.data.label_map import IGNORE, LabelMap
from semseg_automl.data.labels import read_mask
from semseg_automl.data.preprocess import (
    Geometry,
    normalise,
    pad_indices,
    plan_geometry,
    resize_indices,
    resize_rgb,
)

_CACHE_SHARE = 0.25
_CACHE_DEFAULT = 2 * 2**30


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Pictures and masks at the network's size.

    Parameters
    ----------
    samples : Samples with masks, N rows
    label_map : LabelMap
    image_size : int (long side) or (H, W), see ``preprocess.plan_geometry``
    augment : preset name or callable (image, mask, rng) -> (image, mask)
        Runs after resizing and before padding; depends on (seed, epoch, position) only. Sees three
        channels at a time, with the same random numbers (see ``channels.in_threes``).
    crop_size : int (square), (H, W) or None
        Training items are random windows of this size (padded to ``multiple``); None: whole pictures.
    aim : ClassCrops, optional
        Where crops are laid; None: anywhere.
    seed : int
    scaling : IntensityScaling or None
    cache : bool
        Keep resized 8-bit pictures in RAM until ``cache_bytes`` are used; the rest is read again.
    cache_bytes : int, optional
        None: a quarter of the memory that is available now (2 GiB where that is unknown).
    cache_share : float
        This process's share of it, where several processes cache at once.
    multiple : int
        Padding multiple.
    still : bool
        Pictures that fit into the crop lie at its top left, not at a random place: with flips as the only
        augmentation the network then sees each in a few forms that a cache of features can hold.

    Notes
    -----
    Items are asked for by position i (the epoch is :meth:`set_epoch`'s) or by (epoch, i), and are
    ``{"image": float32 (C, H', W'), "mask": int64 (H', W') with IGNORE = -1, "index": i}``.
    """

    def __init__(
        self,
        samples: Samples,
        label_map: LabelMap,
        *,
        image_size: ImageSize,
        augment: str | Augmentation = "none",
        crop_size: ImageSize | None = None,
        aim: ClassCrops | None = None,
        seed: int = 0,
        scaling: IntensityScaling | None = None,
        cache: bool = True,
        cache_bytes: int | None = None,
        cache_share: float = 1.0,
        multiple: int = 32,
        still: bool = False,
    ) -> None:
        if samples.masks is None:
            raise DataError("Training needs masks: check the table with need_label=True.")
        self.samples = samples
        self.label_map = label_map
        self.geometries = [plan_geometry(size, image_size, multiple) for size in samples.sizes]
        self._masks = samples.masks
        self._augment = resolve_augment(augment)
        self._crop = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
        self._padded_crop = (
            (0, 0) if self._crop is None else plan_geometry(self._crop, self._crop, multiple).padded
        )
        self._still = still
        self._aim = aim
        self._seed = seed
        self._scaling = scaling
        self._epoch = 0
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        room = _cache_size() if cache_bytes is None else cache_bytes
        self._room = int(room * cache_share) if cache else 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation the following items get."""
        self._epoch = int(epoch)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, i = key if isinstance(key, tuple) else (self._epoch, key)
        if not 0 <= i < len(self):
            raise IndexError(i)
        image, mask = self.pair(i)
        image, mask = in_threes(self._changed, image, mask, (self._seed, epoch, i))
        padded = self.geometries[i].padded if self._crop is None else self._padded_crop
        return {"image": normalise(image, padded), "mask": pad_indices(mask, padded), "index": i}

    def _changed(
        self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment and crop a picture of three channels."""
        crop = self._crop
        if self._still and crop is not None and mask.shape[0] <= crop[0] and mask.shape[1] <= crop[1]:
            crop = None
        if isinstance(self._augment, Augment):
            return self._augment(image, mask, rng, crop=crop, aim=self._aim)
        largest = mask.shape if crop is None else (1 << 15, 1 << 15)
        image, mask = check_answer(self._augment(image, mask, rng), largest, self.label_map.n_classes)
        if crop is not None:
            place = place_of(mask, crop, 1.0, rng, self._aim)
            image, mask = random_window(image, mask, crop, 1.0, place)
        return image, mask

    def full_size(self, i: int) -> tuple[torch.Tensor, np.ndarray, Geometry]:
        """Picture i for scoring: float32 (C, H', W'), class indices (H, W) int16 as stored, geometry."""
        geometry = self.geometries[i]
        kept = self._cache.get(i)
        if kept is not None:
            return normalise(kept[0], geometry.padded), read_mask(self._masks[i], self.label_map), geometry
        rgb, indices = self._read(i)
        return normalise(resize_rgb(rgb, geometry.resized), geometry.padded), indices, geometry

    def __getstate__(self) -> dict[str, Any]:  # worker processes started by spawn make their own lock
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())

    def pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture (h, w, C) uint8 and class indices (h, w) int16 at the resized size, not augmented."""
        kept = self._cache.get(i)
        if kept is not None:
            return kept
        size = self.geometries[i].resized
        rgb, indices = self._read(i)
        pair = resize_rgb(rgb, size), resize_indices(indices, size)
        cost = sum(a.nbytes for a in pair)
        with self._lock:
            if cost <= self._room and i not in self._cache:
                self._room -= cost
                self._cache[i] = pair
        return pair

    def preload(self) -> int:
        """Fill the cache in threads, before worker processes start; returns how many pictures it holds."""
        if self._room > 0:
            parallel(lambda i: self.pair(i) and None, range(len(self)))
        return len(self._cache)

    def _read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        rgb = read_seen(self.samples.images[i], self._scaling)
        indices = read_mask(self._masks[i], self.label_map)
        for array, source in ((rgb, self.samples.images[i]), (indices, self._masks[i])):
            if array.shape[:2] != self.samples.sizes[i]:
                raise DataError(
                    f"{describe(source)}: its size is no longer the {self.samples.sizes[i]} that was checked."
                )
        return rgb, indices


def collate(batch: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack items, padded right and bottom to the largest of the batch.

    Returns
    -------
    dict
        image float32 (B, C, H', W') padded with 0, mask int64 (B, H', W') padded with IGNORE,
        index int64 (B,).
    """
    height = max(item["mask"].shape[0] for item in batch)
    width = max(item["mask"].shape[1] for item in batch)
    images = torch.zeros((len(batch), len(batch[0]["image"]), height, width), dtype=torch.float32)
    masks = torch.full((len(batch), height, width), IGNORE, dtype=torch.int64)
    for b, item in enumerate(batch):
        h, w = item["mask"].shape
        images[b, :, :h, :w] = item["image"]
        masks[b, :h, :w] = item["mask"]
    return {"image": images, "mask": masks, "index": torch.tensor([item["index"] for item in batch])}


def bucket_order(
    geometries: Sequence[Geometry], batch_size: int, rng: np.random.Generator
) -> list[list[int]]:
    """Deal an epoch's positions into batches of pictures of the same padded shape.

    Every position occurs once. Full batches hold one shape each; what is left over of each shape is
    put together with its neighbours in shape, so only those batches may need padding. Pictures and
    batches are in random order.
    """
    shapes: dict[tuple[int, int], list[int]] = {}
    for i in rng.permutation(len(geometries)):
        shapes.setdefault(geometries[i].padded, []).append(int(i))
    batches: list[list[int]] = []
    rest: list[int] = []
    for shape in sorted(shapes):
        members = shapes[shape]
        full = len(members) - len(members) % batch_size
        batches += [members[k : k + batch_size] for k in range(0, full, batch_size)]
        rest += members[full:]
    batches += [rest[k : k + batch_size] for k in range(0, len(rest), batch_size)]
    return [batches[k] for k in rng.permutation(len(batches))]


def _cache_size() -> int:
    available = detect().memory_available
    return _CACHE_DEFAULT if available is None else int(available * _CACHE_SHARE)
