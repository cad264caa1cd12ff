"""Masks whose values could mean two things: refused with a remedy, never guessed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from semseg_automl.core.errors import DataError
from semseg_automl.data.labels import IGNORE, class_counts, infer_label_map, scan_masks, unknown_values
from semseg_automl.data.masks import LabelScan

BLACK, RED, GREEN = (0, 0, 0), (255, 0, 0), (0, 255, 0)


def disc(number: int) -> Image.Image:
    image = Image.new("L", (256, 256))
    ImageDraw.Draw(image).ellipse((30 + 5 * number, 40, 150 + 5 * number, 180), fill=255)
    return image


def shrunk(image: Image.Image, factor: int) -> np.ndarray:
    return np.asarray(image.resize((256 // factor, 256 // factor), Image.Resampling.BOX))


def as_jpeg(image: Image.Image, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize(
    "blur",
    [
        lambda m: shrunk(m, 2),
        lambda m: shrunk(m, 4),
        lambda m: as_jpeg(m, 100),
        lambda m: as_jpeg(m, 98),
        lambda m: as_jpeg(m, 75),
    ],
    ids=["half", "quarter", "JPEG 100", "JPEG 98", "JPEG 75"],
)
def test_blurred_masks_are_refused(blur: object) -> None:
    """Else 255, beside other values, would be ignored: every object, and the grey fringe a class."""
    scan = scan_masks([blur(disc(i)) for i in range(6)])  # type: ignore[operator]
    with pytest.raises(DataError, match=r"no one drew are not guessed.*range\(128, 256\)"):
        infer_label_map(scan)
    threshold = {range(128): "background", range(128, 256): "foreground"}
    assert infer_label_map(scan, classes=threshold).problem_type == "binary"


def with_classes(*classes: int, void: bool = True) -> LabelScan:
    masks = []
    for number in range(6):
        mask = np.asarray(disc(number)).copy() if void else np.zeros((256, 256), np.uint8)
        for k in classes if len(classes) < 6 else classes[2 * number : 2 * number + 2]:
            mask[k % 200 : k % 200 + 8, :20] = k
        masks.append(mask)
    return scan_masks(masks)


def test_class_numbers_beside_a_void_are_classes() -> None:
    for classes in ((1,), (1, 2), (1, 3), (7, 11, 17, 31), (128,), tuple(range(1, 90, 8))):
        found = infer_label_map(with_classes(*classes))
        assert found.ignore == 255 and set(found.values) <= {0, *classes}
    assert infer_label_map(with_classes(60, 120, void=False)).ignore is None


def palette_masks(folder: Path, colours: list[tuple[int, int, int]], kind: str) -> list[Path]:
    """Discs of these colours on black, every second file or all as palette pictures."""
    paths = []
    for number, colour in enumerate(colours):
        image = Image.new("RGB", (256, 256), BLACK)
        image.paste(colour, mask=disc(number))
        palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
        other = image.convert("L").point(lambda v: 255 * (v > 0)) if kind == "grey" else image
        (palette if kind == "all" or number % 2 else other).save(folder / f"{number}.png")
        paths.append(folder / f"{number}.png")
    return paths


@pytest.mark.parametrize(
    ("kind", "colours", "part"),
    [
        ("all", [RED, GREEN] * 2, "contradict each other"),
        ("colour", [RED, RED] * 2, "stand beside"),
        ("grey", [(255, 255, 255)] * 4, "stand beside"),
    ],
)
def test_palettes_that_contradict_are_refused(
    kind: str, colours: list[tuple[int, int, int]], part: str, tmp_path: Path
) -> None:
    scan = scan_masks(palette_masks(tmp_path, colours, kind))
    with pytest.raises(DataError, match=rf"{part}.*row [0-9].*one palette.*classes="):
        infer_label_map(scan)


def test_palettes_that_agree_are_not(tmp_path: Path) -> None:
    assert infer_label_map(scan_masks(palette_masks(tmp_path, [RED] * 4, "all"))).values == (0, 1)
    indices = [np.asarray(disc(i)) // 255 for i in range(2)]
    for number, colours in enumerate(([*BLACK, *RED], [*BLACK, *RED, *GREEN])):
        image = Image.fromarray(indices[number])
        image.putpalette(colours)
        image.save(tmp_path / f"{number}.png")
    beside = [tmp_path / "0.png", tmp_path / "1.png", indices[0]]  # an index mask without a palette
    assert infer_label_map(scan_masks(beside)).values == (0, 1)


def test_an_empty_palette_mask_beside_colours_means_what_it_shows(tmp_path: Path) -> None:
    empty = Image.new("P", (8, 8))
    empty.putpalette([*BLACK, *RED])
    empty.save(tmp_path / "empty.png")
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[4:] = RED
    assert infer_label_map(scan_masks([colours, tmp_path / "empty.png"])).values == (BLACK, RED)


def test_counts_are_those_of_the_masks_that_are_trained_on() -> None:
    mask = np.repeat(np.array([0, 100, 200, 255], np.uint8), 4).reshape(4, 4)
    halves = {range(128): "bg", range(128, 256): "fg"}
    for classes, ignore in ((halves, 255), (halves, None), ({0: "a", 100: "b", 200: None, 255: "c"}, "auto")):
        scan = scan_masks([mask])
        found = infer_label_map(scan, classes=classes, ignore_index=ignore)
        encoded = found.encode(mask)
        assert class_counts(scan, found)[0].tolist() == [(encoded == k).sum() for k in range(found.n_classes)]
        assert (encoded[3] == IGNORE).all() == (ignore == 255)


def test_indices_that_are_named_count(tmp_path: Path) -> None:
    scan = scan_masks(palette_masks(tmp_path, [RED, GREEN] * 2, "all"))
    assert infer_label_map(scan, classes={0: "a", 1: "b"}).values == (0, 1)


def test_a_second_table_may_hold_its_masks_in_another_form() -> None:
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[:4], grey = 255, np.full((8, 8), 255, np.uint8)
    red = colours.copy()
    red[6:] = RED
    several = infer_label_map(scan_masks([red]))
    assert several.colours and not unknown_values(scan_masks([colours, grey]), several)
    assert unknown_values(scan_masks([np.full((8, 8, 3), 7, np.uint8)]), several) == [7]
    two = infer_label_map(scan_masks([grey, 0 * grey]))
    assert not unknown_values(scan_masks([grey > 0, grey < 0]), two)  # boolean: 1 is 255 there
    assert unknown_values(scan_masks([grey // 255]), two) == [1]  # but not of class numbers
    assert unknown_values(scan_masks([red]), two) == [RED]
