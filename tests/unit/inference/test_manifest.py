"""The manifest: lines that survive a crash, and nothing that is taken for finished wrongly."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from semseg_automl.core.errors import ArtifactError
from semseg_automl.inference import writer as writer_module
from semseg_automl.inference.manifest import Entry, Manifest
from semseg_automl.inference.writer import MaskWriter

MASK = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.fixture
def sources(tmp_path):
    paths = [str(tmp_path / f"{name}.png") for name in "abc"]
    for path in paths:
        Image.new("RGB", (4, 3)).save(path)
    return paths


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_was_added_is_read_and_the_last_line_counts(tmp_path):
    with Manifest(tmp_path) as manifest:
        for changed in (5, 6):
            manifest.add({"mask": "a.png", "image": "/a", "mark": "m", "bytes": 9, "changed": changed})
        manifest.add({"image": "/b", "error": "torn"})
    assert manifest.finished() == {"a.png": Entry("m", 9, 6)}
    assert [list(line) for line in lines(manifest.path)][2] == ["image", "error"]


def test_a_torn_line_hurts_nobody(tmp_path):
    line = {"mask": "a.png", "image": "/a", "mark": "m", "bytes": 9, "changed": 5}
    with Manifest(tmp_path) as manifest:
        manifest.add(line)
    with manifest.path.open("ab") as stream:
        stream.write(b'{"mask": "b.png", "ima')
    with Manifest(tmp_path) as manifest:
        manifest.add({**line, "mask": "c.png"})
    assert set(manifest.finished()) == {"a.png", "c.png"}


def test_shards_have_their_own_file_and_read_all(tmp_path):
    for shard in (None, (0, 2), (1, 2)):
        with Manifest(tmp_path, shard) as manifest:
            manifest.add({"mask": f"{shard}.png", "image": "/a", "mark": "m", "bytes": 9, "changed": 5})
    assert sorted(os.listdir(tmp_path)) == [
        "manifest-0-of-2.jsonl",
        "manifest-1-of-2.jsonl",
        "manifest.jsonl",
    ]
    assert len(manifest.finished()) == 3


def test_a_folder_that_can_not_be_written(tmp_path):
    with pytest.raises(ArtifactError, match="can't be written"), Manifest(tmp_path / "absent") as manifest:
        manifest.add({})


def test_finished_masks_are_known_without_opening_them(tmp_path, sources, monkeypatch):
    first = MaskWriter(tmp_path / "out", sources, key="k")
    for i in range(3):
        first.write(i, MASK)
    monkeypatch.setattr(writer_module, "_read_mark", lambda path: pytest.fail("opened"))
    assert MaskWriter(tmp_path / "out", sources, key="k").unfinished() == []


def test_a_mask_the_manifest_does_not_know_is_asked_itself_and_noted(tmp_path, sources):
    """Between a mask's arrival and its line a process may be killed."""
    first = MaskWriter(tmp_path / "out", sources, key="k")
    first.write(0, MASK)
    first.manifest.path.unlink()
    again = MaskWriter(tmp_path / "out", sources, key="k")
    assert again.unfinished() == [1, 2]
    assert set(again.manifest.finished()) == {"a.png"}


def test_the_manifest_is_not_believed_where_the_mask_was_changed(tmp_path, sources):
    first = MaskWriter(tmp_path / "out", sources, key="k")
    paths = [first.write(i, MASK) for i in range(3)]
    paths[0].write_bytes(b"x" * paths[0].stat().st_size)
    paths[1].unlink()
    assert MaskWriter(tmp_path / "out", sources, key="k").unfinished() == [0, 1]


def test_shards_of_two_models_are_not_mixed_up(tmp_path, sources):
    """A mask of equal size by another model, which another manifest knows, is not taken for this one's."""
    MaskWriter(tmp_path / "out", sources, key="one").write(0, MASK)
    other = MaskWriter(tmp_path / "out", sources, key="two", shard=(0, 1))
    path = other.write(0, MASK)
    assert path.stat().st_size == other.manifest.finished()["a.png"].size
    assert MaskWriter(tmp_path / "out", sources, key="one").unfinished() == [0, 1, 2]
    assert MaskWriter(tmp_path / "out", sources, key="two").unfinished() == [1, 2]
