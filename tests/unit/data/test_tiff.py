"""TIFFs of every kind of sample, against tifffile's own pixels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semseg_automl.core.errors import DataError
from semseg_automl.data.images import picture_header, read_image
from semseg_automl.data.masks import read_raw_mask

tifffile = pytest.importorskip("tifffile")
RNG = np.random.default_rng(0)


def _ints(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


SAMPLES: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "grey8": (_ints((40, 50), "u1"), {}),
    "grey16": (_ints((40, 50), "u2"), {}),
    "grey16 lzw": (_ints((40, 50), "u2"), {"compression": "lzw"}),
    "grey16 big endian": (_ints((40, 50), "u2"), {"byteorder": ">"}),
    "grey32": (_ints((40, 50), "u4"), {}),
    "signed8": (_ints((40, 50), "i1"), {}),
    "signed16": (_ints((40, 50), "i2"), {}),
    "signed32": (_ints((40, 50), "i4"), {}),
    "half": (RNG.random((40, 50)).astype("f2"), {}),
    "float": (RNG.random((40, 50)).astype("f4"), {}),
    "double": (RNG.random((40, 50)), {}),
    "rgb8 tiled": (_ints((40, 50, 3), "u1"), {"tile": (16, 16)}),
    "rgb8 bigtiff": (_ints((40, 50, 3), "u1"), {"bigtiff": True}),
    "rgb16": (_ints((40, 50, 3), "u2"), {}),
    "rgb16 lzw predictor": (_ints((40, 50, 3), "u2"), {"compression": "lzw", "predictor": True}),
    "rgb float": (RNG.random((40, 50, 3)).astype("f4"), {"photometric": "rgb"}),
    "grey16 bigtiff tiled deflate": (
        _ints((40, 50), "u2"),
        {"bigtiff": True, "tile": (16, 16), "compression": "zlib"},
    ),
    "two bands": (_ints((40, 50, 2), "u1"), {"photometric": "minisblack", "planarconfig": "contig"}),
    "red green blue infrared": (_ints((40, 50, 4), "u1"), {"photometric": "rgb", "extrasamples": [0]}),
    "six bands": (_ints((40, 50, 6), "u2"), {"photometric": "minisblack", "planarconfig": "contig"}),
    "sixteen bands": (_ints((40, 50, 16), "u1"), {"photometric": "minisblack", "planarconfig": "contig"}),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_what_was_written(tmp_path: Path, name: str) -> None:
    array, options = SAMPLES[name]
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    read = read_image(tmp_path / "a.tif")
    expected = array if array.ndim == 3 else array[..., None]
    kept = array.dtype in (np.uint8, np.uint16)
    assert read.dtype == (array.dtype if kept else np.float32)
    np.testing.assert_array_equal(read, expected.astype(read.dtype))
    header = picture_header(tmp_path / "a.tif")
    assert header.size == (40, 50) and header.channels == expected.shape[2]
    assert header.deep == (array.dtype != np.uint8)


def test_bands_in_planes_come_last(tmp_path: Path) -> None:
    array = _ints((6, 40, 50), "u1")
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.moveaxis(array, 0, -1))
    assert picture_header(tmp_path / "a.tif").channels == 6


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_declared_alpha_is_left_out(tmp_path: Path, dtype: str) -> None:
    array = _ints((40, 50, 4), dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), array[..., :3])
    assert picture_header(tmp_path / "a.tif").channels == 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_bands_as_pillow_turns_grey(tmp_path: Path, orientation: int) -> None:
    grey = _ints((8, 9), "u1")
    tag = (274, "H", 1, orientation, False)
    tifffile.imwrite(tmp_path / "grey.tif", grey, extratags=[tag])
    bands = np.stack([grey] * 5, -1)
    tifffile.imwrite(
        tmp_path / "bands.tif", bands, photometric="minisblack", planarconfig="contig", extratags=[tag]
    )
    expected = read_image(tmp_path / "grey.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "bands.tif")[..., 4], expected[..., 0])
    for name in ("grey.tif", "bands.tif"):
        assert picture_header(tmp_path / name).size == expected.shape[:2]


@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_several_pages_are_refused_with_advice_and_overviews_are_not(tmp_path: Path, dtype: str) -> None:
    pages = RNG.integers(0, 9, (3, 40, 50)).astype(dtype)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    for read in (picture_header, read_image):
        with pytest.raises(DataError, match=r"stack\.tif: holds more than one page.*file of its own"):
            read(tmp_path / "stack.tif")
    with tifffile.TiffWriter(tmp_path / "overviews.tif") as writer:
        writer.write(pages[0], photometric="minisblack")
        writer.write(pages[0, ::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "overviews.tif")[..., 0], pages[0])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
@pytest.mark.parametrize("name", ["six bands", "rgb16 lzw predictor", "double"])
def test_truncated_files_are_named(tmp_path: Path, name: str, share: float) -> None:
    array, options = SAMPLES[name]
    tifffile.imwrite(tmp_path / "cut.tif", array, **options)
    data = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"cut\.tif: "):
        picture_header(tmp_path / "cut.tif")


def test_without_tifffile_the_pip_line_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rgb16", "grey16"):
        tifffile.imwrite(tmp_path / f"{name}.tif", SAMPLES[name][0])
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert picture_header(tmp_path / "grey16.tif").deep
    with pytest.raises(DataError, match=r"rgb16\.tif: .*pip install 'semseg_automl\[tiff\]'"):
        picture_header(tmp_path / "rgb16.tif")


def test_gdal_no_data_is_nan(tmp_path: Path) -> None:
    array = RNG.random((4, 5, 2)).astype("f4")
    array[0, 0] = -9999
    tag = (42113, "s", 6, "-9999", False)
    tifffile.imwrite(
        tmp_path / "a.tif", array, photometric="minisblack", planarconfig="contig", extratags=[tag]
    )
    assert np.isnan(read_image(tmp_path / "a.tif")[0, 0]).all()
    tifffile.imwrite(
        tmp_path / "dem.tif", 900 * array[..., 0], extratags=[(42113, "s", 10, "-8999100.0", False)]
    )
    found = read_image(tmp_path / "dem.tif")  # one band, which Pillow reads
    assert np.isnan(found[0, 0, 0]) and np.isfinite(found).sum() == 19


def test_masks_of_32_bits_keep_their_numbers(tmp_path: Path) -> None:
    array = np.array([[0, 70000], [3_000_000_000, 1]], "u4")
    tifffile.imwrite(tmp_path / "m.tif", array)
    np.testing.assert_array_equal(read_raw_mask(tmp_path / "m.tif"), array)


def test_animations_are_refused_with_advice(tmp_path: Path) -> None:
    frames = [Image.fromarray(_ints((8, 9, 3), "u1")) for _ in range(3)]
    for ending in ("gif", "webp", "png"):
        path = tmp_path / f"moving.{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match=r"moving.*is an animation.*file of its own"):
            picture_header(path)
