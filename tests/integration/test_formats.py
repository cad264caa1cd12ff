"""Every format that people have: fit -> predict -> the raw values of their own masks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl import SemanticSegmentor
from semseg_automl.data.frame import check_table
from semseg_automl.data.labels import read_mask
from tests.integration.quick import tiny

FAST: dict[str, Any] = {"max_epochs": 1, "image_size": 32, "adapter": "decoder_only", "batch_size": 2}
SIZE = (32, 40)
COLOURS = [(0, 0, 0), (220, 20, 60), (0, 0, 142)]
PALETTE = [v for colour in COLOURS for v in colour]


def _pixels(i: int) -> np.ndarray:
    """A picture (H, W, 3) uint8."""
    return np.random.default_rng((1, i)).integers(0, 256, (*SIZE, 3), np.uint8)


def _classes(i: int) -> np.ndarray:
    """Its class indices (H, W): three bands that every picture has."""
    return np.add.outer(np.arange(SIZE[0]), np.arange(SIZE[1]) + 3 * i) // 12 % 3


# pictures: name -> (picture number, path without ending) -> cell


def _pil(ending: str, mode: str, **options: Any) -> Callable[[int, Path], Any]:
    def write(i: int, path: Path) -> str:
        picture = Image.fromarray(_pixels(i)).convert(mode)
        picture.save(path.with_suffix(f".{ending}"), **options)
        return str(path.with_suffix(f".{ending}"))

    return write


def _turned(ending: str) -> Callable[[int, Path], Any]:
    def write(i: int, path: Path) -> str:
        exif = Image.Exif()
        exif[0x0112] = 6
        stored = Image.fromarray(_pixels(i)).transpose(Image.Transpose.ROTATE_90)
        stored.save(path.with_suffix(f".{ending}"), exif=exif)
        return str(path.with_suffix(f".{ending}"))

    return write


def _tiff(dtype: str, channels: int = 1, **options: Any) -> Callable[[int, Path], Any]:
    def write(i: int, path: Path) -> str:
        tifffile = pytest.importorskip("tifffile")
        array = np.concatenate([_pixels(i)] * 6, axis=2)[..., :channels].astype(dtype) * 3
        if channels > 1:
            kind = "rgb" if channels == 3 else "minisblack"
            options.update(photometric=kind, planarconfig="contig")
        tifffile.imwrite(path.with_suffix(".tif"), array if channels > 1 else array[..., 0], **options)
        return str(path.with_suffix(".tif"))

    return write


def _deep_png(i: int, path: Path) -> str:
    Image.fromarray(_pixels(i)[..., 0].astype(np.uint16) * 200).save(path.with_suffix(".png"))
    return str(path.with_suffix(".png"))


PICTURES: dict[str, Callable[[int, Path], Any]] = {
    "png rgb": _pil("png", "RGB"),
    "png grey": _pil("png", "L"),
    "png grey alpha": _pil("png", "LA"),
    "png palette": _pil("png", "P"),
    "png rgba": _pil("png", "RGBA"),
    "png 1 bit": _pil("png", "1"),
    "png 16 bit": _deep_png,
    "jpeg rgb": _pil("jpg", "RGB"),
    "jpeg grey": _pil("jpg", "L"),
    "jpeg cmyk": _pil("jpg", "CMYK"),
    "jpeg turned": _turned("jpg"),
    "webp rgb": _pil("webp", "RGB"),
    "webp rgba": _pil("webp", "RGBA"),
    "bmp rgb": _pil("bmp", "RGB"),
    "bmp grey": _pil("bmp", "L"),
    "gif": _pil("gif", "P"),
    "tiff rgb": _pil("tiff", "RGB"),
    "tiff lzw": _pil("tiff", "RGB", compression="tiff_lzw"),
    "tiff cmyk": _pil("tiff", "CMYK"),
    "tiff turned": _turned("tiff"),
    "tiff 16 bit": _tiff("u2"),
    "tiff 32 bit": _tiff("u4"),
    "tiff signed": _tiff("i2"),
    "tiff float": _tiff("f4"),
    "tiff 16-bit rgb": _tiff("u2", 3),
    "tiff tiled": _tiff("u1", 3, tile=(16, 16)),
    "bigtiff": _tiff("u1", 3, bigtiff=True),
    "tiff 4 bands": _tiff("u1", 4),
    "tiff 6 bands": _tiff("u2", 6),
    "array rgb": lambda i, _path: _pixels(i),
    "array grey": lambda i, _path: _pixels(i)[..., 0],
    "array 2 channels": lambda i, _path: _pixels(i)[..., :2],
    "array 4 channels": lambda i, _path: np.concatenate([_pixels(i)] * 2, 2)[..., :4],
    "array 6 float": lambda i, _path: np.concatenate([_pixels(i)] * 2, 2) / 255.0,
    "pil image": lambda i, _path: Image.fromarray(_pixels(i)),
    "pathlib": lambda i, path: Path(_pil("png", "RGB")(i, path)),
    "file url": lambda i, path: Path(_pil("png", "RGB")(i, path)).as_uri(),
}

# masks: name -> ((class indices, path without ending) -> cell, raw values of the classes, arguments)


def _mask(
    ending: str, values: Any, dtype: Any = np.uint8, palette: list[int] | None = None, **save: Any
) -> Callable[[np.ndarray, Path], Any]:
    def write(classes: np.ndarray, path: Path) -> str:
        picture = Image.fromarray(np.array(values, dtype)[classes])
        if palette is not None:
            picture.putpalette(palette)
        picture.save(path.with_suffix(f".{ending}"), **save)
        return str(path.with_suffix(f".{ending}"))

    return write


def _binary_mask(ending: str, on: int, mode: str = "L") -> Callable[[np.ndarray, Path], Any]:
    def write(classes: np.ndarray, path: Path) -> str:
        picture = Image.fromarray(np.where(classes > 0, np.uint8(on), np.uint8(0))).convert(mode)
        picture.save(path.with_suffix(f".{ending}"), **({"quality": 85} if ending == "jpg" else {}))
        return str(path.with_suffix(f".{ending}"))

    return write


MASKS: dict[str, tuple[Callable[[np.ndarray, Path], Any], list[Any], dict[str, Any]]] = {
    "index": (_mask("png", [0, 1, 2]), [0, 1, 2], {}),
    "palette": (_mask("png", [0, 1, 2], palette=PALETTE), [0, 1, 2], {}),
    "sparse values": (_mask("bmp", [10, 70, 200]), [10, 70, 200], {}),
    "0/1": (_binary_mask("png", 1), [0, 1], {}),
    "0/255": (_binary_mask("png", 255), [0, 255], {}),
    "1 bit": (_binary_mask("png", 255, "1"), [0, 1], {}),
    "jpeg": (
        _binary_mask("jpg", 255),
        [0, 255],
        {"classes": {range(0, 128): "rest", range(128, 256): "road"}},
    ),
    "rgb codes": (_mask("png", COLOURS), sorted(COLOURS), {}),
    "rgb webp": (_mask("webp", COLOURS, lossless=True), sorted(COLOURS), {}),
    "16-bit ids": (_mask("png", [0, 300, 40000], np.uint16), [0, 300, 40000], {}),
    "tiff ids": (_mask("tiff", [1, 2, 3]), [1, 2, 3], {}),
    "ignored 255": (_mask("png", [0, 1, 255]), [0, 1], {}),
    "ignored colour": (_mask("png", COLOURS), [COLOURS[0], COLOURS[2]], {"ignore_index": COLOURS[1]}),
    "merged": (_mask("png", [0, 1, 2]), [0, 1], {"classes": {0: "rest", 1: "road", 2: "road"}}),
    "dropped": (_mask("png", [0, 1, 2]), [0, 2], {"classes": {0: "rest", 1: None, 2: "car"}}),
    "array": (lambda classes, _path: classes.astype(np.int64), [0, 1, 2], {}),
    "per class": (
        lambda classes, path: [
            _mask("png", [0, int(k == 1), int(k == 2)])(classes, path.with_name(f"{path.name}_{k}"))
            for k in (1, 2)
        ],
        [0, 1, 2],
        {"label": ["road", "car"]},
    ),
}

COMBINATIONS = [(picture, "index") for picture in PICTURES]
COMBINATIONS += [("png rgb", mask) for mask in MASKS if mask != "index"]
COMBINATIONS += list(
    itertools.product(
        ["jpeg turned", "tiff 6 bands"], ["palette", "0/255", "rgb codes", "16-bit ids", "per class"]
    )
)


def _table(folder: Path, picture: str, mask: str, n: int = 3) -> pd.DataFrame:
    write_mask, _, arguments = MASKS[mask]
    rows = []
    for i in range(n):
        cells = write_mask(_classes(i), folder / f"mask{i}")
        rows.append(
            [PICTURES[picture](i, folder / f"picture{i}"), *(cells if isinstance(cells, list) else [cells])]
        )
    return pd.DataFrame(rows, columns=["image", *arguments.get("label", ["label"])], index=list("xyzuvw")[:n])


def _values(mask: np.ndarray) -> set[Any]:
    if mask.ndim == 3:
        return {tuple(int(v) for v in colour) for colour in np.unique(mask.reshape(-1, 3), axis=0)}
    return {int(v) for v in np.unique(mask)}


def test_the_matrix_is_large_enough() -> None:
    assert len(set(COMBINATIONS)) == len(COMBINATIONS) >= 60
    assert set(COMBINATIONS) >= QUICK


# one combination of each kind of reader and of label map always; all of them with the slow tests
QUICK = {
    ("png rgb", "palette"),
    ("png rgb", "dropped"),
    ("png rgb", "ignored colour"),
    ("png rgb", "array"),
    ("jpeg turned", "index"),
    ("jpeg turned", "rgb codes"),
    ("tiff 6 bands", "16-bit ids"),
    ("tiff 6 bands", "per class"),
}
CASES = [
    pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow, id="-".join(pair))
    for pair in COMBINATIONS
]


@pytest.mark.parametrize(("picture", "mask"), CASES)
def test_fit_and_predict_answer_in_the_masks_own_values(tmp_path: Path, picture: str, mask: str) -> None:
    table = _table(tmp_path, picture, mask)
    _, values, arguments = MASKS[mask]
    seg = tiny(tmp_path / "model", **arguments).fit(
        table.iloc[:2], tuning_data=table.iloc[2:], hyperparameters=FAST, hyperparameter_tune_kwargs=None
    )
    assert seg.class_values_ == values
    _check_what_was_learned_from(seg, table, mask)
    found = seg.predict(table)
    assert list(found.index) == list(table.index)
    for predicted in found:
        assert predicted.shape[:2] == SIZE and _values(predicted) <= set(values)
    again = SemanticSegmentor.load(tmp_path / "model", verbosity=0).predict(table.iloc[:1])
    np.testing.assert_array_equal(again.iloc[0], found.iloc[0])
    _check_files(seg, table.iloc[:1], found.iloc[0], tmp_path / "out", mask)


def _check_what_was_learned_from(seg: SemanticSegmentor, table: pd.DataFrame, mask: str) -> None:
    """The class indices that training saw are those that were drawn."""
    label_map = seg._model.label_map
    samples = check_table(table, label=seg.label, need_label=True)
    for i, source in enumerate(samples.masks or ()):
        seen, drawn = read_mask(source, label_map), _classes(i)
        if mask == "jpeg":
            assert (seen == (drawn > 0)).mean() > 0.97
            continue
        expected = {
            "0/1": drawn > 0, "0/255": drawn > 0, "1 bit": drawn > 0, "merged": drawn > 0,
            "ignored 255": np.array([0, 1, -1])[drawn], "ignored colour": np.array([0, -1, 1])[drawn],
            "dropped": np.array([0, -1, 1])[drawn], "rgb codes": np.array([0, 2, 1])[drawn],
            "rgb webp": np.array([0, 2, 1])[drawn],
        }.get(mask, drawn)  # fmt: skip
        np.testing.assert_array_equal(seen, expected)


def _check_files(
    seg: SemanticSegmentor, table: pd.DataFrame, predicted: np.ndarray, folder: Path, mask: str
) -> None:
    """Written masks hold the same values, and the palette where the user's masks had one."""
    (path,) = seg.predict(table, output_dir=folder)
    with Image.open(path) as written:
        np.testing.assert_array_equal(np.asarray(written), predicted)
        assert written.mode == (
            "RGB"
            if predicted.ndim == 3
            else "P"
            if mask == "palette"
            else {1: "L", 2: "I;16"}[predicted.itemsize]
        )
        if mask == "palette":
            assert (written.getpalette() or [])[: len(PALETTE)] == PALETTE
