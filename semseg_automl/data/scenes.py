"""Generated pictures that look like something: cells under a microscope, land from above.

Unlike ``make_textures``, which is there to be hard, these show in a minute or two what a model can do: colour
and shape tell the classes apart, as in most pictures that people have, and not everything that looks
like an object is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter

from semseg_automl.core.errors import ConfigError
from semseg_automl.data.noise import noise

_FIELDS = ((176, 160, 98), (140, 152, 82), (192, 178, 128), (120, 140, 70), (160, 134, 92), (204, 192, 142))
_ROOFS = ((168, 84, 62), (186, 176, 170), (120, 104, 100), (196, 110, 74), (150, 158, 170))
_FINE = 3  # shapes are drawn so many times larger, and shrunk
Picture = tuple[np.ndarray, np.ndarray]


def make_cells(
    folder: str | os.PathLike[str], n: int = 40, size: tuple[int, int] = (192, 256), seed: int = 0
) -> pd.DataFrame:
    """Stained cells: dark nuclei of many sizes, some of which touch, on tissue of changing colour.

    Classes: 0 tissue, 1 nucleus. Pale ghosts out of focus and small dark debris are no nuclei.

    Parameters
    ----------
    folder : path
        Gets ``images/000.png`` (RGB) and ``masks/000.png`` (8 bit), and so on.
    n : int
        Number of pictures.
    size : (H, W), at least (64, 64)
    seed : int
        Picture i depends on (seed, i) and the size only.

    Returns
    -------
    DataFrame
        Columns image, label: paths as strings.
    """
    return _written(_cells, "make_cells", folder, n, size, seed)


def make_aerial(
    folder: str | os.PathLike[str], n: int = 24, size: tuple[int, int] = (256, 256), seed: int = 0
) -> pd.DataFrame:
    """Land from above. Classes: 0 field, 1 forest, 2 water, 3 road, 4 building.

    The last two are rare: a road is a few pixels wide, buildings stand beside it and throw shadows. Bare
    fields have the colours of roads and roofs.

    Parameters, returns: as :func:`make_cells`.
    """
    return _written(_aerial, "make_aerial", folder, n, size, seed)


def _written(
    draw: Callable[[np.random.Generator, tuple[int, int]], Picture],
    name: str,
    folder: str | os.PathLike[str],
    n: int,
    size: tuple[int, int],
    seed: int,
) -> pd.DataFrame:
    if n < 1 or min(size) < 64:
        raise ConfigError(f"{name} needs n >= 1 and sides >= 64; got n={n}, size={size}.")
    places = {column: Path(folder) / column for column in ("images", "masks")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(n):
        for place, pixels in zip(places.values(), draw(np.random.default_rng((seed, i)), size), strict=True):
            Image.fromarray(pixels).save(place / f"{i:03d}.png")
        rows.append([str(place / f"{i:03d}.png") for place in places.values()])
    return pd.DataFrame(rows, columns=["image", "label"])


def _cells(rng: np.random.Generator, size: tuple[int, int]) -> Picture:
    tissue = np.array([228, 190, 208]) + rng.normal(0, [8, 12, 10])
    stroma = _soft(noise(rng, size, 0.03) + 0.5 * noise(rng, size, 0.08))[..., None]
    picture = tissue + stroma * [-26, -44, -22] + 5 * noise(rng, size, 0.2)[..., None]
    ghosts = _shapes(size, [_ellipse(rng, size, 9, 16) for _ in range(rng.integers(2, 5))])
    blurred = np.asarray(Image.fromarray(np.uint8(255 * ghosts)).filter(ImageFilter.GaussianBlur(6))) / 255
    picture += blurred[..., None] * [-34, -40, -14]
    debris = _shapes(size, [_ellipse(rng, size, 1.2, 2.2) for _ in range(rng.integers(6, 16))])
    picture = _over(picture, debris, np.array([84, 58, 92]))
    mask = np.zeros(size)
    for _ in range(int(rng.integers(14, 30) * size[0] * size[1] / (192 * 256)) + 1):
        cell = _shapes(size, [_ellipse(rng, size, 5, 13)])
        stain = np.array([112, 66, 140]) + rng.normal(0, [5, 5, 6]) + rng.uniform(-8, 26)
        inner = np.asarray(Image.fromarray(np.uint8(255 * cell)).filter(ImageFilter.GaussianBlur(2))) / 255
        pattern = stain + (14 * noise(rng, size, 0.12) + 34 * (inner - 0.7))[..., None]
        picture = _over(picture, cell, pattern)
        mask = np.maximum(mask, cell)
    return _sensor(rng, picture, 4.0), (mask > 0.5).astype(np.uint8)


def _aerial(rng: np.random.Generator, size: tuple[int, int]) -> Picture:
    picture = _fields(rng, size)
    mask = np.zeros(size, np.uint8)
    relief = noise(rng, size, 0.008) + 0.3 * noise(rng, size, 0.03)
    water = relief < np.quantile(relief, rng.uniform(0.04, 0.2))
    picture = _over(picture, _soft(relief - np.quantile(relief, 0.24)) < 0.5, picture * 0.94)
    picture = _over(picture, water, np.array([52, 84, 104]) + 4 * noise(rng, size, 0.1)[..., None])
    wood = noise(rng, size, 0.012) + 0.25 * noise(rng, size, 0.06)
    forest = (wood > np.quantile(wood, rng.uniform(0.6, 0.8))) & ~water
    crowns = np.array([52, 82, 46]) + 22 * noise(rng, size, 0.14)[..., None] * [0.8, 1.0, 0.6]
    picture = _over(picture, forest, crowns)
    mask[forest], mask[water] = 1, 2
    paths = [_path(rng, size) for _ in range(rng.integers(1, 3))]
    width = rng.uniform(4.5, 7.0)
    road = np.max([_line(size, path, width) for path in paths], axis=0)
    picture = _over(picture, road, np.array([148, 146, 144]) + 4 * noise(rng, size, 0.2)[..., None])
    mask[road > 0.5] = 3
    built = np.maximum(np.max([_line(size, path, width + 4) for path in paths], axis=0), water)
    for corners in _houses(rng, size, paths, width, built):
        roof = np.array(_ROOFS[rng.integers(len(_ROOFS))]) + rng.normal(0, 6)
        picture = _over(picture, 0.55 * _shapes(size, [corners + 2.5]), np.array([34, 38, 46]))
        whole, half = _shapes(size, [corners]), _shapes(size, [_half(corners)])
        picture = _over(_over(picture, whole, roof), half, roof * 0.86)
        mask[whole > 0.5] = 4
    return _sensor(rng, picture, 3.0), mask


def _fields(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Parcels (H, W, 3): the nearest of a few points, each with a colour and a direction of its furrows."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    count = max(5, int(rng.integers(8, 14) * size[0] * size[1] / 256**2))
    seeds = rng.uniform(0, 1, (count, 2)) * size
    nearest = np.argmin([(y - sy) ** 2 + (x - sx) ** 2 for sy, sx in seeds], axis=0)  # (P, H, W) -> (H, W)
    colours = np.array([_FIELDS[rng.integers(len(_FIELDS))] for _ in seeds]) + rng.normal(0, 7, (count, 3))
    turns, gaps = rng.uniform(0, np.pi, count)[nearest], rng.uniform(0.5, 1.1, count)[nearest]
    furrows = np.sin((x * np.cos(turns) + y * np.sin(turns)) * gaps)
    return colours[nearest] + (5 * furrows + 5 * noise(rng, size, 0.05))[..., None]


def _path(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A gently bent way through the picture, (40, 2) as x, y."""
    turn = rng.uniform(0, np.pi)
    along, bend = np.linspace(-0.8, 0.8, 40), rng.normal(0, 0.22, 2)
    aside = bend[0] * np.sin(3 * along) + bend[1] * along**2
    x, y = along * np.cos(turn) - aside * np.sin(turn), along * np.sin(turn) + aside * np.cos(turn)
    path: np.ndarray = np.stack([x, y], 1) * max(size) + rng.uniform(0.3, 0.7, 2) * size[::-1]
    return path


def _houses(
    rng: np.random.Generator, size: tuple[int, int], paths: list[np.ndarray], width: float, taken: np.ndarray
) -> list[np.ndarray]:
    """Corners (4, 2) of rectangles along the ways, on either side, none over another or what is ``taken``."""
    found: list[np.ndarray] = []
    for path in paths:
        for k in range(2, len(path) - 2, 2):
            ahead = (path[k + 1] - path[k]) / np.hypot(*(path[k + 1] - path[k]))
            aside = np.array([-ahead[1], ahead[0]]) * rng.choice([-1, 1])
            length, depth = rng.uniform(8, 15), rng.uniform(6, 10)
            centre = path[k] + aside * (width / 2 + depth / 2 + rng.uniform(4, 9))
            corners = centre + np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) @ (
                np.stack([ahead * length, aside * depth]) / 2
            )
            inside = (corners > 3).all() and (corners < np.array(size[::-1]) - 3).all()
            here = _shapes(size, [corners])
            if inside and rng.random() < 0.6 and not (here * taken > 0.2).any():
                found.append(corners)
                taken = np.maximum(taken, here)
    return found


def _half(corners: np.ndarray) -> np.ndarray:
    """The part of a rectangle on one side of its ridge."""
    a, b, c, d = corners
    return np.stack([a, b, (b + c) / 2, (a + d) / 2])


def _ellipse(rng: np.random.Generator, size: tuple[int, int], least: float, most: float) -> np.ndarray:
    """A slightly dented ellipse anywhere in the picture, (48, 2) as x, y."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    a, b = rng.uniform(least, most, 2)
    dents = 1 + sum(rng.normal(0, 0.03) * np.cos(k * angle + rng.uniform(0, 6)) for k in (2, 3, 4))
    turn = rng.uniform(0, np.pi)
    x, y = a * np.cos(angle) * dents, b * np.sin(angle) * dents
    centre = rng.uniform(-0.02, 1.02, 2) * size[::-1]
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 1) + centre


def _shapes(size: tuple[int, int], polygons: list[np.ndarray]) -> np.ndarray:
    """Coverage 0..1 (H, W) of polygons of (x, y)."""
    canvas = Image.new("L", (size[1] * _FINE, size[0] * _FINE))
    draw = ImageDraw.Draw(canvas)
    for corners in polygons:
        draw.polygon([(float(x) * _FINE, float(y) * _FINE) for x, y in corners], fill=255)
    return np.asarray(canvas.resize(size[::-1], Image.Resampling.BOX), np.float64) / 255


def _line(size: tuple[int, int], path: np.ndarray, width: float) -> np.ndarray:
    """Coverage 0..1 (H, W) of a line of a width in pixels."""
    canvas = Image.new("L", (size[1] * _FINE, size[0] * _FINE))
    points = [(float(x) * _FINE, float(y) * _FINE) for x, y in path]
    ImageDraw.Draw(canvas).line(points, fill=255, width=round(width * _FINE), joint="curve")
    return np.asarray(canvas.resize(size[::-1], Image.Resampling.BOX), np.float64) / 255


def _over(picture: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """``colour`` laid over a picture (H, W, 3) where ``cover`` (H, W), 0..1 or bool, says."""
    share = cover.astype(np.float64)[..., None]
    laid: np.ndarray = picture * (1 - share) + colour * share
    return laid


def _soft(x: np.ndarray) -> np.ndarray:
    """A field squeezed into 0..1."""
    squeezed: np.ndarray = 1 / (1 + np.exp(-2 * x))
    return squeezed


def _sensor(rng: np.random.Generator, picture: np.ndarray, noisy: float) -> np.ndarray:
    """Uneven light, a slight blur and noise, as 8 bits (H, W, 3)."""
    light = 1 + 0.06 * noise(rng, picture.shape[:2], 0.004) + rng.normal(0, 0.04)
    smooth = Image.fromarray(np.uint8(np.clip(picture * light[..., None], 0, 255)))
    pixels = np.asarray(smooth.filter(ImageFilter.GaussianBlur(0.7)), np.float64)
    return np.clip(np.rint(pixels + rng.normal(0, noisy, picture.shape)), 0, 255).astype(np.uint8)
