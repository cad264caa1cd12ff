"""Classes of a table that a saved model goes on with."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.data.known_labels import grown
from semseg_automl.data.label_map import IGNORE, LabelMap
from semseg_automl.data.labels import infer_label_map
from semseg_automl.data.masks import scan_masks
from semseg_automl.inference.writer import to_png_image

MANY = LabelMap(problem_type="multiclass", names=("land", "sea", "sky"), values=(0, 1, 2), ignore=255)
POLYP = LabelMap(problem_type="binary", names=("background", "polyp"), values=(0, 255))


def going_on(known: LabelMap, values: list[int], ignore_index: Any = "auto") -> LabelMap:
    """The label map of one mask with these values."""
    scan = scan_masks([np.array([values], dtype=np.uint8)])
    return grown(known, scan, ignore_index, partial(infer_label_map, scan, ignore_index=ignore_index))


@pytest.mark.parametrize("values", [[0, 1, 2], [0, 1], [2], [1, 255], [0, 2, 255]])
def test_what_the_model_knows_stays(values: list[int]) -> None:
    assert going_on(MANY, values) == MANY


def test_new_classes_come_behind() -> None:
    found = going_on(MANY, [0, 2, 7, 5])
    assert found.values == (0, 1, 2, 5, 7) and found.names == ("land", "sea", "sky", "5", "7")


def test_a_new_class_gets_a_name_of_its_own() -> None:
    known = LabelMap(problem_type="multiclass", names=("1", "2", "3"), values=(0, 1, 2))
    assert going_on(known, [0, 1, 3]).names == ("1", "2", "3", "3 (value 3)")


def test_ignored_values() -> None:
    known = LabelMap(problem_type="multiclass", names=("a", "b", "c"), values=(0, 1, 2))
    assert going_on(known, [0, 1, 3, 255]).ignore == 255
    assert going_on(known, [0, 1, 7], ignore_index=7).ignore == 7
    assert going_on(MANY, [0, 1, 255], ignore_index=None).values == (0, 1, 2, 255)
    with pytest.raises(ConfigError, match="ignore_index=2 is a class of the saved model"):
        going_on(MANY, [0, 1, 2], ignore_index=2)


def test_a_thing_and_its_background_are_another_problem() -> None:
    """Black and white masks above all: ignoring 255, as the model does, would leave nothing of a thing."""
    assert going_on(MANY, [0, 255]).problem_type == "binary"
    assert going_on(MANY, [0, 255], ignore_index=255) == MANY
    assert going_on(MANY, [0, 9]).problem_type == "binary"


@pytest.mark.parametrize("values", [[0, 255], [0], [0, 1]])
def test_a_binary_model_keeps_its_names(values: list[int]) -> None:
    found = going_on(POLYP, values)
    assert found.problem_type == "binary" and found.names == ("background", "polyp")
    assert found.values == ((0, 1) if 1 in values else (0, 255))


def test_colours_and_integers_do_not_mix() -> None:
    known = LabelMap(problem_type="multiclass", names=("a", "b"), values=((0, 0, 0), (9, 8, 7)))
    assert not going_on(known, [0, 1, 2]).colours


def test_merged_values_stay_merged() -> None:
    known = LabelMap(problem_type="multiclass", names=("a", "b", "c"), values=(0, 1, 2), merged=((4, 1),))
    assert going_on(known, [0, 4, 6]).class_of == {0: 0, 1: 1, 2: 2, 6: 3, 4: 1}


def test_masks_of_nothing_but_what_is_dropped_are_refused() -> None:
    known = LabelMap(problem_type="multiclass", names=("a", "b"), values=(0, 1), merged=((4, IGNORE),))
    with pytest.raises(DataError, match="ignored value"):
        going_on(known, [4], ignore_index=4)


def test_a_short_palette_cuts_no_values_off() -> None:
    """Pillow saves as few bits a pixel as a palette has colours for."""
    palette = (0, 0, 0, 200, 0, 0, 0, 200, 0)
    known = LabelMap(problem_type="multiclass", names=("a", "b", "c"), values=(0, 1, 2), palette=palette)
    found = going_on(known, [0, 1, 2, 5])
    assert found.palette == palette
    mask = np.array([[0, 1, 2, 5]], dtype=np.uint8)
    assert np.array_equal(np.asarray(to_png_image(mask, found.palette)), mask)


def test_a_short_palette_is_written_whole(tmp_path: Any) -> None:
    mask = np.array([[0, 1, 2, 200]], dtype=np.uint8)
    to_png_image(mask, (0, 0, 0, 9, 9, 9)).save(tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as read:
        assert np.array_equal(np.asarray(read), mask) and (read.getpalette() or [])[:6] == [0, 0, 0, 9, 9, 9]
