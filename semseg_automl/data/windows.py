"""Windows of a scaled picture, without ever holding the scaled picture."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, TiffImagePlugin

from semseg_automl.core.errors import DataError
from semseg_automl.data.images import IntensityScaling, Source, as_path, describe, read_image, to_rgb
from semseg_automl.data.preprocess import resize_rgb
from semseg_automl.data.remote import is_remote

_COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _ORIENTATION, _SAMPLES, _PLANAR, _PREDICTOR = (
    259, 262, 266, 274, 277, 284, 317,
)  # fmt: skip
_BITS, _OFFSETS, _COUNTS = 258, 273, 279
_LAYOUTS = {"L": (1, 1), "RGB": (3, 2)}  # mode -> channels, photometric interpretation


class PictureWindows:
    """Parts of one picture as the network sees it.

    An uncompressed 8-bit TIFF in strips is mapped into memory for each window anew, and only read
    where the window lies, so that the memory does not grow with the picture.
    Any other file is decoded whole and kept as it is stored (8-bit colour: three bytes a pixel,
    about twice that while Pillow decodes). Pillow refuses files of more than twice
    ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, here as everywhere: raise that number for files you trust.

    Parameters
    ----------
    source : path, array or PIL image
    scaling : IntensityScaling or None
        See ``images.to_rgb``.

    Attributes
    ----------
    size : (H, W)

    Raises
    ------
    DataError
        Naming the file, if it can't be decoded.
    """

    def __init__(self, source: Source, scaling: IntensityScaling | None = None) -> None:
        mapped = map_tiff(source)
        self._source: Source | None = None if mapped is None else source
        pixels = read_image(source) if mapped is None else mapped
        if pixels.dtype.kind == "f" and scaling is None:  # its range is the whole picture's
            pixels = to_rgb(pixels)
        self._pixels, self._scaling = (pixels if mapped is None else None), scaling
        self.size = (pixels.shape[0], pixels.shape[1])

    def window(self, scaled: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """One window of the picture scaled to ``scaled`` (bilinear with antialiasing, Pillow's).

        The window is what it would be if cut from the whole scaled picture, but for rounding.

        Parameters
        ----------
        scaled : (H', W')
        rows, columns : first and behind the last, in scaled pixels

        Returns
        -------
        ndarray
            (h, w, C) uint8.
        """
        pixels = self._pixels if self._source is None else map_tiff(self._source)
        if pixels is None or pixels.shape[:2] != self.size:
            raise DataError(f"{describe(self._source or '')}: the file was changed while it was read.")
        if scaled == self.size:
            return to_rgb(pixels[slice(*rows), slice(*columns)], self._scaling)
        top, bottom, upper, lower = _source_range(self.size[0], scaled[0], rows)
        left, right, near, far = _source_range(self.size[1], scaled[1], columns)
        part = to_rgb(pixels[top:bottom, left:right], self._scaling)
        size = (rows[1] - rows[0], columns[1] - columns[0])
        return resize_rgb(part, size, box=(near, upper, far, lower))


def map_tiff(source: Source) -> np.ndarray | None:
    """Memory-mapped pixels of an uncompressed 8-bit grey or RGB TIFF in adjoining strips, else None.

    Returns
    -------
    ndarray, (H, W, C) uint8 with C in {1, 3}, read only; or None
    """
    if isinstance(source, np.ndarray | Image.Image):
        return None
    path = as_path(source)
    if not path.lower().endswith((".tif", ".tiff")) or is_remote(path):
        return None
    try:
        with Image.open(path) as image:
            layout = _plain_layout(image)
        return None if layout is None else np.memmap(path, np.uint8, "r", *layout)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # read_image says what is wrong
        return None


def check_size(windows: PictureWindows, size: tuple[int, int], source: Source) -> None:
    """Raise DataError where a picture's size is not the one that its header told."""
    if windows.size != tuple(size):
        raise DataError(f"{describe(source)}: its size is no longer the {tuple(size)} that was planned for.")


def _plain_layout(image: Image.Image) -> tuple[int, tuple[int, int, int]] | None:
    """(offset, (H, W, C)) of the pixels where the file holds them row after row, as they are."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.mode not in _LAYOUTS:
        return None
    tags = image.tag_v2
    channels, photometric = _LAYOUTS[image.mode]
    shape = (image.size[1], image.size[0], channels)
    plain = all(tags.get(t, 1) == 1 for t in (_COMPRESSION, _FILL_ORDER, _ORIENTATION, _PLANAR, _PREDICTOR))
    offsets, counts = tags.get(_OFFSETS), tags.get(_COUNTS)
    if not plain or tags.get(_PHOTOMETRIC) != photometric or tags.get(_SAMPLES, 1) != channels:
        return None
    if tags.get(_BITS) != (8,) * channels or not offsets or not counts or len(offsets) != len(counts):
        return None
    ends = [o + c for o, c in zip(offsets, counts, strict=True)]
    adjoining = list(offsets[1:]) == ends[:-1] and ends[-1] - offsets[0] == math.prod(shape)
    return (offsets[0], shape) if adjoining else None


def _source_range(length: int, scaled: int, part: tuple[int, int]) -> tuple[int, int, float, float]:
    """Stored pixels that a part of the scaled axis needs, and the part's ends within them."""
    ratio = length / scaled
    begin, end = part[0] * ratio, min(part[1] * ratio, float(length))
    margin = math.ceil(max(ratio, 1.0)) + 1  # half the width of the bilinear filter, and rounding
    first, behind = max(0, math.floor(begin) - margin), min(length, math.ceil(end) + margin)
    return first, behind, begin - first, end - first
