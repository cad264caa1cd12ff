"""0/255 masks that a lossy format or smoothing has blurred are refused, not guessed."""

from __future__ import annotations

from semseg_automl.core.errors import DataError
from semseg_automl.data.masks import LabelScan

_NEAR, _NOISY = 32, 3  # how far from 0 or 255 noise reaches; so many values near each make it noise


def refuse_noise(scan: LabelScan) -> None:
    """Raise DataError where the masks are 0/255 masks that a lossy format or smoothing has blurred."""
    values = [v for v in scan.values if isinstance(v, int)]
    low, high = ([v for v in values if 0 < v <= _NEAR], [v for v in values if 255 - _NEAR <= v < 255])
    if len(values) < len(scan.values) or len(low) < _NOISY or len(high) < _NOISY or max(values) > 255:
        return
    near = sum(n for v, n in scan.pixels.items() if isinstance(v, int) and not _NEAR < v < 255 - _NEAR)
    share = near / sum(scan.pixels.values())
    if share < 0.9:
        return
    raise _blurred(scan, f"{100 * share:.0f} % of the pixels near 0 or 255")


def refuse_edges(scan: LabelScan) -> None:
    """Raise DataError where 0/255 masks have grey edges: fewer values than noise has, at every object.

    Half a size by averaging gives 64, 128 and 192, a JPEG of the best quality 1 and 254. Left alone, 255
    would be ignored beside them, and with it every object. Class numbers are hardly such greys: they are
    small, or not at nearly every object. (``ignore_index=255`` says so.)
    """
    pixels = scan.pixels
    between = [v for v in pixels if isinstance(v, int) and 0 < v < 255]
    if len(between) < 2 or len(between) + 2 != len(pixels) or not {0, 255} <= pixels.keys():
        return
    ends = pixels[0] + pixels[255]
    commonest = max(pixels[v] for v in between)
    common = any(v > _NEAR and scan.pictures[v] >= 0.5 * scan.pictures[255] for v in between)
    if common and min(pixels[0], pixels[255]) > commonest and ends >= 0.9 * sum(pixels.values()):
        raise _blurred(scan, f"{100 * ends / sum(pixels.values()):.0f} % of the pixels are 0 or 255")


def _blurred(scan: LabelScan, share: str) -> DataError:
    rows = [str(label) for label, row in zip(scan.index, scan.rows, strict=True) if set(row) - {0, 255}]
    return DataError(
        f"The masks hold {len(scan.values)} values, {share}: two classes, saved as JPEG or resized with "
        f"smoothing (first rows {', '.join(rows[:5])}). Values that no one drew are not guessed: save the "
        "masks as PNG without smoothing, or ask for a threshold with classes={range(0, 128): 'background', "
        "range(128, 256): 'foreground'}. Where 255 marks pixels of no class, pass ignore_index=255; where "
        "the values are classes, name them with classes={0: ..., ...}."
    )
