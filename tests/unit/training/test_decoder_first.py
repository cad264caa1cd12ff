"""The decoder's own training before the run: what it changes, what it leaves, how long it may take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from semseg_automl.losses.registry import resolve_loss
from semseg_automl.training import decoder_first
from semseg_automl.training.decoder_first import train_decoder_first
from semseg_automl.training.fit import make_datasets, make_segmenter, train
from semseg_automl.training.job import Hooks, TrainJob

Make = Callable[..., TrainJob]


def loss_of(job: TrainJob, segmenter: torch.nn.Module) -> float:
    """Mean loss on the training pictures as they are."""
    data = make_datasets(job)[0]
    loss = resolve_loss(job.config.optim.loss, job.label_map.problem_type)
    total = 0.0
    with torch.no_grad():
        for i in range(len(data)):
            item = data[(0, i)]
            logits = segmenter(item["image"][None])
            logits = torch.nn.functional.interpolate(logits, size=item["mask"].shape, mode="bilinear")
            total += float(loss(logits, item["mask"][None]))
    return total / len(data)


@pytest.mark.parametrize("binary", [False, True])
def test_the_head_learns_and_nothing_else_changes(binary: bool, make_job: Make) -> None:
    job = make_job(binary=binary, decoder_steps=40)
    segmenter = make_segmenter(job).train()
    before, start = loss_of(job, segmenter), segmenter.trainable_state()
    state = torch.get_rng_state()
    seconds = train_decoder_first(segmenter, make_datasets(job)[0], job, Hooks(), 1000)
    assert torch.equal(torch.get_rng_state(), state) and segmenter.training
    adapter, head = segmenter.trainable_state()
    assert all(torch.equal(adapter[name], value) for name, value in start[0].items())
    assert torch.equal(head["gaussian_matrix"], start[1]["gaussian_matrix"])
    assert all(p.grad is None for p in segmenter.parameters())
    assert loss_of(job, segmenter) < 0.9 * before and seconds > 0


def test_the_seed_decides(make_job: Make) -> None:
    def head(seed: int) -> torch.Tensor:
        job = make_job(decoder_steps=5, seed=seed)
        segmenter = make_segmenter(replace(job, seed=0))
        train_decoder_first(segmenter, make_datasets(job)[0], job, Hooks(), 1000)
        return segmenter.trainable_state()[1]["mask_tokens"]

    assert torch.equal(head(3), head(3)) and not torch.equal(head(3), head(4))


def counted(monkeypatch: pytest.MonkeyPatch, job: TrainJob, hooks: Hooks, run_steps: int) -> int:
    """How many batches were made."""
    calls: list[int] = []
    real = decoder_first._batch
    monkeypatch.setattr(decoder_first, "_batch", lambda *a: calls.append(1) or real(*a))
    train_decoder_first(make_segmenter(job), make_datasets(job)[0], job, hooks, run_steps)
    return len(calls)


@pytest.mark.parametrize(("steps", "run", "made"), [(7, 1000, 7), (7, 6, 3), (7, 1, 0), (0, 1000, 0)])
def test_at_most_half_as_many_steps_as_the_run(
    steps: int, run: int, made: int, make_job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert counted(monkeypatch, make_job(decoder_steps=steps), Hooks(), run) == made


def test_time_and_ctrl_c_end_it(make_job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(decoder_steps=10_000)
    assert counted(monkeypatch, job, Hooks(remaining=lambda: 0.0), 10**6) == 0
    assert counted(monkeypatch, job, Hooks(stop_requested=lambda: True), 10**6) == 0
    assert 0 < counted(monkeypatch, job, Hooks(remaining=lambda: 5.0), 10**6) < 10_000


def test_pictures_of_several_shapes_go_in_batches_of_one_shape(make_job: Make) -> None:
    job = make_job(decoder_steps=6)
    data = make_datasets(job)[0]
    segmenter = make_segmenter(job)
    rng = decoder_first.np.random.default_rng(0)
    encoded = decoder_first._encode(segmenter, data, job, rng, math.inf)
    wide = [(f, torch.nn.functional.pad(m, (0, 32))) for f, m in encoded[:3]]
    for _ in range(20):
        features, masks = decoder_first._batch([*encoded, *wide], rng, 4)
        assert len(masks) == (3 if masks.shape[-1] == wide[0][1].shape[-1] else 4)
        assert features.embedding.shape[0] == len(masks)
    alone, mask = decoder_first._batch(encoded[:1], rng, 4)
    assert alone.embedding.shape[0] == 1 == len(mask)


def test_a_loss_that_is_not_finite_puts_the_head_back(
    make_job: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(decoder_steps=20)
    real, calls = resolve_loss(job.config.optim.loss, job.label_map.problem_type), []

    def broken(*arguments: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return real(*arguments, **more) * (math.nan if len(calls) > 3 else 1.0)

    monkeypatch.setattr(decoder_first, "resolve_loss", lambda *_: broken)
    segmenter = make_segmenter(job)
    start = segmenter.trainable_state()[1]
    train_decoder_first(segmenter, make_datasets(job)[0], job, Hooks(), 1000)
    assert all(torch.equal(value, start[name]) for name, value in segmenter.trainable_state()[1].items())
    assert "not finite" in caplog.text


def test_a_run_begins_with_it_unless_it_continues_a_model(
    make_job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semseg_automl.training import fit

    runs: list[int] = []
    monkeypatch.setattr(fit, "train_decoder_first", lambda *a: runs.append(a[-1]) or 1.5)
    job = make_job()
    first = train(job)
    assert runs == [first.steps] and first.train_seconds > 1.5
    train(replace(job, init=first.model))
    assert len(runs) == 1
