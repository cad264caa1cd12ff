"""COCO and YOLO annotations to masks, against pycocotools and matplotlib's geometry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image

from semseg_automl import datasets
from semseg_automl.core.errors import DataError
from semseg_automl.data.masks import read_raw_mask
from semseg_automl.data.shapes import draw_shapes

SIZE = (80, 100)
STAR = [
    [50 + r * np.cos(a), 40 + r * np.sin(a)]
    for a, r in zip(np.arange(10) * np.pi / 5, [35, 16] * 5, strict=True)
]
STAR = [[float(x), float(y)] for x, y in STAR]
SQUARE = [[10.0, 20.0], [30.0, 20.0], [30.0, 50.0], [10.0, 50.0]]


def _flat(polygon: list[list[float]]) -> list[float]:
    return [v for point in polygon for v in point]


def _centres_inside(polygon: list[list[float]]) -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    return (
        Outline([*polygon, polygon[0]], closed=True)
        .contains_points(np.stack([x.ravel(), y.ravel()], 1))
        .reshape(SIZE)
    )


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("polygon", [STAR, SQUARE], ids=["star", "square"])
def test_polygons_hold_the_pixels_whose_centres_are_inside(polygon: list[list[float]]) -> None:
    drawn = draw_shapes([(1, [np.array(polygon)])], SIZE) > 0
    np.testing.assert_array_equal(drawn, _centres_inside(polygon))


@pytest.mark.parametrize("polygon", [STAR, SQUARE], ids=["star", "square"])
def test_polygons_agree_with_pycocotools(polygon: list[list[float]]) -> None:
    coder = pytest.importorskip("pycocotools.mask")
    theirs = coder.decode(coder.merge(coder.frPyObjects([_flat(polygon)], *SIZE))) > 0
    assert _iou(draw_shapes([(1, [np.array(polygon)])], SIZE) > 0, theirs) > 0.93


def _coco(folder: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    for name in ("a", "b"):
        (folder / "pictures" / "sub").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(folder / "pictures" / "sub" / f"{name}.jpg")
    content = {
        "images": [{"id": 5, "file_name": "sub/a.jpg"}, {"id": 7, "file_name": "sub/b.jpg"}],
        "categories": [{"id": 3, "name": "car"}, {"id": 1, "name": "road"}],
        "annotations": annotations,
        **changes,
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def _annotation(
    segmentation: Any, category: int = 1, image: int = 5, area: float = 100, **more: Any
) -> dict[str, Any]:
    return {
        "id": 9,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "area": area,
        **more,
    }


def test_coco_masks_hold_the_category_ids_and_small_objects_lie_on_top(tmp_path: Path) -> None:
    coder = pytest.importorskip("pycocotools.mask")
    star = _centres_inside(STAR)
    counts: list[int] = []
    runs = star.T.reshape(-1)  # (H, W) -> (W*H,)
    edges = np.flatnonzero(np.diff(runs)) + 1
    counts = np.diff([0, *edges, runs.size]).tolist()
    packed = coder.encode(np.asfortranarray(star.astype(np.uint8)))
    file = _coco(
        tmp_path,
        [
            _annotation([_flat(SQUARE)], category=3, area=600),
            _annotation({"size": list(SIZE), "counts": counts}, area=1200),
            _annotation({"size": list(SIZE), "counts": packed["counts"].decode()}, image=7, iscrowd=1),
        ],
    )
    table = datasets.from_coco(file, tmp_path / "pictures", tmp_path / "masks")
    assert table.attrs["classes"] == {0: "background", 1: "road", 3: "car"}
    assert [Path(p).relative_to(tmp_path).as_posix() for p in table.label] == [
        "masks/sub/a.png",
        "masks/sub/b.png",
    ]
    square = draw_shapes([(1, [np.array(SQUARE)])], SIZE) > 0
    np.testing.assert_array_equal(read_raw_mask(table.label[0]), np.where(square, 3, star * 1))
    np.testing.assert_array_equal(read_raw_mask(table.label[1]), star * 1)


def test_coco_categories_from_zero_are_moved_up(tmp_path: Path) -> None:
    file = _coco(tmp_path, [_annotation([_flat(SQUARE)], category=0)], categories=[{"id": 0, "name": "a"}])
    table = datasets.from_coco(file, tmp_path / "pictures", tmp_path / "masks")
    assert table.attrs["classes"] == {0: "background", 1: "a"}
    assert set(np.unique(read_raw_mask(table.label[0]))) == {0, 1}


def test_everything_wrong_with_a_coco_file_is_told_at_once(tmp_path: Path) -> None:
    file = _coco(
        tmp_path,
        [_annotation([], 1), _annotation([_flat(SQUARE)], 8), _annotation([_flat(SQUARE)], image=99)],
        images=[{"id": 5, "file_name": "sub/a.jpg"}, {"id": 7, "file_name": "gone.jpg"}],
    )
    with pytest.raises(DataError) as caught:
        datasets.from_coco(file, tmp_path / "pictures", tmp_path / "masks")
    for part in (
        "coco.json",
        "annotation without a segmentation: row 9",
        "category_id 8",
        "image_id 99",
        "gone.jpg: no such file",
    ):
        assert part in str(caught.value)
    for text in ("{", "[]", '{"images": []}', '{"images": [{}], "annotations": [], "categories": []}'):
        file.write_text(text)
        with pytest.raises(DataError, match=r"coco\.json"):
            datasets.from_coco(file, tmp_path, tmp_path)
    with pytest.raises(DataError, match="no such file"):
        datasets.from_coco(tmp_path / "none.json", tmp_path, tmp_path)


@pytest.mark.parametrize("how", ["absolute names", "masks among pictures", "yolo"])
def test_no_mask_takes_the_place_of_a_picture(how: str, tmp_path: Path) -> None:
    """An absolute ``file_name`` once made the picture's own path the mask's."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", SIZE[::-1], "red").save(folder / "a.png")
    before = (folder / "a.png").read_bytes()
    name = str(folder / "a.png") if how == "absolute names" else "a.png"
    file = tmp_path / "coco.json"
    content = {
        "images": [{"id": 5, "file_name": name}],
        "categories": [{"id": 1, "name": "road"}],
        "annotations": [_annotation([_flat(SQUARE)])],
    }
    file.write_text(json.dumps(content))
    if how == "absolute names":
        table = datasets.from_coco(file, folder, tmp_path / "masks")
        assert table.label[0] == str(tmp_path / "masks" / "a.png") and read_raw_mask(table.label[0]).any()
    else:
        with pytest.raises(DataError, match="give another folder for the masks"):
            if how == "yolo":
                datasets.from_yolo(folder, tmp_path, folder)
            else:
                datasets.from_coco(file, folder, folder)
    assert (folder / "a.png").read_bytes() == before


def test_pictures_of_one_name_have_masks_of_their_own(tmp_path: Path) -> None:
    images = [{"id": 5, "file_name": "sub/a.jpg"}, {"id": 7, "file_name": "sub/a.png"}]
    file = _coco(tmp_path, [_annotation([_flat(SQUARE)])], images=images)
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "pictures" / "sub" / "a.png")
    table = datasets.from_coco(file, tmp_path / "pictures", tmp_path / "masks")
    assert [Path(p).name for p in table.label] == ["a.jpg.png", "a.png.png"]
    assert [bool(read_raw_mask(p).any()) for p in table.label] == [True, False]
    file = _coco(tmp_path, [], images=[images[0], {**images[0], "id": 6}])
    with pytest.raises(DataError, match="two pictures with one mask"):
        datasets.from_coco(file, tmp_path / "pictures", tmp_path / "masks")


@pytest.mark.parametrize(
    ("size", "part"), [((40, 50), "scale one of them"), (SIZE[::-1], "EXIF orientation: save it turned")]
)
def test_annotations_for_another_size_are_refused(size: tuple[int, int], part: str, tmp_path: Path) -> None:
    images = [{"id": 5, "file_name": "sub/a.jpg", "height": size[0], "width": size[1]}]
    file = _coco(tmp_path, [_annotation([_flat(SQUARE)])], images=images)
    with pytest.raises(DataError, match=part):
        datasets.from_coco(file, tmp_path / "pictures", tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


def test_numbers_as_other_tools_write_them_and_folders_below_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    categories = [{"id": 1.0, "name": "road"}, {"id": "3", "name": "car"}]
    found = [_annotation([_flat(SQUARE)], area=600) | {"category_id": c} for c in (1.0, "3")]
    _coco(tmp_path, [found[0], found[1] | {"image_id": 7}], categories=categories)
    table = datasets.from_coco("~/coco.json", "~/pictures", "~/masks")
    assert [int(read_raw_mask(p).max()) for p in table.label] == [1, 3]
    assert Path(table.label[0]) == tmp_path / "masks" / "sub" / "a.png"
    with pytest.raises(DataError, match="annotation without a segmentation"):
        datasets.from_coco(_coco(tmp_path, [_annotation([[]])]), "~/pictures", "~/masks")


def test_segmentations_of_other_forms_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrong = [
        _flat(SQUARE),
        [[*SQUARE]],
        [[1, 1], [5, 1], [5, 5]],
        "polygon",
        [["1", "2", "3", "4", "5", "6"]],
    ]
    for segmentation in wrong:
        with pytest.raises(DataError, match=r"of another form|too few corners"):
            datasets.from_coco(_coco(tmp_path, [_annotation(segmentation)]), tmp_path / "pictures", tmp_path)
    good = _annotation([_flat(SQUARE)]) | {"area": None}
    line, nothing = _annotation([[1, 1, 5, 5]]), _annotation([_flat(SQUARE)]) | {"category_id": None}
    table = datasets.from_coco(_coco(tmp_path, [good, line]), tmp_path / "pictures", tmp_path / "masks")
    assert read_raw_mask(table.label[0]).sum() == 600 and "has no inside" in caplog.text
    with pytest.raises(DataError, match="category_id None"):
        datasets.from_coco(_coco(tmp_path, [nothing]), tmp_path / "pictures", tmp_path / "masks")


def _yolo(folder: Path, text: str | None) -> tuple[Path, Path, Path]:
    (folder / "i").mkdir()
    (folder / "l").mkdir()
    Image.new("RGB", SIZE[::-1]).save(folder / "i" / "a.png")
    if text is not None:
        (folder / "l" / "a.txt").write_text(text)
    return folder / "i", folder / "l", folder / "m"


def test_yolo_polygons(tmp_path: Path) -> None:
    line = " ".join(str(v) for x, y in SQUARE for v in (x / SIZE[1], y / SIZE[0]))
    table = datasets.from_yolo(*_yolo(tmp_path, f"2 {line}\n\n"), names=["a", "b", "c"])
    assert table.attrs["classes"] == {0: "background", 1: "a", 2: "b", 3: "c"}
    expected = draw_shapes([(3, [np.array(SQUARE)])], SIZE)
    np.testing.assert_array_equal(read_raw_mask(table.label[0]), expected)


def test_a_picture_without_yolo_labels_is_background(tmp_path: Path) -> None:
    table = datasets.from_yolo(*_yolo(tmp_path, None))
    assert not read_raw_mask(table.label[0]).any() and table.attrs["classes"] == {0: "background"}


def test_wrong_yolo_lines_are_named(tmp_path: Path) -> None:
    text = "0 .5 .5 .2 .2\nx 1 2 3\n0 .1 .1 .2 .2 .3\n0 0 0 9 9 1 0\n4 0 0 .5 .5 0 .5\n"
    with pytest.raises(DataError) as caught:
        datasets.from_yolo(*_yolo(tmp_path, text), names=["a"])
    for part in (
        "line 1: a box",
        "line 2: 'x 1 2 3'",
        "line 3: 5 coord",
        "line 4: classes are",
        "class 4 has no name",
    ):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="not one picture"):
        datasets.from_yolo(tmp_path / "none", tmp_path, tmp_path)
