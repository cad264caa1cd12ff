"""Parts of pictures, and TIFF files that need not be decoded."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from semseg_automl.core.errors import DataError
from semseg_automl.data import windows
from semseg_automl.data.windows import PictureWindows, check_size, map_tiff

PIXELS = np.random.default_rng(0).integers(0, 256, (301, 203, 3), np.uint8)


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS[..., 0]])
@pytest.mark.parametrize("suffix", [".tif", ".TIFF"])
def test_plain_tiff_is_mapped(tmp_path, pixels, suffix, monkeypatch):
    path = saved(tmp_path / f"a{suffix}", pixels)
    found = map_tiff(path)
    assert isinstance(found, np.memmap) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels.reshape(301, 203, -1))  # (H, W) -> (H, W, 1)
    assert map_tiff(path.as_uri()) is not None
    expected = PictureWindows(pixels).window((150, 100), (10, 90), (0, 100))
    monkeypatch.setattr(windows, "read_image", lambda _: pytest.fail("decoded whole"))
    np.testing.assert_array_equal(PictureWindows(path).window((150, 100), (10, 90), (0, 100)), expected)


@pytest.mark.parametrize(
    ("name", "pixels", "options"),
    [
        ("a.tif", PIXELS, {"compression": "tiff_lzw"}),
        ("a.tif", PIXELS, {"compression": "tiff_adobe_deflate"}),
        ("a.tif", PIXELS[..., 0].astype(np.uint16), {}),
        ("a.tif", PIXELS[..., 0] > 99, {}),
        ("a.tif", PIXELS, {"tiffinfo": {274: 6}}),
        ("a.tif", np.dstack([PIXELS, PIXELS[..., :1]]), {}),
        ("a.png", PIXELS, {}),
    ],
)
def test_anything_else_is_decoded(tmp_path, name, pixels, options):
    path = saved(tmp_path / name, pixels, **options)
    assert map_tiff(path) is None
    assert PictureWindows(path).size == ((203, 301) if options.get("tiffinfo") else (301, 203))


def test_inverted_grey_and_broken_files_are_left_to_the_decoder(tmp_path):
    inverted = saved(tmp_path / "a.tif", PIXELS[..., 0], tiffinfo={262: 0})
    found = PictureWindows(inverted).window((301, 203), (0, 301), (0, 203))
    assert map_tiff(inverted) is None or (found[..., 0] == PIXELS[..., 0]).all()
    (tmp_path / "broken.tif").write_bytes(b"II*\0 not really")
    assert map_tiff(tmp_path / "broken.tif") is None and map_tiff(tmp_path / "absent.tif") is None
    with pytest.raises(DataError, match=r"broken\.tif"):
        PictureWindows(tmp_path / "broken.tif")


def test_windows_at_the_stored_size_are_the_pixels_themselves():
    found = PictureWindows(PIXELS).window((301, 203), (7, 90), (200, 203))
    np.testing.assert_array_equal(found, PIXELS[7:90, 200:203])
    with pytest.raises(DataError, match="no longer"):
        check_size(PictureWindows(PIXELS), (301, 204), PIXELS)


def test_truncated_plain_tiff(tmp_path):
    path = saved(tmp_path / "a.tif", PIXELS)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.tif"):
        PictureWindows(path)


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_pillows_limit_is_kept_and_the_remedy_named(tmp_path, name, monkeypatch):
    path = saved(tmp_path / name, PIXELS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS.size // 3 // 2 - 1)
    with pytest.raises(DataError, match=rf"{name}.*raise PIL.Image.MAX_IMAGE_PIXELS"):
        PictureWindows(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS.size)
    assert PictureWindows(path).size == (301, 203)
