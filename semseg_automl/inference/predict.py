"""Probabilities and masks for pictures of any size, in batches of equal geometry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from semseg_automl.core.config import ImageSize
from semseg_automl.core.errors import ConfigError, DataError, DeviceMemoryError
from semseg_automl.core.log import get_logger
from semseg_automl.data.fingerprint import PictureSizes
from semseg_automl.data.images import IntensityScaling, Source, image_size
from semseg_automl.data.label_map import LabelMap
from semseg_automl.data.preprocess import plan_geometry
from semseg_automl.data.windows import PictureWindows, check_size
from semseg_automl.inference.tiled import MaskRows, joined, probability_rows
from semseg_automl.inference.tiling import WHOLE, TilePlan, TileRule, describe_tiles, plan_tiles
from semseg_automl.inference.views import Views, scaled_size
from semseg_automl.inference.whole import (
    Geometries,
    Trouble,
    automatic_batch_size,
    mean_probabilities,
    plan_batches,
    read_batches,
)
from semseg_automl.models.cuda_graphs import FastForward
from semseg_automl.models.devices import flushed_denormals, out_of_memory, trim_freed_memory

_log = get_logger("inference")
_TRIM_BYTES = 32 << 20
"""Of probabilities that were handed out, between two times at which freed memory is given back."""
Tta = bool | Views


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is seen whole and what in tiles, by position; how each is varied."""

    whole: dict[int, Geometries]
    tiled: dict[int, tuple[TilePlan, ...]]
    views: Views


def _raise(_position: int, error: DataError) -> None:
    raise error


class Predictor:
    """Run a segmenter on pictures and bring the result back to their own sizes.

    Parameters
    ----------
    segmenter
        Module from (B, 3, H', W') normalised images to (B, K, H'/4, W'/4) logits; moved to
        ``device`` and set to evaluation mode here. K = 1 means foreground logits.
    label_map
        Classes; decides the raw values of masks.
    image_size
        The size the model works at: long side, or (H, W).
    scaling
        How 16-bit and float pictures become 8 bit; None for plain 8 bit.
    threshold
        Binary only: a pixel is foreground from this probability on. None means 0.5.
    device
        Where the model runs.
    multiple
        Pictures are padded (right and bottom) to a multiple of this.
    trained
        Sizes of the pictures that the model was trained on; None: unknown (see ``tiling.plan_tiles``).
    """

    def __init__(
        self,
        segmenter: nn.Module,
        label_map: LabelMap,
        image_size: ImageSize,
        *,
        scaling: IntensityScaling | None = None,
        threshold: float | None = None,
        device: torch.device | str = "cpu",
        multiple: int = 32,
        trained: PictureSizes | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.segmenter = segmenter.to(self.device).eval()
        self._forward = FastForward(self.segmenter)
        self.label_map = label_map
        self.image_size = image_size
        self.scaling = scaling
        self.threshold = 0.5 if threshold is None else threshold
        self.multiple = multiple
        self.trained = trained

    def probabilities(self, source: Source, *, tta: Tta = False, tile: TileRule = WHOLE) -> np.ndarray:
        """Class probabilities of one picture.

        Parameters
        ----------
        source
            Path, array or PIL image.
        tta
            The views whose mean is taken; True: the picture and its mirror image.
        tile
            Whether and how the picture is cut into tiles.

        Returns
        -------
        ndarray
            (K, H, W) float32 at the picture's own size, summing to 1 over K (binary: K = 2).
        """
        return next(self.iter_probabilities([source], 1, tta=tta, tile=tile))[1]

    def mask(self, source: Source, *, tta: Tta = False, tile: TileRule = WHOLE) -> np.ndarray:
        """Mask of one picture in raw label values, (H, W) or (H, W, 3) for colours."""
        return next(self.iter_masks([source], 1, tta=tta, tile=tile))[1]

    def to_mask(self, probabilities: np.ndarray) -> np.ndarray:
        """Decide (K, H, W) probabilities: the threshold for binary, else the most probable class.

        Ties go to the lower class index, at the threshold to the foreground.
        """
        if self.label_map.num_outputs == 1:
            indices = (probabilities[1] >= self.threshold).astype(np.int64)
        else:
            indices = probabilities.argmax(axis=0)
        return self.label_map.decode(indices)

    def iter_probabilities(
        self,
        sources: Sequence[Source],
        batch_size: int | str = "auto",
        *,
        tta: Tta = False,
        tile: TileRule = WHOLE,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (position in ``sources``, (K, H, W) float32 probabilities) for every picture once.

        Pictures that are seen whole come first. Those whose padded shapes are equal share batches, so
        the order is by shape, then by position; at most two batches of them are in memory: one
        runs, the next is being read. Pictures in tiles follow one at a time, by position.

        Parameters
        ----------
        sources
            Paths, arrays, PIL images.
        batch_size
            Pictures (or tiles) per batch, or "auto" (from the device and the model's image size). A
            batch that does not fit a GPU's memory is halved.
        tta
            The views whose mean is taken; True: each picture (or tile) and its mirror image.
        tile
            Which pictures are cut into tiles, and how.
        """
        plan = self._plan(sources, batch_size, tile, tta)
        yield from self._iter_whole(sources, plan, batch_size, _raise)
        for position, plans in plan.tiled.items():
            rows = self._tiled_rows(sources[position], plans, batch_size, plan.views)
            yield position, joined(rows, 1, plans[0].original[0])

    def iter_masks(
        self,
        sources: Sequence[Source],
        batch_size: int | str = "auto",
        *,
        tta: Tta = False,
        tile: TileRule = WHOLE,
        sizes: Sequence[tuple[int, int]] | None = None,
        trouble: Trouble = _raise,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """As :meth:`iter_probabilities`, yielding masks in raw label values.

        A picture in tiles is decided a few rows at a time: of its probabilities, only the band of
        the grid that later tiles still change and one piece of rows are ever held.

        Parameters
        ----------
        sizes
            (H, W) of each picture, if they are known; None: headers are read.
        trouble
            Called with position and error of a picture that can't be decoded; where it does not
            raise, the picture is left out. The default raises.
        """
        parts = self.iter_mask_parts(sources, batch_size, tta=tta, tile=tile, sizes=sizes, trouble=trouble)
        for position, mask in parts:
            if isinstance(mask, np.ndarray):
                yield position, mask
                continue
            try:
                whole = joined(mask.parts, 0, mask.size[0])
            except DataError as error:
                trouble(position, error)
            else:
                yield position, whole

    def iter_mask_parts(
        self,
        sources: Sequence[Source],
        batch_size: int | str = "auto",
        *,
        tta: Tta = False,
        tile: TileRule = WHOLE,
        sizes: Sequence[tuple[int, int]] | None = None,
        trouble: Trouble = _raise,
    ) -> Iterator[tuple[int, np.ndarray | MaskRows]]:
        """As :meth:`iter_masks`, but a mask in tiles comes as rows, which are computed as they are taken.

        Each is to be used up before the next is asked for; taking its rows raises DataError where
        its picture can't be decoded.
        """
        plan = self._plan(sources, batch_size, tile, tta, sizes)
        for position, found in self._iter_whole(sources, plan, batch_size, trouble):
            yield position, self.to_mask(found)
        for position, plans in plan.tiled.items():
            rows = self._tiled_rows(sources[position], plans, batch_size, plan.views)
            yield position, MaskRows(size=plans[0].original, parts=map(self.to_mask, rows))

    def _plan(
        self,
        sources: Sequence[Source],
        batch_size: int | str,
        rule: TileRule,
        tta: Tta,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> _Plan:
        """Geometries of the pictures that are seen whole, and plans of those in tiles."""
        if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
            raise ConfigError(f"batch_size={batch_size!r} must be 'auto' or a number of at least 1.")
        views = Views.of(tta)
        found = _Plan(whole={}, tiled={}, views=views)
        for i, size in enumerate([image_size(s) for s in sources] if sizes is None else sizes):
            plans = [
                plan_tiles(size, self.image_size, rule, self.trained, multiple=self.multiple, zoom=s)
                for s in views.scales
            ]
            tiles = tuple(plan for plan in plans if plan is not None)  # all or none
            if tiles:
                found.tiled[i] = tiles
            else:
                found.whole[i] = tuple(
                    plan_geometry(size, scaled_size(self.image_size, s), self.multiple) for s in views.scales
                )
        if found.tiled:
            _log.info("%s", describe_tiles(rule, [plans[0] for plans in found.tiled.values()], len(sources)))
        return found

    def _iter_whole(
        self, sources: Sequence[Source], plan: _Plan, batch_size: int | str, trouble: Trouble
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Pictures seen whole; the next batch is read while one runs."""
        flips = plan.views.flips
        batches = plan_batches(plan.whole, batch_size, self.device.type, flips=len(flips))
        reader = read_batches(sources, plan.whole, batches, flips, self.scaling, trouble)
        handed_out = 0
        for batch in reader:
            if handed_out >= _TRIM_BYTES:
                trim_freed_memory()
                handed_out = 0
            with torch.inference_mode():
                logits = [self._logits(images) for images in batch.images]  # per scale (B*F, K, h, w)
            for k, position in enumerate(batch.positions):
                mine = [found[k * len(flips) : (k + 1) * len(flips)] for found in logits]
                probability = self._mean(mine, plan.whole[position], plan.views)
                handed_out += probability.nbytes
                yield position, probability

    def _mean(self, logits: list[torch.Tensor], seen: Geometries, views: Views) -> np.ndarray:
        """As ``mean_probabilities``; on the CPU where the device can't hold a picture at its own size."""
        try:
            return mean_probabilities(logits, seen, views)
        except RuntimeError as error:
            if self.device.type == "cpu" or not out_of_memory(error):
                raise
        torch.cuda.empty_cache()  # nothing where CUDA was never used
        return mean_probabilities([one.cpu() for one in logits], seen, views)

    @torch.inference_mode()
    def _tiled_rows(
        self, source: Source, plans: Sequence[TilePlan], batch_size: int | str, views: Views
    ) -> Iterator[np.ndarray]:
        """(K, n, W) float32 probabilities of one picture in tiles, from top to bottom."""
        picture = PictureWindows(source, self.scaling)
        check_size(picture, plans[0].original, source)
        size = (
            automatic_batch_size(plans[0].tile, self.device.type)
            if isinstance(batch_size, str)
            else batch_size
        )
        for rows in probability_rows(picture, plans, self._logits, batch_size=size, flips=views.flips):
            yield rows.float().cpu().numpy()

    @flushed_denormals()
    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H', W') -> (B, K, H'/4, W'/4) float32; halves the batch where memory is short."""
        try:
            return self._forward(images.to(self.device)).float()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(images) == 1:
                raise DeviceMemoryError(
                    f"Memory is too short for one picture of {images.shape[-2]} x {images.shape[-1]} pixels "
                    f"on {self.device} ({type(error).__name__}: {error}). Free memory, cut pictures into "
                    "tiles with tile=512, or use devices='cpu'."
                ) from error
            _log.warning("A batch of %d pictures does not fit the device's memory; halving it.", len(images))
        torch.cuda.empty_cache()  # nothing where CUDA was never used
        half = len(images) // 2
        return torch.cat([self._logits(images[:half]), self._logits(images[half:])])
