"""A table of any length to mask files: part by part, past pictures that can't be read, with its rate."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.core.hardware import usable_cores
from semseg_automl.core.log import get_logger
from semseg_automl.data.frame import PictureList
from semseg_automl.data.images import Source
from semseg_automl.inference.predict import Predictor
from semseg_automl.inference.tiled import MaskRows
from semseg_automl.inference.tiling import WHOLE, TileRule
from semseg_automl.inference.views import Views
from semseg_automl.inference.writer import MaskWriter

_log = get_logger("inference")
PART = 2048
"""Pictures whose headers are read, and which are sorted into batches, together."""
_EVERY = 30.0
_SHOWN = 20
_WRITERS = 4


@dataclass(kw_only=True)
class Report:
    """What a run did: masks written, found finished, pictures that can't be read (position -> why)."""

    total: int
    written: int = 0
    skipped: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    pixels: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = self.written / self.seconds if self.seconds > 0 else 0.0
        text = (
            f"{self.written:,} masks written in {self.seconds:.1f} s: {rate:.3g} pictures and "
            f"{self.pixels / 1e6 / max(self.seconds, 1e-9):.3g} megapixels a second."
        )
        if self.skipped:
            text += f" {self.skipped:,} were there already."
        return text


def check_shard(shard: object) -> tuple[int, int] | None:
    """The argument ``shard`` of the estimator: None, or (i, n) with 0 <= i < n.

    Raises
    ------
    ConfigError
        Anything else.
    """
    if shard is None:
        return None
    pair = tuple(shard) if isinstance(shard, tuple | list) else ()
    whole = len(pair) == 2 and all(isinstance(v, int) and not isinstance(v, bool) for v in pair)
    if not whole or not 0 <= pair[0] < pair[1]:
        raise ConfigError(f"shard={shard!r} must be (i, n): part i of n, counted from 0, such as (0, 4).")
    return pair[0], pair[1]


def write_masks(
    predictor: Predictor,
    pictures: PictureList,
    writer: MaskWriter,
    positions: Sequence[int],
    *,
    batch_size: int | str = "auto",
    views: Views | bool = False,
    tile: TileRule = WHOLE,
) -> Report:
    """Predict and write the masks that are not there yet.

    Pictures are dealt with in parts of ``PART``, each sorted by size into batches; beside the list
    of sources, the memory is that of two batches and a few masks on their way to the disk; a mask in
    tiles is written while it is computed. A picture that can't be read is noted and left out; all of
    them are told at the end, with the rate.

    Parameters
    ----------
    predictor, pictures, writer
    positions : pictures to look after
    batch_size, views, tile : as ``Predictor.iter_masks`` has them (``views`` is ``tta`` there)

    Raises
    ------
    ArtifactError
        The folder can't be written.
    """
    report, started = Report(total=len(positions)), time.monotonic()
    told = started
    with writer.manifest, _Queue(writer) as queue:
        for at in range(0, len(positions), PART):
            part = positions[at : at + PART]
            masks = _masks(predictor, pictures, writer, part, report, batch_size, views, tile)
            for position, mask in masks:
                if isinstance(mask, np.ndarray):
                    queue.put(position, mask)
                elif not _write_rows(writer, report, position, mask):
                    continue
                report.written += 1
                report.pixels += math.prod(mask.size if isinstance(mask, MaskRows) else mask.shape[:2])
                if time.monotonic() - told > _EVERY:
                    told = time.monotonic()
                    _tell_progress(report, told - started)
    report.seconds = time.monotonic() - started
    _log.info("%s", report)
    _tell_failures(report, writer)
    return report


def _masks(
    predictor: Predictor,
    pictures: PictureList,
    writer: MaskWriter,
    part: Sequence[int],
    report: Report,
    batch_size: int | str,
    views: Views | bool,
    tile: TileRule,
) -> Iterator[tuple[int, np.ndarray | MaskRows]]:
    """(position, mask) of the unfinished pictures of one part, failures noted."""
    todo = writer.unfinished(part)
    report.skipped += len(part) - len(todo)
    there: list[tuple[int, Source, tuple[int, int]]] = []
    for position, found in zip(todo, pictures.look(todo), strict=True):
        if isinstance(found, DataError):
            _fail(writer, report, position, found)
        else:
            there.append((position, *found))
    masks = predictor.iter_mask_parts(
        [source for _, source, _ in there],
        batch_size,
        tta=views,
        tile=tile,
        sizes=[size for _, _, size in there],
        trouble=lambda k, error: _fail(writer, report, there[k][0], error),
    )
    for k, mask in masks:
        yield there[k][0], mask


def _write_rows(writer: MaskWriter, report: Report, position: int, mask: MaskRows) -> bool:
    """Write a mask in tiles while it is computed; False where its picture can't be decoded."""
    try:
        writer.write_rows(position, mask)
    except DataError as error:
        _fail(writer, report, position, error)
        return False
    return True


def _fail(writer: MaskWriter, report: Report, position: int, error: DataError) -> None:
    report.failures[position] = str(error)
    writer.fail(position, str(error))


class _Queue:
    """Masks on their way to the disk, encoded and written by a few threads; a full queue waits."""

    def __init__(self, writer: MaskWriter) -> None:
        self._writer = writer
        self._threads = min(_WRITERS, usable_cores())
        self._pool = ThreadPoolExecutor(max_workers=self._threads)
        self._pending: deque[Future[Path]] = deque()

    def put(self, position: int, mask: np.ndarray) -> None:
        self._pending.append(self._pool.submit(self._writer.write, position, mask))
        while len(self._pending) > 2 * self._threads or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()  # raises what the thread raised

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            for future in self._pending:
                future.result()


def _tell_progress(report: Report, seconds: float) -> None:
    dealt = report.written + report.skipped + len(report.failures)
    left = (report.total - dealt) * seconds / max(report.written, 1)
    _log.info(
        "%s of %s pictures, %.3g a second, about %.0f s left.",
        f"{dealt:,}",
        f"{report.total:,}",
        report.written / seconds,
        left,
    )


def _tell_failures(report: Report, writer: MaskWriter) -> None:
    if not report.failures:
        return
    lines = [f"  {text}" for text in list(report.failures.values())[:_SHOWN]]
    if len(report.failures) > _SHOWN:
        lines.append(f"  and {len(report.failures) - _SHOWN:,} more, in {writer.manifest.path}")
    count = f"{len(report.failures):,} of {report.total:,}"
    _log.warning("%s pictures can't be read and have no mask:\n%s", count, "\n".join(lines))
