"""The mask of a GeoTIFF lies where its picture does; GDAL (rasterio) is the judge where it is installed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.data.georeference import georeference
from semseg_automl.inference import geotiff
from semseg_automl.inference.tiled import MaskRows
from semseg_automl.inference.writer import MaskWriter

tifffile = pytest.importorskip("tifffile", reason="the extra [geo] is not installed")
RNG = np.random.default_rng(0)
# UTM zone 32 north, metres, north up: 0.5 m a pixel, the upper left corner at 500000 E, 5000000 N
KEYS = (1, 1, 0, 4, 1024, 0, 1, 1, 1025, 0, 1, 1, 1026, 34737, 14, 0, 3072, 0, 1, 32632)
TAGS = [
    (33550, 12, 3, (0.5, 0.5, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 5000000.0, 0.0), True),
    (34735, 3, len(KEYS), KEYS, True),
    (34737, 2, 0, "UTM zone 32N|", True),
]
ROTATED = (34264, 12, 16, (0.4, 0.3, 0, 7e5, 0.3, -0.4, 0, 5e6, 0, 0, 0, 0, 0, 0, 0, 1.0), True)
MASKS = {
    "8 bit": RNG.integers(0, 256, (300, 530), np.uint8),
    "16 bit": RNG.integers(0, 65536, (300, 530), np.uint16),
    "colour": RNG.integers(0, 256, (300, 530, 3), np.uint8),
    "small": RNG.integers(0, 3, (5, 7), np.uint8),
    "tiles": RNG.integers(0, 3, (512, 256), np.uint8),
}


def picture(path: Path, size: tuple[int, int] = (300, 530), tags: Any = None, **options: Any) -> Path:
    pixels = RNG.integers(0, 256, (*size, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", extratags=TAGS if tags is None else tags, **options)
    return path


def written(folder: Path, source: Path, mask: np.ndarray, cuts: list[int], **options: Any) -> Path:
    writer = MaskWriter(folder, [source], key="k", **options)
    return writer.write_rows(0, MaskRows(size=mask.shape[:2], parts=iter(np.split(mask, cuts))))


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("cuts", [[], [1, 4], [200, 290]])
def test_values_and_tags_are_kept(name: str, cuts: list[int], tmp_path: Path) -> None:
    mask = MASKS[name]
    source = picture(tmp_path / "a.TIF", mask.shape[:2])
    path = written(tmp_path / "out", source, mask, [c for c in cuts if c < len(mask)])
    assert path.name == "a.tif"
    np.testing.assert_array_equal(tifffile.imread(path), mask)
    assert georeference(path) == georeference(source) != ()
    with tifffile.TiffFile(path) as mine, tifffile.TiffFile(source) as theirs:
        assert mine.geotiff_metadata == theirs.geotiff_metadata
        assert mine.pages[0].is_tiled and len(mine.pages) == 1
    again = MaskWriter(tmp_path / "out", [source], key="k")
    assert again.unfinished() == []
    again.manifest.path.unlink()  # the mark is in the file too
    assert MaskWriter(tmp_path / "out", [source], key="k").unfinished() == []
    assert MaskWriter(tmp_path / "out", [source], key="other").unfinished() == [0]


@pytest.mark.parametrize("tags", [TAGS, [ROTATED, *TAGS[2:]]], ids=["north up", "rotated"])
def test_gdal_reads_the_same_place(tags: Any, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio, the judge, is not installed")
    source = picture(tmp_path / "a.tif", tags=tags)
    path = MaskWriter(tmp_path / "out", [source]).write(0, MASKS["8 bit"])
    with rasterio.open(path) as mine, rasterio.open(source) as theirs:
        assert mine.transform == theirs.transform and not mine.transform.is_identity
        assert mine.crs == theirs.crs and mine.crs.to_epsg() == 32632
        np.testing.assert_array_equal(mine.read(1), MASKS["8 bit"])


def test_a_palette_is_kept(tmp_path: Path) -> None:
    colours = [0, 0, 0, 128, 0, 0, 0, 128, 0]
    source = picture(tmp_path / "a.tif", (5, 7))
    path = written(tmp_path / "out", source, MASKS["small"], [2], palette=colours)
    with Image.open(path) as stored:
        assert stored.mode == "P" and stored.getpalette()[:9] == colours
        np.testing.assert_array_equal(np.asarray(stored), MASKS["small"])


def test_a_big_tiff_where_four_gibibytes_may_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = picture(tmp_path / "a.tif", bigtiff=True)
    assert len(georeference(source)) == 4
    monkeypatch.setattr(geotiff, "_CLASSIC", 1000)
    path = written(tmp_path / "out", source, MASKS["8 bit"], [100])
    with tifffile.TiffFile(path) as stored:
        assert stored.is_bigtiff
    np.testing.assert_array_equal(tifffile.imread(path), MASKS["8 bit"])
    assert georeference(path) == georeference(source)


def test_what_has_no_georeference(tmp_path: Path) -> None:
    picture(tmp_path / "plain.tif", tags=[])
    picture(tmp_path / "turned.tif", tags=[*TAGS, (274, 3, 1, 6, True)])
    (tmp_path / "broken.tif").write_bytes(b"II*\0\xff\xff\xff\xff")
    (tmp_path / "text.tif").write_text("hello")
    Image.new("RGB", (7, 5)).save(tmp_path / "x.png")
    sources = [
        tmp_path / n for n in ("plain.tif", "turned.tif", "broken.tif", "text.tif", "x.png", "gone.tif")
    ]
    others = ["memory://a.tif", np.zeros((5, 7), np.uint8), Image.new("L", (7, 5))]
    assert [georeference(s) for s in [*sources, *others]] == [()] * 9
    writer = MaskWriter(tmp_path / "out", [*sources, *others])
    assert {writer.path(i).suffix for i in range(9)} == {".png"}


def test_wrong_rows_leave_nothing(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.tif", (300, 40))
    for rows in ([np.zeros((299, 40), np.uint8)], [np.zeros((300, 41), np.uint8)], [], [MASKS["8 bit"]] * 2):
        writer = MaskWriter(tmp_path / "out", [source])
        with pytest.raises(DataError):
            writer.write_rows(0, MaskRows(size=(300, 40), parts=iter(rows)))
    assert not [p for p in (tmp_path / "out").iterdir() if p.suffix != ".jsonl"]


def test_without_the_package_masks_are_png_and_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = picture(tmp_path / "a.tif", (5, 7))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with caplog.at_level(logging.WARNING, "semseg_automl"):
        path = MaskWriter(tmp_path / "out", [source]).write(0, MASKS["small"])
    assert path.name == "a.png" and "masks of 1 GeoTIFFs are written as PNG" in caplog.text
    assert "pip install 'semseg_automl[geo]'" in caplog.text
    np.testing.assert_array_equal(np.asarray(Image.open(path)), MASKS["small"])
    with pytest.raises(ConfigError, match=r"semseg_automl\[geo\]"):
        geotiff.tifffile()


def test_pictures_without_a_place_ask_for_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = picture(tmp_path / "plain.tif", (5, 7), tags=[])
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert MaskWriter(tmp_path / "out", [source]).path(0).name == "plain.png"
    assert not caplog.records
