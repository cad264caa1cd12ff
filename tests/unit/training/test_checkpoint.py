"""A run that was stopped after a validation goes on as if nothing had happened."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from semseg_automl.core.errors import ArtifactError, ConfigError
from semseg_automl.training import checkpoint as checkpoint_file
from semseg_automl.training.batches import EndlessBatches
from semseg_automl.training.checkpoint import read_checkpoint, spent_seconds
from semseg_automl.training.fit import train
from semseg_automl.training.job import Hooks, TrainJob
from tests.unit.training.test_fit import same

Make = Callable[..., TrainJob]


class Killed(Exception):
    """Stands for the end of the process, right after a state was written."""


def killed_at(job: TrainJob, rung: int, **hooks: Any) -> None:
    """Run a job up to its ``rung``-th validation (from 1)."""
    seen: list[int] = []

    def report(step: int, _score: float) -> bool:
        seen.append(step)
        if len(seen) == rung:
            raise Killed
        return False

    with pytest.raises(Killed):
        train(job, Hooks(report=report, **hooks))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("rung", [1, 2])
def test_a_run_that_goes_on_ends_bit_equal(optimizer: str, rung: int, make_job: Make, tmp_path: Path) -> None:
    """Weights, moments, average, schedule, pictures, augmentation and noise: without a clock, all of it."""
    job = make_job(max_steps=12, batch_size=3, augment="strong", crop_size=48, optimizer=optimizer)
    whole = train(job)
    job = replace(job, checkpoint=str(tmp_path / "run" / "state.safetensors"))
    killed_at(job, rung)
    state = read_checkpoint(str(job.checkpoint))
    assert state is not None and 0 < state.step < 12 and len(state.history) == rung
    first: list[float] = []
    rest = train(job, Hooks(progress=lambda event: first.append(event["step"])))
    assert first[0] == state.step + 1 and rest.steps == 12  # no step was repeated
    assert same(whole.model, rest.model) and rest.score == whole.score
    assert [h[::2] for h in rest.history] == [h[::2] for h in whole.history]


def test_a_finished_run_comes_back_at_once(make_job: Make, tmp_path: Path) -> None:
    job = make_job(max_steps=4, checkpoint=str(tmp_path / "state.safetensors"))
    done = train(job)
    steps: list[float] = []
    again = train(job, Hooks(progress=lambda event: steps.append(event["step"])))
    assert not steps and same(done.model, again.model)
    assert (again.state, again.steps, again.score) == ("finished", 4, done.score)


def test_without_time_the_best_so_far_comes_back(make_job: Make, tmp_path: Path) -> None:
    job = make_job(max_steps=400, checkpoint=str(tmp_path / "state.safetensors"))
    killed_at(job, 2)
    state = read_checkpoint(str(job.checkpoint))
    result = train(job, Hooks(remaining=lambda: 0.0))
    assert state is not None and same(result.model, state.model)
    assert (result.state, result.steps, result.score) == ("time", state.step, state.best.score)


def test_the_clock_counts_what_was_spent(make_job: Make, tmp_path: Path) -> None:
    """The schedule goes on where it was: the second part's first rate is not the warm-up's."""
    job = make_job(max_steps=100_000, checkpoint=str(tmp_path / "state.safetensors"))
    killed_at(job, 1, remaining=lambda: 6.0)  # validated every half second
    state = read_checkpoint(str(job.checkpoint))
    assert state is not None
    path = Path(str(job.checkpoint))
    checkpoint_file.write_checkpoint(replace(state, seconds=60.0), path)
    fractions: list[float] = []
    train(
        job,
        Hooks(
            remaining=lambda: 60.0,
            progress=lambda event: fractions.append(event["fraction"]),
            stop_requested=lambda: bool(fractions),
        ),
    )
    assert fractions[0] == pytest.approx(0.5, abs=0.05)


def test_all_that_is_written_comes_back(make_job: Make, tmp_path: Path) -> None:
    job = make_job(max_steps=8, checkpoint=str(tmp_path / "state.safetensors"))
    killed_at(job, 1)
    state = read_checkpoint(str(job.checkpoint))
    assert state is not None
    odd = replace(state.best, per_image=(0.5, math.nan), metrics={"iou": math.nan})
    checkpoint_file.write_checkpoint(replace(state, best=odd), tmp_path / "copy")
    again = read_checkpoint(tmp_path / "copy")
    assert again is not None and again.config == state.config and again.history == state.history
    assert str(again.best) == str(odd) and again.peak == state.peak and same(again.model, state.model)
    for part in ("weights", "average", "optimizer", "noise"):
        old, new = getattr(state, part), getattr(again, part)
        assert old.keys() == new.keys() and all(torch.equal(old[k], new[k]) for k in old)
    assert spent_seconds(tmp_path / "copy") == state.seconds > 0.0
    assert spent_seconds(tmp_path / "nothing") is None
    assert not list(tmp_path.glob(".writing-*"))


def test_a_damaged_file_and_another_network_are_told(make_job: Make, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    job = make_job(max_steps=8, checkpoint=str(path))
    killed_at(job, 1)
    with pytest.raises(ConfigError, match=r"rank \(4 -> 8\)"):
        train(replace(job, config=job.config.replace(rank=8)))
    plain = train(job).score
    killed_at(replace(job, checkpoint=f"{path}2", config=job.config.replace(gradient_checkpointing=True)), 1)
    again = train(replace(job, checkpoint=f"{path}2"))  # memory ran out once, the next leg asks without it
    assert again.score == pytest.approx(plain, abs=1e-6)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="Delete the file"):
        train(job)
    assert read_checkpoint(tmp_path / "nothing") is None


def test_a_full_disk_ends_no_training(
    make_job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_file, "replace_file", full)
    result = train(make_job(max_steps=8, checkpoint=str(tmp_path / "state")))
    assert result.steps == 8 and len(result.history) > 1
    assert caplog.text.count("state can't be kept") == 1 and not os.listdir(tmp_path)


def test_a_state_that_is_too_large_is_not_kept(
    make_job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_file, "LARGEST", 1000)
    result = train(make_job(max_steps=2, checkpoint=str(tmp_path / "state")))
    assert result.steps == 2 and not os.listdir(tmp_path)


@pytest.mark.parametrize("skip", [1, 2, 7])
def test_batches_go_on_where_they_were(skip: int) -> None:
    def batches(n: int, **kwargs: int) -> list[Any]:
        stream = iter(EndlessBatches(5, 4, seed=3, **kwargs))
        return [next(stream) for _ in range(n)]

    assert batches(6, skip=skip) == batches(6 + skip)[skip:]
    assert batches(6, skip=skip, micro=2) == batches(2 * skip + 6, micro=2)[2 * skip :]
