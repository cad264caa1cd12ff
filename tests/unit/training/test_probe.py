"""What the probe of the speed times: the losses that training runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from semseg_automl.training import losses, probe
from semseg_automl.training.job import TrainJob

Make = Callable[..., TrainJob]
STEPS = 4  # the warm-up and three timed ones


def time_steps(job: TrainJob) -> None:
    assert probe.time_steps(job, (64, 64), 2, ("32-true",), time.perf_counter() + 60.0)["32-true"].train > 0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The name and the last argument by position of each call of a loss whose name is listed here."""
    made: list[tuple[str, Any]] = []

    def counted(name: str) -> None:
        real = getattr(losses, name)

        def call(*given: Any, **named: Any) -> Tensor:
            made.append((name, given[-1]))
            return real(*given, **named)

        monkeypatch.setattr(losses, name, call)

    for name in ("matching_loss", "collect_balance_loss"):
        counted(name)
    return made


def count(calls: list[tuple[str, Any]], name: str) -> int:
    return sum(called == name for called, _ in calls)


@pytest.mark.parametrize("loss, matched", [("auto", STEPS), ("ce_dice", 0)])
def test_queries_are_matched_where_training_matches_them(
    make_job: Make, calls: list[tuple[str, Any]], loss: str, matched: int
) -> None:
    time_steps(make_job(head="mask_classification", num_queries=4, loss=loss))
    assert count(calls, "matching_loss") == matched
    assert count(calls, "collect_balance_loss") == STEPS


def test_a_picture_of_noise_shows_as_many_classes_as_a_real_one(
    make_job: Make, calls: list[tuple[str, Any]]
) -> None:
    """Matching pays by the class: a picture that shows all of a table's 100 is no picture of it."""
    job = make_job(head="mask_classification", num_queries=4)
    real = np.zeros((64, 80), np.uint8)
    real[:, 40:] = 2
    plain = np.zeros_like(real)
    masks = (plain, plain, real, *[plain] * (len(job.train) - 3))  # not among the first two
    time_steps(replace(job, train=replace(job.train, masks=masks)))
    assert job.label_map.n_classes == 3
    targets = [target for name, target in calls if name == "matching_loss"]
    assert all(picture.unique().numel() == 2 for target in targets for picture in target)
    time_steps(replace(job, train=replace(job.train, masks=None)))


@pytest.mark.parametrize("scheme", ["none", "balanced"])
def test_weights_are_timed_without_reading_every_mask(
    make_job: Make, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    given: list[Any] = []

    def loss(logits: Tensor, _target: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
        given.append(class_weights)
        return logits.mean()

    monkeypatch.setattr(losses, "resolve_loss", lambda *_names: loss)
    monkeypatch.setattr(probe, "read_mask", lambda *_given: pytest.fail("a mask was read"))
    time_steps(make_job(class_weights=scheme))
    assert len(given) == STEPS
    assert all((weights is None) == (scheme == "none") for weights in given)
