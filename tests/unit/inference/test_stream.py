"""A table to files: past what can't be read, again where it was killed, part by part."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from semseg_automl.core.errors import ArtifactError, ConfigError, DataError
from semseg_automl.data.frame import list_pictures
from semseg_automl.data.labels import LabelMap
from semseg_automl.inference import stream
from semseg_automl.inference.predict import Predictor
from semseg_automl.inference.stream import check_shard, write_masks
from semseg_automl.inference.tiling import TileRule
from semseg_automl.inference.writer import MaskWriter

TWO = LabelMap(problem_type="binary", names=("no", "yes"), values=(0, 255), ignore=None)
ROOT = Path(__file__).parents[3]


class Red(nn.Module):
    """Foreground where the picture is red; counts the pictures it saw."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return nn.functional.avg_pool2d(images[:, :1], 4) * self.scale


def predictor():
    return Predictor(Red(), TWO, 32)


def make(folder, n, size=(24, 32)):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    paths = [str(folder / f"p{i:04d}.png") for i in range(n)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return paths


def run(made, paths, out, positions=None, **options):
    pictures = list_pictures(pd.DataFrame({"image": paths}))
    writer = MaskWriter(out, pictures.sources, key="k", shard=options.pop("shard", None))
    positions = range(len(pictures)) if positions is None else positions
    return write_masks(made, pictures, writer, positions, **options), writer


def test_files_hold_what_the_predictor_says_in_parts_of_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "PART", 4)
    made, paths = predictor(), make(tmp_path / "in", 11)
    report, writer = run(made, paths, tmp_path / "out")
    assert (report.written, report.skipped, report.failures) == (11, 0, {})
    assert report.pixels == 11 * 24 * 32 and report.seconds > 0
    for i, path in enumerate(paths):
        np.testing.assert_array_equal(np.asarray(Image.open(writer.path(i))), made.mask(path))
    made.segmenter.seen = 0
    again, _ = run(made, paths, tmp_path / "out")
    assert (again.written, again.skipped, made.segmenter.seen) == (0, 11, 0)


def test_unreadable_pictures_are_left_out_told_and_tried_again(tmp_path, caplog):
    paths = make(tmp_path / "in", 6)
    whole = Path(paths[1]).read_bytes()
    Path(paths[1]).write_bytes(whole[: len(whole) // 2])  # truncated
    Path(paths[2]).write_text("no picture")
    damaged = bytearray(whole)
    damaged[len(whole) // 2 :] = damaged[len(whole) // 2 :][::-1]
    cells = [*paths, str(tmp_path / "absent.png"), None, 7, "s3://bucket/x.png"]
    made = predictor()
    with caplog.at_level(logging.INFO, "semseg_automl"):
        report, writer = run(made, cells, tmp_path / "out")
    assert report.written == 4 and sorted(report.failures) == [1, 2, 6, 7, 8, 9]
    assert "6 of 10 pictures can't be read and have no mask:" in caplog.text
    assert all(f"row {i}: " in caplog.text for i in report.failures) and "4 masks written in" in caplog.text
    noted = [json.loads(line) for line in writer.manifest.path.read_text().splitlines()]
    assert sum("error" in line for line in noted) == 6
    Path(paths[1]).write_bytes(whole)
    again, _ = run(made, cells, tmp_path / "out")
    assert again.written == 1 and again.skipped == 4 and sorted(again.failures) == [2, 6, 7, 8, 9]


@pytest.mark.parametrize("tile", [None, 16])
def test_damage_that_only_decoding_shows(tmp_path, tile):
    """The header and the end are in order, the pixels are not."""
    paths = make(tmp_path / "in", 5, size=(64, 64))
    content = bytearray(Path(paths[3]).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    Path(paths[3]).write_bytes(bytes(content))
    report, writer = run(predictor(), paths, tmp_path / "out", batch_size=2, tile=TileRule.of(tile))
    assert report.written == 4 and list(report.failures) == [3] and "p0003.png" in report.failures[3]
    assert not writer.path(3).exists()


def test_shards_are_the_whole(tmp_path):
    paths = make(tmp_path / "in", 7)
    made = predictor()
    for i in range(3):
        report, writer = run(made, paths, tmp_path / "out", range(i, 7, 3), shard=(i, 3))
        assert report.written == len(range(i, 7, 3))
    assert writer.unfinished() == []
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == [".jsonl"] * 3 + [".png"] * 7
    for wrong in ((3, 3), (-1, 2), (0, 0), 4, (0.0, 2), (0, 1, 2), "0/4"):
        with pytest.raises(ConfigError, match="shard"):
            check_shard(wrong)
    assert check_shard(None) is None and check_shard([1, 2]) == (1, 2)


def test_a_folder_that_fills_up_ends_the_run(tmp_path, monkeypatch):
    paths = make(tmp_path / "in", 5)

    def full(self, position, mask):
        raise ArtifactError("disk full")

    monkeypatch.setattr(MaskWriter, "write", full)
    with pytest.raises(ArtifactError, match="disk full"):
        run(predictor(), paths, tmp_path / "out", batch_size=1)


def test_an_empty_table_and_a_missing_column(tmp_path):
    with pytest.raises(DataError, match="not one row"):
        list_pictures([])
    with pytest.raises(DataError, match="Did you mean 'image'"):
        list_pictures(pd.DataFrame({"image": ["a.png"]}), image="imaeg")


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.unit.inference.test_stream import predictor, run
from semseg_automl.inference.writer import MaskWriter
write = MaskWriter.write
MaskWriter.write = lambda self, i, mask: (time.sleep(0.02), write(self, i, mask))[1]
run(predictor(), sorted(map(str, Path({images!r}).iterdir())), {out!r}, batch_size=2)
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
def test_killed_in_the_middle_it_repeats_nothing_that_is_finished(tmp_path):
    n, out = 80, tmp_path / "out"
    paths = make(tmp_path / "in", n)
    code = KILLED.format(root=str(ROOT), images=str(tmp_path / "in"), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.png"))) < 10 and time.monotonic() < deadline:
        assert process.poll() is None, "ended by itself"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
    assert 10 <= len(before) < n
    made = predictor()
    report, writer = run(made, paths, out)
    assert (report.skipped, report.written, made.segmenter.seen) == (
        len(before),
        n - len(before),
        n - len(before),
    )
    assert all((out / name).stat().st_mtime_ns == changed for name, changed in before.items())
    assert len(list(out.glob("*.png"))) == n and writer.unfinished() == []
    assert len(writer.manifest.finished()) == n
