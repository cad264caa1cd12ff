"""Frozen work done once: the encoder below its first trained block, from a store instead of computed.

The key of an entry is a hash of everything that its maps depend on: the pixels as the network gets them
(so picture, size, flip and preprocessing), the tensors and the sizes of the frozen part, where it ends, the
precision, torch and this format. All epochs, trials, processes and validations of a fit share the entries.
Flips are further entries; augmentation that never repeats a picture can't be served, and is not given up
for the cache: then there is none, and the reason is logged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from semseg_automl.core.config import ImageSize, RunConfig
from semseg_automl.core.log import get_logger
from semseg_automl.data.augment import OWN, Augment, resolve_augment
from semseg_automl.data.preprocess import plan_geometry
from semseg_automl.models.encoders.base import Encoder, Features
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.peft.registry import ADAPTERS
from semseg_automl.training.feature_store import FeatureStore, stack
from semseg_automl.training.job import TrainJob

_LOG = get_logger("training")
_FORMAT = 1
WORTH_VISITS = 2.0
"""Times that each form of a picture must be seen for its features to be kept."""
WORTH_WHOLE = 0.95
"""Share of the training pictures that the crops must hold whole: parts of the others only fill the store."""


def forms(augment: object) -> int | None:
    """Number of pictures that an augmentation makes of a whole one: flips only; None where it has no end."""
    if isinstance(augment, str) and augment.startswith(OWN):
        return None
    recipe = resolve_augment(augment)
    if not isinstance(recipe, Augment) or not recipe.only_flips:
        return None
    return (1 + (0 < recipe.horizontal_flip < 1)) * (1 + (0 < recipe.vertical_flip < 1))


def share_of_whole(sizes: Sequence[tuple[int, int]], image_size: ImageSize, crop: ImageSize | None) -> float:
    """Share of pictures of ``sizes`` (H, W) that fit into the training crops, once resized."""
    if crop is None:
        return 1.0
    height, width = (crop, crop) if isinstance(crop, int) else crop
    resized = (plan_geometry(size, image_size).resized for size in sizes)
    return sum(h <= height and w <= width for h, w in resized) / max(1, len(sizes))


def worth_caching(
    config: RunConfig, sizes: Sequence[tuple[int, int]], epochs: float, accelerator: str = "cpu"
) -> tuple[bool, str]:
    """Whether features are to be kept, and why, in words for the log.

    Parameters
    ----------
    config : of the training (of the trials of a search, its default).
    sizes : of the training pictures, (H, W).
    epochs : times that each picture is seen, over all trials.
    accelerator : elsewhere than on a CPU, maps from below block 0 are not kept: copying them there costs
        what computing them does (assumed, not measured).
    """
    number, method = forms(config.optim.augment), config.adapter.adapter
    everywhere = method != "decoder_only" and config.adapter.placement == "all"
    visits = epochs * (1.0 - config.optim.small_share)  # in full size; smaller ones are entries of their own
    whole = share_of_whole(sizes, config.model.image_size, config.optim.crop_size)
    seen = f"each picture is seen some {max(1, round(visits))} times"
    if number is None:
        reason = f"augment {config.optim.augment!r} makes new pictures every time"
    elif whole < WORTH_WHOLE:
        reason = f"the crops hold {whole:.0%} of the pictures whole"
    elif visits / number < WORTH_VISITS:
        reason = f"{seen}, in {number} form(s)"
    elif method == "full" and config.adapter.placement == "all":
        reason = "the whole encoder is trained"
    elif method in ADAPTERS and ADAPTERS[method].companion is not None:
        reason = f"{method} reads the picture beside the encoder"
    elif config.model.backbone.startswith("timm:"):
        reason = "timm's encoders are not cut"
    elif everywhere and config.model.backbone.startswith("sam_vit"):
        reason = "adapters are everywhere, and only the patch embedding lies below"
    elif everywhere and accelerator != "cpu":
        reason = f"adapters are everywhere, and on {accelerator} only what lies above block 0 is kept"
    else:
        return True, f"features below the first trained block are kept: {seen}, in {number} form(s)"
    return False, f"no feature cache: {reason}"


class FeatureCache:
    """``cache(images)`` is ``encoder.lower(images, cache.cut)`` without a graph, computed once per picture.

    Pictures are computed one by one, so that an entry doesn't depend on its neighbours in a batch: up
    to the rounding of batched matrix products the result is that of computing (tested to 1e-5), and
    to the bit the same whether an entry was there or not.

    Attributes
    ----------
    cut : the block below which everything is frozen.
    read, computed : pictures served so far.
    """

    def __init__(self, encoder: Encoder, cut: int, store: FeatureStore, precision: str, kind: str) -> None:
        self.encoder, self.cut, self.store = encoder, cut, store
        self.read = self.computed = 0
        self._origin = _origin(encoder, cut, precision, kind)

    def __call__(self, images: Tensor) -> Features:
        """Maps (B, h, w, C) by name, on the device of ``images`` (B, 3, H, W)."""
        host = images.detach().cpu()
        entries = []
        for b in range(len(images)):
            key = self._key(host[b])
            maps = self.store.get(key)
            if maps is None:
                with torch.no_grad():
                    maps = self.encoder.lower(images[b : b + 1], self.cut)
                self.store.put(key, {name: x.cpu() for name, x in maps.items()})
                self.computed += 1
            else:
                self.read += 1
            entries.append(maps)
        return stack(entries, images.device)

    def _key(self, image: Tensor) -> str:
        found = self._origin.copy()
        found.update(repr((tuple(image.shape), str(image.dtype))).encode())
        found.update(image.contiguous().numpy())
        return found.hexdigest()


def _origin(encoder: Encoder, cut: int, precision: str, kind: str) -> hashlib._Hash:
    """Hash of what every entry depends on besides its picture."""
    facts = (_FORMAT, torch.__version__, type(encoder).__name__, repr(encoder.config), cut, precision, kind)
    found = hashlib.sha256(repr(facts).encode())
    for name, value in encoder.state_dict().items():
        if cut == encoder.depth or encoder.block_of(name) < cut:
            found.update(repr((name, tuple(value.shape), str(value.dtype))).encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found


def attach_cache(segmenter: Segmenter, job: TrainJob) -> FeatureCache | None:
    """Let a segmenter take frozen features from the job's store; None where nothing can be kept."""
    if job.feature_cache is None:
        return None
    cut, number = segmenter.encoder.first_trained(), forms(job.config.optim.augment)
    if cut < 0 or number is None:
        _LOG.info(
            "No feature cache for this model: %s.",
            "nothing below its first trained block is frozen" if cut < 0 else "its augmentation has no end",
        )
        return None
    store = FeatureStore(Path(job.feature_cache))
    cache = FeatureCache(segmenter.encoder, cut, store, job.precision, job.accelerator)
    segmenter.cached_lower = cache
    return cache
