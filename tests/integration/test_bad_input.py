"""What can be wrong with a user's data: told before training, by row or file, with rule and remedy."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl import SemsegError
from tests.integration.quick import NO_SEARCH, tiny

RNG = np.random.default_rng(0)
SIZE = (24, 32)


def _write(path: Path, data: bytes | str) -> str:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def _save(path: Path, array: np.ndarray, **options: Any) -> str:
    Image.fromarray(array).save(path, **options)
    return str(path)


def _noise() -> np.ndarray:
    return RNG.integers(0, 256, (*SIZE, 3), np.uint8)


def _half(path: Path, array: np.ndarray) -> str:
    _save(path, array)
    data = path.read_bytes()
    return _write(path, data[: len(data) // 2])


def _png_that_claims(path: Path, width: int, height: int) -> str:
    """A PNG of 32 x 24 pixels whose header tells another size, with a right checksum."""
    _save(path, _noise()[..., 0])
    data = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return _write(path, data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])


def _moving(path: Path) -> str:
    frames = [Image.fromarray(_noise()) for _ in range(2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return str(path)


def _pages(path: Path) -> str:
    return _moving(path)


def _closed(path: Path) -> Image.Image:
    picture = Image.open(_save(path, _noise()))
    picture.close()
    return picture


def _jpeg_mask(path: Path) -> str:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return _save(path, np.where((y - 12) ** 2 + (x - 16) ** 2 < 80, np.uint8(255), np.uint8(0)), quality=70)


@dataclass(frozen=True)
class Case:
    """One thing that is wrong: how to make it, and what the message must hold."""

    name: str
    says: tuple[str, ...]
    image: Callable[[Path], Any] | None = None  # the cell of row 'bad'
    mask: Callable[[Path], Any] | None = None
    table: Callable[[pd.DataFrame, Path], Any] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    fit: Callable[[pd.DataFrame], dict[str, Any]] = lambda table: {}


ROW = "row 'bad'"
CASES = [
    # pictures
    Case(
        "a picture that is not there", (ROW, "nowhere.png", "Check the paths"), image=lambda p: "nowhere.png"
    ),
    Case(
        "a picture's broken file URL",
        (ROW, "gone.png", "Check the paths"),
        image=lambda p: "file:///gone.png",
    ),
    Case("an empty string", (ROW, "the cell is empty", "dropna"), image=lambda p: " "),
    Case("None", (ROW, "the cell is empty", "dropna"), image=lambda p: None),
    Case("NaN", (ROW, "the cell is empty", "dropna"), image=lambda p: float("nan")),
    Case("pd.NA", (ROW, "the cell is empty", "dropna"), image=lambda p: pd.NA),
    Case("a number", (ROW, "a int", "give a path, an array"), image=lambda p: 3),
    Case("a dict", (ROW, "a dict", "give a path, an array"), image=lambda p: {"path": "a.png"}),
    Case("bytes", (ROW, "a bytes", "give a path, an array"), image=lambda p: b"\x89PNG"),
    Case("a folder", (ROW, "is a folder", "from_folders"), image=lambda p: p),
    Case(
        "text named .png", (ROW, "x.png", "export it as one of"), image=lambda p: _write(p / "x.png", "hello")
    ),
    Case("an empty file", (ROW, "x.png", "export it as one of"), image=lambda p: _write(p / "x.png", b"")),
    Case("a PDF", (ROW, "x.pdf", "export it as one of"), image=lambda p: _write(p / "x.pdf", "%PDF-1.7\n")),
    Case("an SVG", (ROW, "x.svg", "export it as one of"), image=lambda p: _write(p / "x.svg", "<svg/>")),
    Case(
        "DICOM",
        (ROW, "x.dcm", "export it as one of"),
        image=lambda p: _write(p / "x.dcm", b"\0" * 128 + b"DICM"),
    ),
    Case("npy", (ROW, "x.npy", "export it as one of"), image=lambda p: _write(p / "x.npy", b"\x93NUMPY\1\0")),
    *(
        Case(f"half a {e}", (ROW, f"x.{e}", "copy"), image=lambda p, e=e: _half(p / f"x.{e}", _noise()))
        for e in ("png", "jpg", "bmp", "webp", "tiff", "gif")
    ),
    Case(
        "a header that claims a giant",
        (ROW, "x.png", "MAX_IMAGE_PIXELS"),
        image=lambda p: _png_that_claims(p / "x.png", 60000, 60000),
    ),
    Case("no width", (ROW, "x.png"), image=lambda p: _png_that_claims(p / "x.png", 0, 24)),
    Case("pages", (ROW, "x.tiff", "file of its own"), image=lambda p: _pages(p / "x.tiff")),
    Case("a moving GIF", (ROW, "x.gif", "file of its own"), image=lambda p: _moving(p / "x.gif")),
    Case("a moving WebP", (ROW, "x.webp", "file of its own"), image=lambda p: _moving(p / "x.webp")),
    Case("channels first", (ROW, "(3, 24, 32)", "transpose(1, 2, 0)"), image=lambda p: np.zeros((3, *SIZE))),
    Case("a volume", (ROW, "(24, 32, 40)", "1 to 16 channels last"), image=lambda p: np.zeros((*SIZE, 40))),
    Case("one axis", (ROW, "(9,)", "(H, W)"), image=lambda p: np.zeros(9)),
    Case("no pixels", (ROW, "(0, 32)", "(H, W)"), image=lambda p: np.zeros((0, 32))),
    Case("complex numbers", (ROW, "complex128", "integers, floats"), image=lambda p: np.zeros(SIZE, complex)),
    Case("Python objects", (ROW, "object", "integers, floats"), image=lambda p: np.zeros(SIZE, object)),
    Case("words", (ROW, "<U1", "integers, floats"), image=lambda p: np.full(SIZE, "a")),
    Case(
        "another number of channels",
        (ROW, "has 6, most have 3", "bring all"),
        image=lambda p: np.zeros((*SIZE, 6)),
    ),
    Case("a closed PIL image", (ROW, "PIL image", "again"), image=lambda p: _closed(p / "x.png")),
    # masks
    Case("a mask that is not there", (ROW, "nowhere.png", "Check the paths"), mask=lambda p: "nowhere.png"),
    Case("no mask", (ROW, "the cell is empty", "dropna"), mask=lambda p: None),
    Case("text as mask", (ROW, "x.png", "export it as one of"), mask=lambda p: _write(p / "x.png", "hello")),
    Case("half a mask", (ROW, "x.png", "copy"), mask=lambda p: _half(p / "x.png", _noise()[..., 0] % 2)),
    Case(
        "a mask that lies",
        (ROW, "x.png", "24 of its 240 rows", "copy"),
        image=lambda p: np.zeros((240, 32)),
        mask=lambda p: _png_that_claims(p / "x.png", 32, 240),
    ),
    Case(
        "a mask of another size", (ROW, "9x8", "32x24", "as large as"), mask=lambda p: np.zeros((8, 9), int)
    ),
    Case("a turned mask", (ROW, "24x32", "EXIF"), mask=lambda p: np.zeros(SIZE[::-1], int)),
    Case("a mask of fractions", (ROW, "whole numbers", "class numbers"), mask=lambda p: np.full(SIZE, 0.5)),
    Case("a mask of NaN", (ROW, "whole numbers", "class numbers"), mask=lambda p: np.full(SIZE, np.nan)),
    Case("a mask of five channels", (ROW, "(24, 32, 5)", "(H, W)"), mask=lambda p: np.zeros((*SIZE, 5), int)),
    Case("colours above 255", (ROW, "0..255"), mask=lambda p: np.full((*SIZE, 3), 300)),
    Case("pages of masks", (ROW, "x.tiff", "file of its own"), mask=lambda p: _pages(p / "x.tiff")),
    Case("words as mask", (ROW, "integers, floats"), mask=lambda p: np.full(SIZE, "a")),
    Case("a JPEG mask", ("bad", "JPEG", "range(128, 256)"), mask=lambda p: _jpeg_mask(p / "x.jpg")),
    # labels
    Case(
        "everything ignored",
        ("ignored value 7", "ignore_index=None"),
        table=lambda t, p: t.assign(label=[np.full(SIZE, 7)] * 4),
        arguments={"ignore_index": 7},
    ),
    Case(
        "three values, binary",
        ("0, 1, 2", "problem_type='multiclass'"),
        mask=lambda p: np.full(SIZE, 2),
        arguments={"problem_type": "binary"},
    ),
    Case(
        "too few names",
        ("2 names", "0, 1, 9", "mapping"),
        mask=lambda p: np.full(SIZE, 9),
        arguments={"classes": ["a", "b"]},
    ),
    Case(
        "a value without a name",
        ("9", "'bad'", "name them, or"),
        mask=lambda p: np.full(SIZE, 9),
        arguments={"classes": {0: "a", 1: "b"}},
    ),
    Case(
        "colours for numbers",
        ("the masks hold integers",),
        arguments={"classes": {(0, 0, 0): "a", (1, 2, 3): "b", 0: "c", 1: "d"}},
    ),
    Case("a name twice", ("no name twice",), arguments={"classes": ["a", "a"]}),
    Case("a value twice", ("twice", "overlap"), arguments={"classes": {0: "a", range(0, 2): "b"}}),
    Case("a word as value", ("integer or (r, g, b)",), arguments={"classes": {"road": 1}}),
    Case(
        "an unknown problem", ("problem_type", "Did you mean 'binary'"), arguments={"problem_type": "binry"}
    ),
    Case("an unknown ignore_index", ("'auto', None, an integer",), arguments={"ignore_index": "none"}),
    Case(
        "a class's mask of many values",
        (ROW, "one other value", "PNG"),
        arguments={"label": ["label"]},
        mask=lambda p: np.arange(SIZE[0] * SIZE[1]).reshape(SIZE),
    ),
    Case(
        "no class's mask",
        (ROW, "every one of the cells", "Fill one"),
        arguments={"label": ["label"]},
        mask=lambda p: None,
    ),
    Case("label is no column", ("a list of different ones",), arguments={"label": ["label", "label"]}),
    # tables
    Case(
        "no image column",
        ("'image' is not among", "Did you mean 'images'"),
        table=lambda t, p: t.rename(columns={"image": "images"}),
    ),
    Case(
        "no label column",
        ("'label' is not among", "label="),
        table=lambda t, p: t.rename(columns={"label": "mask"}),
    ),
    Case(
        "a column twice",
        ("'image' occurs more than once", "Rename"),
        table=lambda t, p: pd.concat([t, t[["image"]]], axis=1),
    ),
    Case("no row", ("not one row", "at least"), table=lambda t, p: t.iloc[:0]),
    Case("no csv", ("none.csv", "Check the path"), table=lambda t, p: p / "none.csv"),
    Case("an empty csv", ("t.csv", "column names"), table=lambda t, p: _write(p / "t.csv", "")),
    Case(
        "a csv of noise",
        ("t.csv", "column names"),
        table=lambda t, p: _write(p / "t.csv", b"\xff\xfe\x00\x01" * 9),
    ),
    Case("a number as table", ("int", "pass a DataFrame"), table=lambda t, p: 3),
    Case("a dict as table", ("dict", "pass a DataFrame"), table=lambda t, p: {"image": ["a.png"]}),
    Case("pictures without masks", ("y=masks",), table=lambda t, p: list(t.image)),
    Case("too few masks", ("3 masks for 4", "same order"), fit=lambda t: {"y": list(t.label)[:3]}),
    Case("y of two columns", ("2 columns", "the one with the masks"), fit=lambda t: {"y": t}),
    Case("an unknown group column", ("groups='scene'", "columns"), fit=lambda t: {"groups": "scene"}),
    Case("too few groups", ("2 labels for 4",), fit=lambda t: {"groups": [1, 2]}),
    Case("a holdout of more than all", ("between 0 and 1", "1.5"), fit=lambda t: {"holdout_frac": 1.5}),
    Case(
        "bad tuning pictures",
        ("tuning_data", "gone.png", "Check the paths"),
        fit=lambda t: {"tuning_data": t.assign(image="gone.png")},
    ),
    Case(
        "tuning pictures of other channels",
        ("tuning_data", "have 6 channels", "Bring both"),
        fit=lambda t: {"tuning_data": t.assign(image=[np.zeros((*SIZE, 6), np.uint8)] * 4)},
    ),
    Case(
        "tuning masks of other classes",
        ("tuning_data", "no mask holds"),
        fit=lambda t: {"tuning_data": t.assign(label=[np.full(SIZE, 77)] * 4)},
    ),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Four pictures with 0/1 masks; the third row is called 'bad' where something is put into it."""
    folder, rows = tmp_path_factory.mktemp("good"), []
    for i in range(4):
        mask = RNG.integers(0, 2, SIZE).astype(np.uint8)
        rows.append((_save(folder / f"i{i}.png", _noise()), _save(folder / f"m{i}.png", mask)))
    return pd.DataFrame(rows, columns=["image", "label"], index=["a", "b", "bad", "d"], dtype=object)


def test_the_matrix_is_large_enough() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_told_before_training(
    case: Case, good: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr("semseg_automl.estimator._fit._fit_into", trained)
    data: Any = good.copy()
    for column, make in (("image", case.image), ("label", case.mask)):
        if make is not None:
            data.at["bad", column] = make(tmp_path)
    if case.table is not None:
        data = case.table(data, tmp_path)
    seg = tiny(tmp_path / "model", **case.arguments)
    with pytest.raises(SemsegError) as caught:
        seg.fit(data, **NO_SEARCH, **case.fit(good))
    message = str(caught.value)
    assert all(part in message for part in case.says), message
    assert isinstance(caught.value.__cause__, SemsegError | None), "a library's traceback would be shown"
    assert len(message) < 2000 and not (tmp_path / "model").exists()


@pytest.mark.timing
def test_a_thousand_rows_are_told_within_ten_seconds(good: pd.DataFrame, tmp_path: Path) -> None:
    """Every kind of unreadable picture and mask among 1,000 rows of 128 x 128 pixels."""
    rows = []
    for i in range(1000):
        image = _save(tmp_path / f"i{i}.png", RNG.integers(0, 256, (128, 128, 3), np.uint8))
        mask = _save(tmp_path / f"m{i}.png", RNG.integers(0, 2, (128, 128)).astype(np.uint8))
        rows.append([image, mask])
    table = pd.DataFrame(rows, columns=["image", "label"], dtype=object)
    faults = [case for case in CASES if (case.image or case.mask) and not case.arguments]
    for k, case in enumerate(faults):
        folder = tmp_path / f"fault{k}"
        folder.mkdir()
        for column, make in (("image", case.image), ("label", case.mask)):
            if make is not None:
                table.at[13 * k, column] = make(folder)
    started = time.perf_counter()
    with pytest.raises(SemsegError) as caught:
        tiny(tmp_path / "model").fit(table, **NO_SEARCH)
    assert time.perf_counter() - started < 10.0
    assert "row 0:" in str(caught.value) and "and " in str(caught.value)
