"""PNGs written row by row, against Pillow's reader; and masks in tiles that are written while computed."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semseg_automl.core.errors import DataError
from semseg_automl.inference.png_rows import PngRows
from semseg_automl.inference.tiled import MaskRows
from semseg_automl.inference.writer import MaskWriter, to_png_image

RNG = np.random.default_rng(0)
MASKS = {
    "8 bit": RNG.integers(0, 256, (37, 53), np.uint8),
    "16 bit": RNG.integers(0, 65536, (37, 53), np.uint16),
    "colour": RNG.integers(0, 256, (37, 53, 3), np.uint8),
    "one pixel": np.full((1, 1), 7, np.uint8),
}


def written(mask: np.ndarray, cuts: list[int], **options: Any) -> io.BytesIO:
    stream = io.BytesIO()
    picture = PngRows(stream, mask.shape[:2], **options)
    for part in np.split(mask, cuts):
        picture.add(part)
    picture.close()
    stream.seek(0)
    return stream


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("cuts", [[], [1], [5, 6, 30]])
def test_pillow_reads_what_was_written(name: str, cuts: list[int]) -> None:
    mask = MASKS[name]
    with Image.open(written(mask, [c for c in cuts if c < len(mask)], text={"mark": "m"})) as picture:
        picture.load()
        assert picture.info["mark"] == "m"
        np.testing.assert_array_equal(np.asarray(picture), mask)


def test_a_palette_is_kept_beside_the_values() -> None:
    mask, colours = MASKS["8 bit"], [0, 0, 0, 128, 0, 0, 0, 128, 0]
    with Image.open(written(mask, [9], palette=colours)) as picture:
        picture.load()
        assert picture.mode == "P" and picture.getpalette()[:9] == colours
        np.testing.assert_array_equal(np.asarray(picture), mask)
    for name in ("16 bit", "colour"):
        with Image.open(written(MASKS[name], [9], palette=colours)) as picture:
            np.testing.assert_array_equal(np.asarray(picture), MASKS[name])


def test_wrong_rows_are_refused() -> None:
    picture = PngRows(io.BytesIO(), (4, 5))
    picture.add(np.zeros((2, 5), np.uint8))
    wrong = [
        ((2, 4), "uint8"),
        ((3, 5), "uint8"),
        ((1, 5), "uint16"),
        ((1, 5), "int64"),
        ((1, 5, 4), "uint8"),
    ]
    for shape, dtype in wrong:
        with pytest.raises(DataError):
            picture.add(np.zeros(shape, dtype))
    with pytest.raises(DataError, match="2 of 4 rows"):
        picture.close()


def test_a_mask_in_parts_is_the_file_of_the_whole(tmp_path) -> None:
    source = tmp_path / "a.png"
    Image.new("RGB", (53, 37)).save(source)
    for name, palette in (("8 bit", None), ("8 bit", [9] * 768), ("16 bit", None), ("colour", None)):
        mask, folder = MASKS[name], tmp_path / f"{name} {palette is None}"
        writer = MaskWriter(folder, [source], key="k", palette=palette)
        path = writer.write_rows(0, MaskRows(size=(37, 53), parts=iter(np.split(mask, [3, 20]))))
        with Image.open(path) as picture, to_png_image(mask, palette) as whole:
            assert picture.mode == whole.mode and picture.getpalette() == whole.getpalette()
            np.testing.assert_array_equal(np.asarray(picture), mask)
        with pytest.raises(DataError, match=r"0\.\.65535"):
            writer.write_rows(0, MaskRows(size=(1, 2), parts=iter([np.array([[70000, 1]])])))
        assert MaskWriter(folder, [source], key="k").unfinished() == []
        writer.manifest.path.unlink()  # the mark is in the file too
        assert MaskWriter(folder, [source], key="k").unfinished() == []


def test_a_mask_that_breaks_off_leaves_nothing(tmp_path) -> None:
    def parts():
        yield np.zeros((10, 53), np.uint8)
        raise DataError("the picture ends here")

    writer = MaskWriter(tmp_path, [MASKS["8 bit"]])
    with pytest.raises(DataError, match="ends here"):
        writer.write_rows(0, MaskRows(size=(37, 53), parts=parts()))
    assert [p.name for p in tmp_path.iterdir()] == []


def test_memory_does_not_grow_with_the_mask() -> None:
    def peak(height: int) -> int:
        class Nowhere(io.RawIOBase):
            def write(self, content: bytes) -> int:
                return len(content)

        tracemalloc.start()
        picture = PngRows(Nowhere(), (height, 1000))  # type: ignore[arg-type]
        for _ in range(height // 20):
            picture.add(np.zeros((20, 1000), np.uint8))
        picture.close()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(20_000) < 1.3 * peak(1000) + 100_000
