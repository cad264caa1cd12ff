"""What the published masks' values become: generated folders with masks saved as the sets' are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.paper.masks import classes_of
from benchmarks.paper.readers import READERS, LayoutError, Tables
from benchmarks.paper.sets import BINARY, SETS, TRANS10K_V2
from semseg_automl.data.labels import LabelMap, infer_label_map, read_mask, scan_masks

PARTS = {
    "polyps": ("TrainDataset", "TestDataset/Kvasir", "TestDataset/CVC-ClinicDB"),
    "trans10k_v1": (
        "train",
        *(f"{part}/{level}" for part in ("validation", "test") for level in ("easy", "hard")),
    ),
    "trans10k_v2": ("train", "validation", "test"),
}
NAMES = {"polyps": "masks/{}.png", "trans10k_v1": "masks/{}_mask.png", "trans10k_v2": "masks_12/{}_mask.png"}
Draw = Callable[[np.ndarray, int], Image.Image]


def truth(number: int, classes: int) -> np.ndarray:
    """Class indices (24, 30); every picture shows every class."""
    return np.roll(np.arange(24 * 30).reshape(24, 30) * classes // (24 * 30), number, 1)


def generate(folder: Path, name: str, classes: int, draw: Draw) -> Tables:
    """A folder in a set's layout, two pictures a part; ``draw`` makes masks of indices and a number."""
    for number, stem in enumerate((part, i) for part in PARTS[name] for i in range(2)):
        part, title = folder / stem[0], f"p{number}"
        for path in (part / f"images/{title}.png", part / NAMES[name].format(title)):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 24)).save(part / f"images/{title}.png")
        draw(truth(number, classes), number).save(part / NAMES[name].format(title))
    return READERS[SETS[name].reader](folder)


def decided(name: str, tables: Tables) -> LabelMap:
    """The label map of a set's training table; every mask of every table must read as what was drawn."""
    spec = SETS[name]
    label_map = infer_label_map(
        scan_masks(list(tables["train"]["label"])),
        problem_type=spec.problem_type,
        classes=classes_of(spec.classes, tables),
    )
    for table in tables.values():
        for path in table["label"]:
            number = int(Path(path).name.strip("p").split("_")[0].split(".")[0])
            assert np.array_equal(read_mask(path, label_map), truth(number, label_map.n_classes)), path
    return label_map


def with_noise(indices: np.ndarray, number: int) -> Image.Image:
    """0 to 7 and 248 to 255, as PraNet's masks are."""
    noise = np.random.default_rng(number).integers(0, 8, indices.shape)
    return Image.fromarray(np.where(indices == 1, 255 - noise, noise).astype(np.uint8))


def of_values(low: int, high: int) -> Draw:
    return lambda indices, _number: Image.fromarray(np.where(indices == 1, high, low).astype(np.uint8))


def one_bit(indices: np.ndarray, _number: int) -> Image.Image:
    return Image.fromarray(indices == 1)


def test_polyps_of_pranet_are_thresholded(tmp_path: Path) -> None:
    label_map = decided("polyps", generate(tmp_path, "polyps", 2, with_noise))
    assert label_map.problem_type == "binary" and label_map.names == ("background", "foreground")
    assert label_map.ignore is None and label_map.values[0] < 8 and label_map.values[1] > 247


@pytest.mark.parametrize(
    "draw, values", [(of_values(0, 255), (0, 255)), (of_values(0, 1), (0, 1)), (one_bit, (0, 1))]
)
def test_masks_of_two_values_are_those_two(draw: Draw, values: tuple[int, int], tmp_path: Path) -> None:
    """With the threshold alone, masks of 0 and 1 would be all background."""
    label_map = decided("polyps", generate(tmp_path, "polyps", 2, draw))
    assert label_map.values == values and label_map.names == ("background", "foreground")


def test_noise_in_the_test_pictures_alone_is_thresholded_too(tmp_path: Path) -> None:
    clean = of_values(0, 255)
    tables = generate(tmp_path, "polyps", 2, lambda x, n: (with_noise if n > 3 else clean)(x, n))
    assert classes_of(BINARY, tables) == BINARY
    assert decided("polyps", tables).values == (0, 255)


def test_one_bit_beside_noise_is_foreground(tmp_path: Path) -> None:
    mixed = generate(tmp_path, "polyps", 2, lambda x, n: one_bit(x, n) if n == 1 else of_values(n, 255)(x, n))
    assert decided("polyps", mixed).values == (0, 255)


def test_one_bit_to_train_with_and_bytes_to_test_on_are_refused(tmp_path: Path) -> None:
    """Together they hold 0 and 255, but what was learned from one bit knows no 255."""
    tables = generate(tmp_path, "polyps", 2, lambda x, n: (of_values(0, 255) if n > 3 else one_bit)(x, n))
    with pytest.raises(LayoutError, match=r"different values.*Save all as 0 and 255"):
        classes_of(BINARY, tables)


@pytest.mark.parametrize("other", [with_noise, of_values(0, 255)])
def test_masks_that_a_threshold_would_empty_are_refused(other: Draw, tmp_path: Path) -> None:
    tables = generate(tmp_path, "polyps", 2, lambda x, n: (of_values(0, 1) if n == 3 else other)(x, n))
    with pytest.raises(LayoutError, match=r"1 of 6 masks .* first .*p3\.png \(up to 1\)"):
        classes_of(BINARY, tables)


def test_masks_without_foreground_are_no_error(tmp_path: Path) -> None:
    tables = generate(tmp_path, "polyps", 2, lambda x, n: with_noise(x, n) if n else Image.new("L", (30, 24)))
    assert classes_of(BINARY, tables) == BINARY


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_of_trans10k_v1(mode: str, tmp_path: Path) -> None:
    colours = np.array([(0, 0, 0), (255, 0, 0), (255, 255, 255)], np.uint8)
    tables = generate(
        tmp_path, "trans10k_v1", 3, lambda x, _number: Image.fromarray(colours[x]).convert(mode)
    )
    label_map = decided("trans10k_v1", tables)
    assert label_map.names == ("background", "things", "stuff") and label_map.problem_type == "multiclass"


def test_values_of_trans10k_v2(tmp_path: Path) -> None:
    tables = generate(tmp_path, "trans10k_v2", 12, lambda x, _number: Image.fromarray(x.astype(np.uint8)))
    label_map = decided("trans10k_v2", tables)
    assert label_map.names == TRANS10K_V2 and label_map.values == tuple(range(12))
