"""Masks as PNG files: names, formats, finished ones."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from semseg_automl.core.errors import ArtifactError, ConfigError, DataError
from semseg_automl.inference.writer import MaskWriter, output_names, to_png_image


@pytest.fixture
def sources(tmp_path):
    paths = [tmp_path / "a" / "leaf.jpg", tmp_path / "b" / "Leaf.png", tmp_path / "a" / "stem.tif"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 3)).save(path)
    return paths


MASK = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize(
    "mask", [MASK, MASK.astype(np.uint16) + 300, np.stack([MASK] * 3, -1), MASK > 5, MASK.astype(np.uint16)]
)
def test_values_come_back(tmp_path, mask):
    path = MaskWriter(tmp_path / "out", [mask]).write(0, mask)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), mask)
    assert path.name == "image_000000.png" and sorted(os.listdir(tmp_path / "out")) == [
        path.name,
        "manifest.jsonl",
    ]


def test_format_follows_the_dtype_not_the_values():
    assert to_png_image(np.zeros((2, 2), np.uint16)).mode.startswith("I;16")
    assert to_png_image(np.zeros((2, 2), np.uint8)).mode == "L"


@pytest.mark.parametrize(
    "mask",
    [
        np.full((2, 2), 70000),
        np.full((2, 2), -1),
        np.zeros((2, 2), np.float32),
        np.zeros((2, 2, 4), np.uint8),
    ],
)
def test_what_a_png_cant_hold(mask):
    with pytest.raises(DataError):
        to_png_image(mask)


def test_names_are_distinct_and_do_not_depend_on_order(sources):
    names = output_names(sources)
    assert names[2] == "stem.png" and len({n.casefold() for n in names}) == 3
    assert names[0].startswith("leaf-") and names[1].startswith("Leaf-")
    assert output_names(sources[::-1]) == names[::-1]
    assert output_names(sources[:1]) == ["leaf.png"]
    assert len(set(output_names([sources[0]] * 3))) == 3
    assert output_names([sources[2].as_uri(), np.zeros((2, 2))]) == ["stem.png", "image_000001.png"]


def test_finished_ones_are_skipped(tmp_path, sources):
    def writer(key="model 1"):
        return MaskWriter(tmp_path / "out", sources, key=key)

    assert writer().unfinished() == [0, 1, 2]
    writer().write(1, MASK)
    assert writer().unfinished() == [0, 2]
    assert writer("model 2").unfinished() == [0, 1, 2]
    Image.new("RGB", (5, 3)).save(sources[1])
    os.utime(sources[1], (1, 1))
    assert writer().unfinished() == [0, 1, 2]
    writer().path(0).write_bytes(b"half a file of someone else")
    assert 0 in writer().unfinished()


def test_arrays_are_never_taken_as_finished(tmp_path):
    writer = MaskWriter(tmp_path, [MASK, Image.fromarray(MASK)])
    writer.write(0, MASK)
    assert writer.unfinished() == [0, 1]


def test_same_mask_same_bytes(tmp_path, sources):
    one = MaskWriter(tmp_path / "1", sources, key="k").write(0, MASK).read_bytes()
    assert MaskWriter(tmp_path / "2", sources, key="k").write(0, MASK).read_bytes() == one


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ArtifactError, match="can't be created"):
        MaskWriter(tmp_path / "out", [])


def test_crash_leaves_no_half_file(tmp_path, monkeypatch):
    writer = MaskWriter(tmp_path, [MASK])
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(ArtifactError, match="disk full"):
        writer.write(0, MASK)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_was_writing_is_removed_but_not_what_another_writes_now(tmp_path):
    old, new = tmp_path / ".writing-old", tmp_path / ".writing-new"
    old.write_text("half a mask")
    new.write_text("half a mask")
    os.utime(old, (1, 1))
    MaskWriter(tmp_path, [])
    assert not old.exists() and new.exists()


@pytest.mark.parametrize("folder", ["b", "b/../b", "link"])
def test_a_folder_where_a_mask_would_replace_a_picture(tmp_path, sources, folder):
    if folder == "link":
        try:
            (tmp_path / "link").symlink_to(tmp_path / "b")
        except OSError:
            pytest.skip("no links here")
    before = sources[1].read_bytes()
    with pytest.raises(ConfigError, match=r"a mask would replace Leaf\.png\. Give another folder"):
        MaskWriter(tmp_path / folder, sources[1:])
    assert sources[1].read_bytes() == before and os.listdir(tmp_path / "b") == ["Leaf.png"]
    MaskWriter(tmp_path / "a", sources[:1])  # leaf.jpg and leaf.png live side by side
