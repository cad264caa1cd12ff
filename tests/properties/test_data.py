"""What holds for every label map, split and picture."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from semseg_automl.core.errors import DataError
from semseg_automl.data.frame import Samples, check_table
from semseg_automl.data.images import image_size, read_image, to_rgb
from semseg_automl.data.labels import IGNORE, LabelMap, infer_label_map, read_raw_mask, scan_masks
from semseg_automl.data.split import split_samples

INTEGERS = st.integers(0, 65_535)
COLOURS = st.tuples(*[st.integers(0, 255)] * 3)
SIDES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)


@st.composite
def label_maps(draw: st.DrawFn) -> LabelMap:
    """Two to nine classes, integers or colours, with an ignored value or without."""
    kind = draw(st.sampled_from([INTEGERS, COLOURS]))
    values = draw(st.lists(kind, min_size=3, max_size=10, unique=True))
    ignore = values.pop() if draw(st.booleans()) else None
    binary = len(values) == 2 and draw(st.booleans())
    return LabelMap(
        problem_type="binary" if binary else "multiclass",
        names=tuple(f"class {v}" for v in values),
        values=tuple(values),
        ignore=ignore,
    )


@given(label_map=label_maps(), data=st.data())
def test_decoding_then_encoding_gives_the_same_indices(label_map: LabelMap, data: st.DataObject) -> None:
    lowest = 0 if label_map.ignore is None else IGNORE
    indices = data.draw(hnp.arrays(np.int16, SIDES, elements=st.integers(lowest, label_map.n_classes - 1)))
    raw = label_map.decode(indices)
    assert raw.shape[:2] == indices.shape and raw.dtype.kind == "u"
    np.testing.assert_array_equal(label_map.encode(raw), indices)
    assert label_map.unknown_values(raw) == set()


@given(label_map=label_maps(), data=st.data())
def test_encoding_is_a_look_up_pixel_by_pixel(label_map: LabelMap, data: st.DataObject) -> None:
    """Against a dict, on masks that also hold values which are no class."""
    if label_map.colours:
        size = data.draw(SIDES)
        pool = np.array([*label_map.values, (1, 2, 3)], np.uint8)
        raw = pool[data.draw(hnp.arrays(np.int64, size, elements=st.integers(0, len(pool) - 1)))]
        cells = [tuple(int(v) for v in pixel) for pixel in raw.reshape(-1, 3)]
    else:
        raw = data.draw(hnp.arrays(np.uint16, SIDES, elements=st.sampled_from([*label_map.values, 7])))
        cells = [int(v) for v in raw.ravel()]
    known = {value: k for k, value in enumerate(label_map.values)}
    expected = [known.get(cell, IGNORE) for cell in cells]
    assert label_map.encode(raw).ravel().tolist() == expected
    assert label_map.unknown_values(raw) == set(cells) - set(label_map.values) - {label_map.ignore}


@given(label_maps())
def test_a_label_map_survives_json(label_map: LabelMap) -> None:
    assert LabelMap.from_json(json.loads(json.dumps(label_map.to_json()))) == label_map


@given(st.lists(hnp.arrays(np.uint8, SIDES), min_size=1, max_size=4))
def test_the_classes_of_a_table_are_the_values_of_its_masks(masks: list[np.ndarray]) -> None:
    values = set(np.concatenate([m.ravel() for m in masks]).tolist())
    label_map = infer_label_map(scan_masks(masks))
    ignored = set() if label_map.ignore is None else {label_map.ignore}
    assert values <= set(label_map.values) | ignored
    assert len(set(label_map.values) - values) <= 1  # at most the missing counterpart of a single value
    assert (label_map.ignore == 255) == (255 in values and not values <= {0, 255})


@given(
    presence=hnp.arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 5))),
    fraction=st.none() | st.floats(0.01, 0.99),
    groups=st.none() | st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_a_split_is_complete_disjoint_and_cuts_no_group(
    presence: np.ndarray, fraction: float | None, groups: int | None, seed: int
) -> None:
    n = len(presence)
    labels = None if groups is None else np.random.default_rng(seed).integers(0, groups, n)
    samples = check_table([np.zeros((2, 2), np.uint8)] * n, need_label=False, role="data")
    assert isinstance(samples, Samples)
    options = {"holdout_frac": fraction, "groups": labels, "seed": seed}
    train, val = split_samples(samples, presence, **options)
    again = split_samples(samples, presence, **options)
    assert all(np.array_equal(a, b) for a, b in zip((train, val), again, strict=True))
    if n == 1 or (labels is not None and len(set(labels)) == 1):
        assert train.tolist() == val.tolist() == list(range(n))
        return
    assert sorted([*train, *val]) == list(range(n)) and len(train) and len(val)
    if labels is not None:
        assert not set(labels[train]) & set(labels[val])
    else:
        single = presence.sum(axis=0) == 1  # classes of one picture stay in training if they can
        assert (
            len(val) > 1 or n == 2 or not presence[val][:, single].any() or presence[:, single].any(1).all()
        )


PICTURES = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]))
) | hnp.arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(1)))


@given(pixels=PICTURES)
def test_a_png_is_read_as_it_was_written(
    pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "property.png"
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path)
    np.testing.assert_array_equal(read_image(str(path)), pixels[..., :3])  # alpha is left out
    assert image_size(str(path)) == pixels.shape[:2]
    rgb = to_rgb(read_image(str(path)))
    assert rgb.shape == (*pixels.shape[:2], 3) and rgb.dtype == np.uint8
    if pixels.dtype == np.uint8:
        np.testing.assert_array_equal(rgb, np.broadcast_to(pixels[..., :3], rgb.shape))


@given(mask=hnp.arrays(np.uint8, SIDES) | hnp.arrays(np.uint16, SIDES))
def test_a_mask_of_any_depth_is_read_as_it_was_written(
    mask: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "property-mask.png"
    Image.fromarray(mask).save(path)
    np.testing.assert_array_equal(read_raw_mask(str(path)), mask)


def _encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


FILES = {kind: _encoded(kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP")}


@given(
    kind=st.sampled_from(sorted(FILES)),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=6),
    cut=st.floats(0, 1),
)
def test_a_damaged_picture_is_read_or_named(
    kind: str, flips: list[tuple[int, int]], cut: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(FILES[kind])
    for place, change in flips:
        data[place % len(data)] ^= change
    path = Path(tmp_path_factory.getbasetemp() / "property-damaged")
    path.write_bytes(data[: max(1, int(cut * len(data)))] if flips == [] or cut < 0.5 else data)
    try:
        found = read_image(str(path))
    except DataError as error:
        assert "property-damaged" in str(error)
    else:
        assert found.ndim == 3 and found.size and 1 <= found.shape[2] <= 16


@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_picture_are_named(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = Path(tmp_path_factory.getbasetemp() / "property-bytes.png")
    path.write_bytes(data)
    for read in (read_image, image_size, read_raw_mask):
        with pytest.raises(DataError, match=r"property-bytes\.png"):
            read(str(path))
