"""Tables to start with: a generated problem that is worth solving, two folders, annotations. No torch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.data.annotations import from_coco, from_yolo
from semseg_automl.data.noise import noise
from semseg_automl.data.scenes import make_aerial, make_cells

__all__ = ["from_coco", "from_folders", "from_yolo", "make_aerial", "make_cells", "make_textures"]

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
# (cycles per pixel, number of orientations; 0 = isotropic) of each region class, then round again, finer.
_GRAINS = ((0.04, 0), (0.11, 1), (0.24, 0), (0.11, 2), (0.06, 1), (0.14, 0))


def make_textures(
    folder: str | os.PathLike[str],
    n: int = 60,
    size: tuple[int, int] = (192, 256),
    n_classes: int = 4,
    seed: int = 0,
) -> pd.DataFrame:
    """Generate pictures with masks where colour says nothing and structure says everything.

    Regions of different grain (band-limited or oriented noise of equal mean and variance), thin dark
    curves one to three pixels wide and small shaded blobs, under uneven light with sensor noise. Tint,
    orientation of the grain and light change from picture to picture; wide blurred streaks and bright
    specks look like curves and blobs but belong to the region they lie in.

    Classes: 4 or more: ``n_classes - 2`` grains, then curves, then blobs. 3: two grains, then curves and
    blobs as one class. 2: background, curves and blobs.

    Parameters
    ----------
    folder : path
        Gets ``images/000.png`` (RGB) and ``masks/000.png`` (8 bit, values 0..n_classes - 1), and so on.
    n : int
        Number of pictures.
    size : (H, W), at least (32, 32)
    n_classes : int, 2..8
    seed : int
        Picture i depends on (seed, i) and the other arguments only.

    Returns
    -------
    DataFrame
        Columns image, label: paths as strings.
    """
    height, width = size
    if n < 1 or min(height, width) < 32 or not 2 <= n_classes <= len(_GRAINS) + 2:
        raise ConfigError(
            f"make_textures needs n >= 1, sides >= 32 and 2 to {len(_GRAINS) + 2} classes; "
            f"got n={n}, size={size}, n_classes={n_classes}."
        )
    images, masks = Path(folder) / "images", Path(folder) / "masks"
    for place in (images, masks):
        place.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(n):
        picture, mask = _textured(np.random.default_rng((seed, i)), height, width, n_classes)
        name = f"{i:03d}.png"
        Image.fromarray(picture).save(images / name)
        Image.fromarray(mask).save(masks / name)
        rows.append((str(images / name), str(masks / name)))
    return pd.DataFrame(rows, columns=["image", "label"])


def from_folders(
    images: str | os.PathLike[str], masks: str | os.PathLike[str], *, suffix: str | None = None
) -> pd.DataFrame:
    """Pair the pictures of two folders by name.

    Parameters
    ----------
    images, masks : folders
        Searched with their subfolders; ``a/7.jpg`` meets ``a/7.png``. May be the same folder if
        ``suffix`` is given.
    suffix : str, optional
        What mask names have behind the picture's, e.g. ``"_mask"`` for ``7.jpg`` and ``7_mask.png``.

    Returns
    -------
    DataFrame
        Columns image, label: paths as strings, in the order of names. Files without partner are left
        out with one warning that names them.

    Raises
    ------
    DataError
        A folder that is not there, two files of one name, or no pair at all.
    """
    ending = suffix or ""
    mask_of = _by_stem(masks, ending)
    image_of = _by_stem(images, "")
    if Path(images).resolve() == Path(masks).resolve():
        if not ending:
            raise DataError(f"{images}: pictures and masks in one folder need suffix=, e.g. suffix='_mask'.")
        image_of = {stem: path for stem, path in image_of.items() if not stem.endswith(ending)}
    common = sorted(set(image_of) & set(mask_of))
    alone = {
        "pictures without a mask": sorted(set(image_of) - set(mask_of)),
        "masks without a picture": sorted(set(mask_of) - set(image_of)),
    }
    found = "; ".join(f"{len(stems)} {what}: {_first(stems)}" for what, stems in alone.items() if stems)
    if not common:
        raise DataError(f"No picture of {images} has a mask in {masks}. {found}{_guess(image_of, mask_of)}")
    if found:
        warnings.warn(f"from_folders leaves out {found}.", UserWarning, stacklevel=2)
    return pd.DataFrame({"image": [image_of[s] for s in common], "label": [mask_of[s] for s in common]})


def _by_stem(folder: str | os.PathLike[str], ending: str) -> dict[str, str]:
    """Relative name without extension (and without ``ending``) -> path."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: no such folder.")
    out: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        if (
            path.suffix.lower() not in PICTURE_SUFFIXES
            or not path.stem.endswith(ending)
            or path.name.startswith(".")
        ):
            continue
        stem = path.relative_to(root).with_suffix("").as_posix()
        stem = stem[: len(stem) - len(ending)]
        if stem in out:
            raise DataError(f"Two files have the name {stem!r}: {out[stem]} and {path}.")
        out[stem] = str(path)
    return out


def _first(stems: list[str]) -> str:
    return ", ".join(stems[:5]) + (", ..." if len(stems) > 5 else "")


def _guess(images: Iterable[str], masks: Iterable[str]) -> str:
    """A suffix that would pair some files, as a hint."""
    known = set(images)
    for mask in masks:
        for cut in range(len(mask) - 1, 0, -1):
            if mask[:cut] in known:
                return f". Did you mean suffix={mask[cut:]!r}?"
    return ""


def _textured(
    rng: np.random.Generator, height: int, width: int, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """One picture (H, W, 3) uint8 and its mask (H, W) uint8."""
    shape = (height, width)
    regions = max(1, n_classes - 2) if n_classes > 3 else n_classes - 1
    fields = np.stack([noise(rng, shape, 0.012, 0) + rng.normal(0.0, 0.5) for _ in range(regions)])
    mask = fields.argmax(0).astype(np.uint8)  # (R, H, W) -> (H, W)
    angle = rng.uniform(0.0, np.pi)
    grains = np.stack([noise(rng, shape, *_GRAINS[r], angle) for r in range(regions)])
    grain = np.take_along_axis(grains, mask[None].astype(np.intp), 0)[0]  # (R, H, W) -> (H, W)
    light = np.exp(0.35 * noise(rng, shape, 0.005, 0) - 0.25 * _distance(rng, shape))
    grey = light * (1.0 + 0.22 * grain)
    grey *= 1.0 - 0.30 * _curves(rng, shape, int(rng.integers(1, 3)), 10.0, 6.0)  # blurred streaks: no class
    specks = rng.random(shape) < 0.0006
    grey = np.where(specks, grey * 1.8, grey)
    curves = _curves(rng, shape, int(rng.integers(1, 4)), rng.uniform(1.6, 3.0), 0.0)
    grey *= 1.0 - 0.55 * curves
    blobs, shade = _blobs(rng, shape, int(rng.integers(4, 12)))
    grey = np.where(blobs, light * shade, grey)
    mask[curves > 0.5] = n_classes - 2 if n_classes > 3 else n_classes - 1
    mask[blobs] = n_classes - 1
    tint = rng.uniform(0.75, 1.25, 3) * 105.0
    drift = np.stack([noise(rng, shape, 0.008, 0) for _ in range(3)], -1) * 0.05  # (H, W, 3)
    colour = grey[..., None] * tint * (1.0 + drift)
    colour += rng.normal(size=colour.shape) * (2.5 + 0.55 * np.sqrt(np.maximum(colour, 0.0)))
    return np.rint(np.clip(colour, 0, 255)).astype(np.uint8), mask


def _distance(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Squared distance (H, W) from a random optical centre, in half diagonals: vignetting."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    cy, cx = rng.uniform(0.3, 0.7, 2) * shape
    squared: np.ndarray = 4.0 * ((y - cy) ** 2 + (x - cx) ** 2) / (shape[0] ** 2 + shape[1] ** 2)
    return squared


def _curves(
    rng: np.random.Generator, shape: tuple[int, int], count: int, width: float, blur: float
) -> np.ndarray:
    """Coverage 0..1 (H, W) of smooth random curves that cross the picture."""
    fine = 1 if blur else 4  # antialiasing
    canvas = Image.new("L", (shape[1] * fine, shape[0] * fine))
    draw = ImageDraw.Draw(canvas)
    steps = 60
    for _ in range(count):
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0.0, 0.16, steps))
        path = np.cumsum(np.stack((np.cos(heading), np.sin(heading)), 1), 0)  # (steps, 2) as x, y
        path = path / max(1e-9, float(np.hypot(*np.ptp(path, 0)))) * rng.uniform(0.6, 1.2) * max(shape)
        path += rng.uniform(0.25, 0.75, 2) * shape[::-1] - path.mean(0)
        points = [(float(x) * fine, float(y) * fine) for x, y in path]
        draw.line(points, fill=255, width=max(1, round(width * fine)), joint="curve")
    small = canvas.resize((shape[1], shape[0]), Image.Resampling.BOX)
    if blur:  # shrink and enlarge: a cheap wide blur
        reduced = (max(1, round(shape[1] / blur)), max(1, round(shape[0] / blur)))
        small = small.resize(reduced, Image.Resampling.BOX).resize(
            (shape[1], shape[0]), Image.Resampling.BICUBIC
        )
    return np.asarray(small, np.float64) / 255.0


def _blobs(rng: np.random.Generator, shape: tuple[int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Small ellipses (H, W) bool and their brightness relative to the light (H, W): side light, dark rim."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    inside, shade = np.zeros(shape, bool), np.ones(shape)
    side = rng.uniform(0, 2 * np.pi)
    for _ in range(count):
        cy, cx = rng.uniform(0.04, 0.96, 2) * shape
        a, b, turn = rng.uniform(3.0, 7.5), rng.uniform(3.0, 5.5), rng.uniform(0, np.pi)
        u = ((x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)) / a
        v = ((y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)) / b
        radius = u**2 + v**2
        blob = radius <= 1.0
        slope = ((x - cx) * np.cos(side) + (y - cy) * np.sin(side)) / max(a, b)
        rim = np.where(radius > 0.55, 0.7, 1.0)
        shade = np.where(blob, rim * (rng.uniform(0.95, 1.2) + 0.55 * slope), shade)
        inside |= blob
    return inside, shade
