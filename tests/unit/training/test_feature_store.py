"""Entries on disk: whole or absent, bounded, shared, and given up with a word where the disk is full."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from semseg_automl.training.feature_store import (
    FeatureStore,
    default_limit,
    make_store_folder,
    remove_store_folder,
)

KEY, OTHER = "ab" + "0" * 62, "cd" + "1" * 62


def maps(value: float = 1.0, side: int = 4) -> dict[str, Tensor]:
    x = torch.full((1, side, side, 3), value)
    return {"x": x, "half": (2 * x).to(torch.bfloat16), "turned": x.transpose(1, 2)}


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


def test_an_entry_comes_back_bit_by_bit(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "deep" / "store")
    assert store.get(KEY) is None and store.put(KEY, maps(1.5))
    found = FeatureStore(tmp_path / "deep" / "store").get(KEY)
    assert found is not None and found.keys() == maps().keys() and store.get(OTHER) is None
    for name, x in maps(1.5).items():
        assert found[name].dtype == x.dtype and torch.equal(found[name], x)


def test_the_bound_counts_what_lay_there_and_what_others_wrote(tmp_path: Path) -> None:
    size = sum(x.nbytes for x in maps().values())
    first = FeatureStore(tmp_path, limit=4 * size)
    assert [first.put(f"{i:064d}", maps()) for i in range(9)].count(True) == 4 and first.writable
    assert not FeatureStore(tmp_path, limit=4 * size).put(KEY, maps())
    assert len(files(tmp_path)) == 4
    assert default_limit(tmp_path) > 0


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_broken_entry_is_absent_and_is_replaced(damage: bytes | None, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.put(KEY, maps())
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    assert store.get(KEY) is None
    assert store.put(KEY, maps(3.0)) and torch.equal(store.get(KEY)["x"], maps(3.0)["x"])  # type: ignore[index]


def test_a_full_disk_is_told_once_and_what_is_there_is_still_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resource = pytest.importorskip("resource", reason="POSIX only: a limit on file sizes plays the full disk")
    store = FeatureStore(tmp_path)
    store.put(KEY, maps())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        assert not store.put(OTHER, maps(side=200)) and not store.writable
        assert not store.put(OTHER, maps())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.get(KEY) is not None and len(files(tmp_path)) == 1
    assert [r.levelname for r in caplog.records] == ["WARNING"] and "computed anew" in caplog.text


def test_a_folder_that_can_not_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = FeatureStore(tmp_path / "file" / "store")
    assert not store.writable and not store.put(KEY, maps()) and store.get(KEY) is None
    assert "computed anew" in caplog.text


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    old = make_store_folder(tmp_path)
    assert old is not None
    FeatureStore(Path(old)).put(KEY, maps())
    new = make_store_folder(tmp_path)
    assert [str(p) for p in tmp_path.iterdir()] == [new]
    remove_store_folder(new)
    remove_store_folder(None)
    assert make_store_folder(tmp_path / "absent") is None


WRITER = """
import sys
from pathlib import Path
import torch
from semseg_automl.training.feature_store import FeatureStore
store = FeatureStore(Path(sys.argv[1]))
for turn in range(3):
    for i in range(40):
        found = store.get(f"{i:064d}")
        assert found is None or bool((found["x"] == i).all()), i
        store.put(f"{i:064d}", {"x": torch.full((1, 64, 64, 8), float(i))})
"""


def test_processes_and_threads_write_the_same_entries_at_once(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
    wrong: list[int] = []

    def work() -> None:
        store = FeatureStore(tmp_path)
        while other.poll() is None:
            for i in range(40):
                found = store.get(f"{i:064d}")
                if found is not None and not bool((found["x"] == i).all()):
                    wrong.append(i)
                store.put(f"{i:064d}", {"x": torch.full((1, 64, 64, 8), float(i))})
            threading.Event().wait(0.1)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert other.wait(120) == 0
    for thread in threads:
        thread.join()
    assert not wrong and len(files(tmp_path)) == 40
