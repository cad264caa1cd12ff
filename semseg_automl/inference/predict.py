"""Probabilities and masks for pictures of any size, in batches of equal geometry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn

from semseg_automl.core.config import ImageSize
from semseg_automl.core.errors import ConfigError
from semseg_automl.core.log import get_logger
from semseg_automl.data.fingerprint import PictureSizes
from semseg_automl.data.images import IntensityScaling, Source, image_size, read_image, to_rgb
from semseg_automl.data.labels import LabelMap
from semseg_automl.data.preprocess import Geometry, plan_geometry, prepare_image
from semseg_automl.data.windows import PictureWindows, check_size
from semseg_automl.inference.tiled import joined, probability_rows
from semseg_automl.inference.tiling import WHOLE, TilePlan, TileRule, describe_tiles, plan_tiles
from semseg_automl.models.devices import flushed_denormals
from semseg_automl.models.postprocess import logits_to_original, probabilities

_log = get_logger("inference")
_PIXELS_PER_BATCH = {"cpu": 4 * 512 * 512, "mps": 8 * 512 * 512, "cuda": 16 * 1024 * 1024}
_LARGEST_BATCH = 32


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
        self.label_map = label_map
        self.image_size = image_size
        self.scaling = scaling
        self.threshold = 0.5 if threshold is None else threshold
        self.multiple = multiple
        self.trained = trained

    def probabilities(self, source: Source, *, tta: bool = False, tile: TileRule = WHOLE) -> np.ndarray:
        """Class probabilities of one picture.

        Parameters
        ----------
        source
            Path, array or PIL image.
        tta
            Average with the prediction for the mirrored picture.
        tile
            Whether and how the picture is cut into tiles.

        Returns
        -------
        ndarray
            (K, H, W) float32 at the picture's own size, summing to 1 over K (binary: K = 2).
        """
        return next(self.iter_probabilities([source], 1, tta=tta, tile=tile))[1]

    def mask(self, source: Source, *, tta: bool = False, tile: TileRule = WHOLE) -> np.ndarray:
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
        tta: bool = False,
        tile: TileRule = WHOLE,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (position in ``sources``, (K, H, W) float32 probabilities) for every picture once.

        Pictures that are seen whole come first. Those whose padded shape is equal share batches, so
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
            Average with the prediction for the mirrored picture (or tile).
        tile
            Which pictures are cut into tiles, and how.
        """
        whole, tiled = self._plan(sources, batch_size, tile)
        yield from self._iter_whole(sources, whole, batch_size, tta)
        for position, plan in tiled.items():
            yield (
                position,
                joined(self._tiled_rows(sources[position], plan, batch_size, tta), 1, plan.original[0]),
            )

    def iter_masks(
        self,
        sources: Sequence[Source],
        batch_size: int | str = "auto",
        *,
        tta: bool = False,
        tile: TileRule = WHOLE,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """As :meth:`iter_probabilities`, yielding masks in raw label values.

        A picture in tiles is decided a few rows at a time: of its probabilities, only the band of
        the grid that later tiles still change and one piece of rows are ever held.
        """
        whole, tiled = self._plan(sources, batch_size, tile)
        for position, found in self._iter_whole(sources, whole, batch_size, tta):
            yield position, self.to_mask(found)
        for position, plan in tiled.items():
            rows = self._tiled_rows(sources[position], plan, batch_size, tta)
            yield position, joined(map(self.to_mask, rows), 0, plan.original[0])

    def _plan(
        self, sources: Sequence[Source], batch_size: int | str, rule: TileRule
    ) -> tuple[dict[int, Geometry], dict[int, TilePlan]]:
        """Geometries of the pictures that are seen whole, and plans of those in tiles, by position."""
        if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
            raise ConfigError(f"batch_size={batch_size!r} must be 'auto' or a number of at least 1.")
        sizes = [image_size(s) for s in sources]
        plans = [
            plan_tiles(size, self.image_size, rule, self.trained, multiple=self.multiple) for size in sizes
        ]
        tiled = {i: plan for i, plan in enumerate(plans) if plan is not None}
        whole = {
            i: plan_geometry(size, self.image_size, self.multiple)
            for i, size in enumerate(sizes)
            if i not in tiled
        }
        if tiled:
            _log.info("%s", describe_tiles(rule, list(tiled.values()), len(sizes)))
        return whole, tiled

    def _iter_whole(
        self, sources: Sequence[Source], geometries: dict[int, Geometry], batch_size: int | str, tta: bool
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Pictures seen whole; the next batch is read while one runs."""
        positions = list(geometries)
        grouped = plan_batches(list(geometries.values()), batch_size, self.device.type)
        batches = [[positions[k] for k in batch] for batch in grouped]
        if not batches:
            return
        with ThreadPoolExecutor(max_workers=1) as reader:
            pending = reader.submit(self._read, sources, geometries, batches[0], tta)
            for number, batch in enumerate(batches):
                images = pending.result()
                if number + 1 < len(batches):
                    pending = reader.submit(self._read, sources, geometries, batches[number + 1], tta)
                yield from zip(batch, self._finish(images, [geometries[i] for i in batch], tta), strict=True)

    @torch.inference_mode()
    def _tiled_rows(
        self, source: Source, plan: TilePlan, batch_size: int | str, tta: bool
    ) -> Iterator[np.ndarray]:
        """(K, n, W) float32 probabilities of one picture in tiles, from top to bottom."""
        picture = PictureWindows(source, self.scaling)
        check_size(picture, plan.original, source)
        size = (
            automatic_batch_size(plan.tile, self.device.type) if isinstance(batch_size, str) else batch_size
        )
        for rows in probability_rows(picture, plan, self._logits, batch_size=size, tta=tta):
            yield rows.float().cpu().numpy()

    def _read(
        self, sources: Sequence[Source], geometries: dict[int, Geometry], batch: Sequence[int], tta: bool
    ) -> torch.Tensor:
        """(B, 3, H', W') of a batch; with ``tta`` (2B, 3, H', W'), the mirrored pictures last."""
        pictures = [to_rgb(read_image(sources[i]), self.scaling) for i in batch]
        images = [prepare_image(p, geometries[i]) for p, i in zip(pictures, batch, strict=True)]
        if tta:  # mirrored before padding, so that the padding stays right and bottom
            images += [
                prepare_image(np.ascontiguousarray(p[:, ::-1]), geometries[i])
                for p, i in zip(pictures, batch, strict=True)
            ]
        return torch.stack(images)

    @torch.inference_mode()
    def _finish(
        self, images: torch.Tensor, geometries: Sequence[Geometry], tta: bool
    ) -> Iterator[np.ndarray]:
        logits = self._logits(images)  # (B or 2B, K, H'/4, W'/4)
        return (
            self._probabilities(logits, i, geometry, len(geometries) if tta else 0)
            for i, geometry in enumerate(geometries)
        )

    @torch.inference_mode()
    def _probabilities(
        self, logits: torch.Tensor, i: int, geometry: Geometry, mirrored_at: int
    ) -> np.ndarray:
        found = probabilities(logits_to_original(logits[i], geometry))  # (K, H, W)
        if mirrored_at:
            mirrored = probabilities(logits_to_original(logits[mirrored_at + i], geometry))
            found = (found + mirrored.flip(-1)) / 2
        return found.float().cpu().numpy()

    @flushed_denormals()
    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H', W') -> (B, K, H'/4, W'/4) float32; halves the batch where memory is short."""
        try:
            return self.segmenter(images.to(self.device)).float()
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
            _log.warning("A batch of %d pictures does not fit the device's memory; halving it.", len(images))
        torch.cuda.empty_cache()
        half = len(images) // 2
        return torch.cat([self._logits(images[:half]), self._logits(images[half:])])


def plan_batches(
    geometries: Sequence[Geometry], batch_size: int | str, device_type: str = "cpu"
) -> list[list[int]]:
    """Positions grouped by padded shape (in order of first appearance), cut to batches."""
    groups: dict[tuple[int, int], list[int]] = {}
    for position, geometry in enumerate(geometries):
        groups.setdefault(geometry.padded, []).append(position)
    batches = []
    for shape, members in groups.items():
        size = automatic_batch_size(shape, device_type) if isinstance(batch_size, str) else batch_size
        batches += [members[i : i + size] for i in range(0, len(members), size)]
    return batches


def automatic_batch_size(shape: tuple[int, int], device_type: str = "cpu") -> int:
    """Pictures of a padded (H', W') per batch: as many as fill the device's pixel budget, 1 to 32."""
    fitting = _PIXELS_PER_BATCH.get(device_type, _PIXELS_PER_BATCH["cpu"]) // (shape[0] * shape[1])
    return max(1, min(_LARGEST_BATCH, fitting))
