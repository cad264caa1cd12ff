"""A fault at a random moment of a fit ends in a usable model, or in an error that says what is kept where."""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import SemsegError
from semseg_automl.data import dataset, images
from semseg_automl.data.datasets import make_textures
from semseg_automl.models.segmenter import Segmenter
from tests.integration.quick import tiny

HYPER = {"max_epochs": 3, "image_size": 64, "num_experts": 2, "rank": 2, "batch_size": 2}
Patch = pytest.MonkeyPatch


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Six pictures of its own for each test: a fault may remove one."""
    return make_textures(tmp_path / "pictures", n=6, size=(64, 64), n_classes=3, seed=0)


def full_disk(monkeypatch: Patch, table: pd.DataFrame, rng: random.Random) -> str:
    """From one write on, for a few writes or for good, nothing can be flushed or put in place."""
    first, length = rng.randrange(1, 12), rng.choice((1, 3, 10**6))
    calls = itertools.count()
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def fails(*args: Any, real: Callable[..., Any] = real, **options: Any) -> Any:
            if first <= next(calls) < first + length:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **options)

        monkeypatch.setattr(os, name, fails)
    return f"disk full from write {first} on, {length} times"


def vanishing_picture(monkeypatch: Patch, table: pd.DataFrame, rng: random.Random) -> str:
    """A picture is removed, or cut in the middle, while another is read; nothing is held in memory."""
    monkeypatch.setattr(dataset, "_cache_size", lambda: 0)
    victim, moment = rng.choice(list(table["image"])), rng.randrange(1, 60)
    cut, calls, real = rng.random() < 0.5, itertools.count(), images.read_seen

    def read(source: Any, scaling: Any = None) -> np.ndarray:
        if next(calls) == moment:
            data = Path(victim).read_bytes()
            Path(victim).unlink()
            if cut:
                Path(victim).write_bytes(data[: len(data) // 2])
        return real(source, scaling)

    monkeypatch.setattr(dataset, "read_seen", read)
    return f"{Path(victim).name} {'cut' if cut else 'removed'} at reading {moment}"


def nan(monkeypatch: Patch, table: pd.DataFrame, rng: random.Random) -> str:
    """The network answers NaN in some passes, or from one pass on."""
    first, length = rng.randrange(0, 25), rng.choice((1, 4, 10**6))
    calls = itertools.count()

    def spoilt(logits: torch.Tensor) -> torch.Tensor:
        return logits * torch.nan if first <= next(calls) < first + length else logits

    _wrap_network(monkeypatch, spoilt)
    return f"NaN from pass {first} on, {length} times"


def out_of_memory(monkeypatch: Patch, table: pd.DataFrame, rng: random.Random) -> str:
    """Some passes find no memory, in the words of CUDA, of torch on the CPU, or of Python."""
    first, length = rng.randrange(0, 25), rng.choice((1, 4, 10**6))
    error = rng.choice(
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
            MemoryError(),
        )
    )
    calls = itertools.count()

    def starved(logits: torch.Tensor) -> torch.Tensor:
        if first <= next(calls) < first + length:
            raise error
        return logits

    _wrap_network(monkeypatch, starved)
    return f"{type(error).__name__} from pass {first} on, {length} times"


def _wrap_network(monkeypatch: Patch, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for name in ("forward", "forward_stem"):
        real = getattr(Segmenter, name)

        def wrapped(self: Segmenter, x: torch.Tensor, real: Callable[..., Any] = real) -> torch.Tensor:
            return change(real(self, x))

        monkeypatch.setattr(Segmenter, name, wrapped)


FAULTS = (full_disk, vanishing_picture, nan, out_of_memory)


def check(seed: int, table: pd.DataFrame, path: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Fit with the fault of a seed and judge how it ends; returns that in words."""
    fault, rng = FAULTS[seed % len(FAULTS)], random.Random(seed)
    tune = {"num_trials": 2} if rng.random() < 0.3 else None
    pristine = table["image"].map(lambda name: np.array(images.read_image(name)))
    with pytest.MonkeyPatch.context() as monkeypatch:
        what = fault(monkeypatch, table, rng)
        try:
            seg = tiny(path, verbosity=1).fit(
                table, hyperparameters=HYPER, hyperparameter_tune_kwargs=tune, devices="cpu"
            )
        except SemsegError as error:
            ending, seg = f"{type(error).__name__}: {error}", None
    if seg is not None:
        masks = seg.predict(list(pristine))
        stored = seg.path_ if (seg.path_ / "current.json").is_file() else None
        if stored is None:
            assert "only in this process" in caplog.text, f"{what}: not stored, and not told"
            stored = seg.save(path / "later")
        again = SemanticSegmentor.load(stored, verbosity=0).predict(list(pristine))
        assert all(np.array_equal(a, b) for a, b in zip(masks, again, strict=True)), what
        return f"{what}: a model"
    assert str(path) in ending, f"{what}: {ending}"
    if f"The best model so far is kept in {path}" in ending:
        SemanticSegmentor.load(path, verbosity=0).predict(list(pristine))
    else:
        assert f"No model is kept in {path}" in ending and not (path / "current.json").exists(), what
    return f"{what}: {ending}"


@pytest.mark.parametrize("seed", range(4))
def test_one_fault_of_each_kind(
    seed: int, table: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check(seed, table, tmp_path / "m", caplog)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(100, 150))
def test_fifty_faults(
    seed: int, table: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    print(check(seed, table, tmp_path / "m", caplog))


def test_a_disk_that_stays_full_leaves_the_model_in_memory_and_says_so(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("current.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    seg = tiny(tmp_path / "m", verbosity=1).fit(table, hyperparameters=HYPER, hyperparameter_tune_kwargs=None)
    assert "No space left on device" in caplog.text and "call save(path)" in caplog.text
    monkeypatch.undo()
    assert len(SemanticSegmentor.load(seg.save(tmp_path / "other"), verbosity=0).predict(table)) == 6


def test_a_disk_that_has_room_again_at_the_end_gets_the_model(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    real, calls = os.replace, itertools.count()

    def full_once(source: Any, target: Any) -> None:
        if Path(target).name.startswith("v-") and next(calls) == 0:  # the model's first version
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full_once)
    seg = tiny(tmp_path / "m", verbosity=1).fit(table, hyperparameters=HYPER, hyperparameter_tune_kwargs=None)
    assert "tries again at its end" in caplog.text and seg.path_ == tmp_path / "m"
    assert len(SemanticSegmentor.load(tmp_path / "m", verbosity=0).predict(table)) == 6
