"""Pictures at URLs, from fit to mask; and GeoTIFFs whose masks lie where they do, whole and in tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semseg_automl import SemanticSegmentor
from semseg_automl.data.georeference import georeference
from tests.integration.quick import NO_SEARCH, tiny


def test_a_table_of_urls_is_learned_from_and_predicted(textures: pd.DataFrame, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra [remote] is not installed")
    memory = fsspec.filesystem("memory")
    local = textures[["image", "label"]]
    table = local.copy()
    for column in table:
        for row, path in table[column].items():
            table.loc[row, column] = f"memory://{column}/{row}.png"
            memory.pipe(table.loc[row, column], Path(path).read_bytes())
    try:
        seg = tiny(tmp_path / "m").fit(table, **NO_SEARCH)
        same = tiny(tmp_path / "n").fit(local, **NO_SEARCH)
        paths = seg.predict(table, output_dir=tmp_path / "out")
        assert seg.best_score_ == same.best_score_
        for row, path in paths.items():
            assert Path(path).name == f"{row}.png"
            np.testing.assert_array_equal(seg.predict(table["image"][row]), same.predict(local["image"][row]))
        before = [Path(p).stat().st_mtime_ns for p in paths]
        again = seg.predict(table, output_dir=tmp_path / "out")
        assert [Path(p).stat().st_mtime_ns for p in again] == before
    finally:
        memory.store.clear()


@pytest.mark.parametrize("tile", [None, 64])
def test_the_mask_of_a_geotiff_lies_where_it_does(
    tile: int | None, multiclass: SemanticSegmentor, tmp_path: Path
) -> None:
    tifffile = pytest.importorskip("tifffile", reason="the extra [geo] is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (150, 410, 3), np.uint8)
    tags = [
        (33550, 12, 3, (0.5, 0.5, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 5000000.0, 0.0), True),
        (34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32632), True),
    ]
    source = tmp_path / "field.tif"
    tifffile.imwrite(source, pixels, photometric="rgb", extratags=tags)
    table = pd.DataFrame({"image": [str(source)]})
    (path,) = multiclass.predict(table, output_dir=tmp_path / "out", tile=tile)
    assert Path(path).name == "field.tif" and georeference(path) == georeference(source) != ()
    np.testing.assert_array_equal(tifffile.imread(path), multiclass.predict(str(source), tile=tile))
