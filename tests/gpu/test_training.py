"""One training on CUDA, seen from inside: precision, a run that goes on, memory that runs out, two GPUs."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

from semseg_automl.core.errors import DeviceMemoryError, SemsegError
from semseg_automl.models.devices import give_back_memory
from semseg_automl.search.trial import run_trial
from semseg_automl.training import launch
from semseg_automl.training.checkpoint import read_checkpoint
from semseg_automl.training.fit import train
from semseg_automl.training.job import Hooks, TrainJob
from semseg_automl.training.launch import train_on_devices
from tests.integration.quick import SMALL, tiny
from tests.integration.test_ddp import job as ddp_job  # noqa: F401 (a fixture)
from tests.unit.training.conftest import make_job  # noqa: F401 (a fixture)

pytestmark = pytest.mark.gpu
MIB = 2**20


@pytest.fixture
def on_gpu(make_job: Callable[..., TrainJob]) -> Callable[..., TrainJob]:  # noqa: F811
    """``make_job`` for the first GPU, without augmentation."""
    return lambda **changes: make_job(
        **{"accelerator": "cuda", "augment": "none", "max_steps": 60, "batch_size": 4, **changes}
    )


def test_bfloat16_trains_as_well_as_float32(on_gpu: Callable[..., TrainJob]) -> None:
    scores = {name: train(on_gpu(precision=name)).score for name in ("32-true", "bf16-mixed")}
    assert scores["bf16-mixed"] == pytest.approx(scores["32-true"], abs=0.1)


@pytest.mark.usefixtures("full_float32")
def test_cuda_learns_what_a_cpu_learns(on_gpu: Callable[..., TrainJob]) -> None:
    """The first steps are the same to rounding; dense routing has no noise, whose numbers would differ."""
    rates = {"optimizer": "sgd", "learning_rate": 0.05, "decoder_learning_rate": 0.05}
    job = on_gpu(routing="dense", max_steps=5, ema_decay=0.0, **rates)
    found, wanted = train(job), train(replace(job, accelerator="cpu"))
    moved = 0.0
    for part in ("adapter", "head"):
        start = getattr(train(replace(job, max_steps=1, accelerator="cpu")).model, part)
        for name, value in getattr(wanted.model, part).items():
            torch.testing.assert_close(getattr(found.model, part)[name], value, rtol=0, atol=1e-4)
            moved = max(moved, float((value - start[name]).abs().max()))
    assert moved > 1e-2  # a hundred times what is allowed
    assert found.score == pytest.approx(wanted.score, abs=0.02)


def test_a_run_that_was_stopped_goes_on(on_gpu: Callable[..., TrainJob], tmp_path: Path) -> None:
    """Weights, average, optimiser and the device's generator come back from the file."""
    job = on_gpu(checkpoint=str(tmp_path / "state.safetensors"), max_steps=40)
    seen: list[Any] = []
    hooks = Hooks(progress=seen.append, stop_requested=lambda: len(seen) >= 20)
    assert train(job, hooks).state == "interrupted"
    state = read_checkpoint(str(job.checkpoint))
    assert state is not None and "cuda" in state.noise and 0 < state.step < 40
    result = train(job)
    assert result.steps == 40 and result.state == "finished" and result.score > 0


def test_a_training_leaves_little_on_the_device(on_gpu: Callable[..., TrainJob]) -> None:
    train(on_gpu(max_steps=3))
    give_back_memory("cuda")
    before = torch.cuda.memory_allocated()
    for _ in range(2):
        train(on_gpu(max_steps=3))
    give_back_memory("cuda")
    assert torch.cuda.memory_allocated() <= before + 8 * MIB


@pytest.fixture
def limited() -> Iterator[Callable[[float], None]]:
    """``limited(mib)``: the allocator gets so much beyond what it holds; lifted after the test."""

    def limit(mib: float) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + mib * MIB) / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    gc.collect()
    torch.cuda.empty_cache()


LARGE: dict[str, Any] = {"image_size": 768, "batch_size": 8, "crop_size": 768, "max_steps": 2}


def test_a_batch_too_large_is_halved(
    on_gpu: Callable[..., TrainJob], limited: Callable[[float], None]
) -> None:
    job = on_gpu(**LARGE)
    whole = train(job).peak_memory_mb
    limited(0.6 * whole)
    attempt = run_trial(job, Hooks())
    assert "Out of memory" in attempt.reason and attempt.result is not None
    assert attempt.result.score > 0 and attempt.result.peak_memory_mb < 0.7 * whole


def test_a_fit_without_memory_ends_in_words(
    textures: pd.DataFrame, tmp_path: Path, limited: Callable[[float], None]
) -> None:
    """Less than the network takes: our own error, and the next fit is as if nothing had been."""
    hyper = {"hyperparameters": SMALL, "hyperparameter_tune_kwargs": None}
    torch.zeros(1, device="cuda")
    limited(1.0)
    with pytest.raises(SemsegError, match=r"[Mm]emory"):
        tiny(tmp_path / "none").fit(textures, **hyper)
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert tiny(tmp_path / "some").fit(textures, **hyper).best_score_ > 0


def test_a_prediction_halves_its_batch(
    textures: pd.DataFrame,
    tmp_path: Path,
    limited: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    hyper = {**SMALL, "image_size": 1024}
    seg = tiny(tmp_path / "m", verbosity=1).fit(
        textures[:6], hyperparameters=hyper, hyperparameter_tune_kwargs=None
    )
    expected = seg.predict(textures, batch_size=1, tta=False)
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.empty_cache()
    seg.predict(textures[:1], batch_size=1, tta=False)
    one = torch.cuda.max_memory_allocated() / MIB
    limited(2.5 * one + 64)
    with caplog.at_level(logging.WARNING, logger="semseg_automl"):
        found = seg.predict(textures, batch_size=12, tta=False)
    assert "halving it" in caplog.text
    assert all((a == b).mean() > 0.99 for a, b in zip(found, expected, strict=True))
    limited(1.0)
    with Image.open(textures["image"].iloc[0]) as picture:  # of a shape for which nothing is recorded yet
        picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png")
    with pytest.raises(DeviceMemoryError, match="tile="):
        seg.predict([tmp_path / "turned.png"], batch_size=1, tta=False)


@pytest.fixture
def two_gpus() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(reason=f"two CUDA devices are needed, there are {torch.cuda.device_count()}")


def test_two_processes_equal_one(two_gpus: None, ddp_job: TrainJob) -> None:  # noqa: F811
    """As with gloo on CPUs (tests/integration/test_ddp.py), on two GPUs with NCCL."""
    job = replace(ddp_job, accelerator="cuda")
    together, alone = train_on_devices(job), train(replace(job, device_ids=(0,)))
    assert together.steps == alone.steps
    for part in ("adapter", "head"):
        ours, theirs = getattr(together.model, part), getattr(alone.model, part)
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-2)
    assert together.score == pytest.approx(alone.score, abs=0.02)


def test_a_process_of_its_own_equals_this_one(ddp_job: TrainJob, tmp_path: Path) -> None:  # noqa: F811
    """A training that is started as the several ones are, from files, on one GPU."""
    job = replace(ddp_job, accelerator="cuda", device_ids=(0,))
    apart, here = launch._train_in_processes(job, Hooks(), tmp_path), train(job)
    assert apart.steps == here.steps and apart.score == pytest.approx(here.score, abs=0.02)
